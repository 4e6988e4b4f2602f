"""What others need to use an adapter."""


rule write_model_card:
    """Write an adapter's model card. A rule of its own, so that an edit of the card trains nothing again."""
    input:
        weights="results/runs/{model}/{method}/{dataset}/seed{seed}/adapter/adapter_model.safetensors",
        config="results/runs/{model}/{method}/{dataset}/seed{seed}/adapter/adapter_config.json",
        spec="results/runs/{model}/{method}/{dataset}/seed{seed}/spec.json",
        log="results/runs/{model}/{method}/{dataset}/seed{seed}/train_log.jsonl",
        telemetry="results/runs/{model}/{method}/{dataset}/seed{seed}/telemetry.jsonl",
        dataset="results/datasets/{dataset}/card.json",
        student="resources/models/{model}/student/lock.json",
    output:
        card="results/runs/{model}/{method}/{dataset}/seed{seed}/adapter/README.md",
        # PEFT writes a README of its own beside the weights: this file alone says that ours has been written
        data="results/runs/{model}/{method}/{dataset}/seed{seed}/model_card.json",
    log:
        "logs/write_model_card/{model}.{method}.{dataset}.seed{seed}.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        base=section("models", "model"),
        run=lambda w: f"{w.model}/{w.method}/{w.dataset}/seed{w.seed}",
        adapter=lambda w, input: os.path.dirname(input.weights),
    shell:
        "exec python scripts/write_model_card.py --run {params.run} --base {params.base:q} --student {input.student}"
        " --spec {input.spec} --adapter {params.adapter} --log {input.log} --telemetry {input.telemetry}"
        " --dataset {input.dataset} --out {output.card} --data {output.data} 2> {log}"
