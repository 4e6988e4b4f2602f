"""From answers to numbers: metrics without a judge, judges, and one table with intervals."""


rule measure:
    """Measure an arm's answers without a judge: ROUGE-L and the facts recalled."""
    input:
        answers="results/answers/{run}/{dataset}.{mode}.jsonl",
        tests=TESTS,
        train="results/datasets/{dataset}/train.jsonl",
        facts=facts_of,
    output:
        measures="results/scores/{run}/{dataset}.{mode}.measures.jsonl",
    log:
        "logs/measure/{run}/{dataset}.{mode}.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        facts=lambda w, input: f"--facts {input.facts}" if input.facts else "",
    shell:
        "exec python scripts/measure.py --answers {input.answers} --tests {input.tests} --train {input.train}"
        " {params.facts} --out {output.measures} 2> {log}"


rule judge:
    """Have a judge score an arm's answers from 1 to 5 against the reference answers."""
    input:
        answers="results/answers/{run}/{dataset}.{mode}.jsonl",
        tests=TESTS,
        model=llm_lock,
        prompt=lambda w: CONFIG.judges[w.judge].prompt,
    output:
        scores="results/scores/{run}/{dataset}.{mode}.judge-{judge}.jsonl",
        usage="results/costs/judge/{run}/{dataset}.{mode}.{judge}.usage.json",
    log:
        "logs/judge/{run}/{dataset}.{mode}.{judge}.log",
    benchmark:
        "results/costs/judge/{run}/{dataset}.{mode}.{judge}.tsv"
    # not in the profile: Snakemake submits a local rule that has a group
    group:
        None if JUDGING_IS_LOCAL else "judges"
    localrule: JUDGING_IS_LOCAL
    conda:
        LLM_ENV
    container:
        LLM_IMAGE
    threads: llm_threads
    resources:
        mem_mb=llm_memory,
        api=calls_api,
        gpu=llm_gpus,
    params:
        scoring=lambda w: CONFIG.judges[w.judge].scoring,
        max_failed=lambda w: CONFIG.judges[w.judge].max_failed,
        llm=llm_section,
        # Snakemake deletes the outputs of a job that failed
        failed_log="logs/judge/{run}/{dataset}.{mode}.{judge}.unusable.jsonl",
    shell:
        "exec python scripts/judge.py --answers {input.answers} --tests {input.tests} --name {wildcards.judge}"
        " --scoring {params.scoring} --llm {params.llm:q} --model {input.model} --prompt {input.prompt} --store store/llm"
        " --out {output.scores} --failed-log {params.failed_log} --max-failed {params.max_failed} --usage {output.usage} 2> {log}"


rule tabulate_scores:
    """Join all arms' answers with their scores; n, mean, sd, interval and paired difference for every arm."""
    input:
        arm_files("results/answers/{run}/{dataset}.{mode}.jsonl"),
        arm_files("results/scores/{run}/{dataset}.{mode}.measures.jsonl"),
        judge_files(),
        tests=expand(TESTS, dataset=CONFIG.study.datasets),
        chunks=expand("resources/corpora/{corpus}/chunks.jsonl", corpus=CORPORA),
    output:
        table=report(
            "results/tables/scores.csv",
            caption="../report/scores.rst",
            category="Scores",
            labels={"table": "every arm, with intervals"},
        ),
        rows="results/tables/rows.jsonl",
    log:
        "logs/tabulate_scores.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        arms=arm_table(),
        bootstrap=CONFIG.study.bootstrap,
    shell:
        "exec python scripts/tabulate_scores.py --arms {params.arms:q} --tests {input.tests} --chunks {input.chunks}"
        " --bootstrap {params.bootstrap} --rows {output.rows} --out {output.table} 2> {log}"
