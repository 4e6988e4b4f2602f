"""Fine-tuning: one job per run of the study's grid."""


rule train:
    """Fine-tune one adapter; killed at any moment, the next attempt resumes."""
    input:
        train="results/datasets/{dataset}/train.jsonl",
        val="results/datasets/{dataset}/val.jsonl",
        student="resources/models/{model}/student/lock.json",
    output:
        weights="results/runs/{model}/{method}/{dataset}/seed{seed}/adapter/adapter_model.safetensors",
        config="results/runs/{model}/{method}/{dataset}/seed{seed}/adapter/adapter_config.json",
        log="results/runs/{model}/{method}/{dataset}/seed{seed}/train_log.jsonl",
        telemetry="results/runs/{model}/{method}/{dataset}/seed{seed}/telemetry.jsonl",
        spec="results/runs/{model}/{method}/{dataset}/seed{seed}/spec.json",
    log:
        "logs/train/{model}.{method}.{dataset}.seed{seed}.log",
    benchmark:
        "results/costs/train.{model}.{method}.{dataset}.seed{seed}.tsv"
    wildcard_constraints:
        method=one_of(WITH_ADAPTERS) or "(?!)",
    conda:
        GPU_ENV
    container:
        CONFIG.containers.gpu
    threads: 2
    resources:
        mem_mb=7000,
        gpu=lambda w: METHODS[w.method].devices,
        nodes=1,  # Slurm would spread the GPUs of one job over several
        runtime=0,  # minutes until the job is killed: the profile says; 0 is no limit
    params:
        spec=section("methods", "method"),
        environment=KEEP_MEMORY,
        run=lambda w: f"results/runs/{w.model}/{w.method}/{w.dataset}/seed{w.seed}",
        # not an output: Snakemake deletes the outputs of a failed attempt
        checkpoints=lambda w: f"checkpoints/{w.model}.{w.method}.{w.dataset}.seed{w.seed}",
        # of a sweep's variants one may, and the table says so; one that is answered and judged may not
        diverge=lambda w: (
            ""
            if f"{w.model}/{w.method}/{w.dataset}/seed{w.seed}" in TUNED
            else "--may-diverge"
        ),
    shell:
        # exec, so that a signal from Slurm reaches the trainer, not a bash in between
        "{params.environment} exec python scripts/train.py --spec {params.spec:q} --student {input.student} --train {input.train}"
        " --val {input.val} --seed {wildcards.seed} --checkpoints {params.checkpoints} --out {params.run}"
        " --devices {resources.gpu} --time-budget-min {resources.runtime} {params.diverge} > {log} 2>&1"


use rule train as train_full with:
    output:
        model="results/runs/{model}/{method}/{dataset}/seed{seed}/model/lock.json",
        log="results/runs/{model}/{method}/{dataset}/seed{seed}/train_log.jsonl",
        telemetry="results/runs/{model}/{method}/{dataset}/seed{seed}/telemetry.jsonl",
        spec="results/runs/{model}/{method}/{dataset}/seed{seed}/spec.json",
    wildcard_constraints:
        method=one_of(set(METHODS) - WITH_ADAPTERS) or "(?!)",
