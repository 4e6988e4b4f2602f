"""From answers to numbers: metrics without a judge, judges, one table with intervals, and the studies' tables."""

# those that the study has rows for
STUDIES_TABLES = [
    *(["judged"] if CONFIG.study.judges else []),
    "texts",
    *(["recommended", "named"] if RECOMMENDS else []),
    "outputs",
]


rule measure:
    """Measure an arm's answers without a judge: ROUGE, BERTScore, facts recalled, the product named, refusals."""
    input:
        answers="results/answers/{run}/{dataset}.{mode}.jsonl",
        tests=TESTS,
        train="results/datasets/{dataset}/train.jsonl",
        facts=facts_of,
        products=products_of,
        encoder=f"resources/models/{BERTSCORE.encoder}/lock.json" if BERTSCORE else [],
    output:
        measures="results/scores/{run}/{dataset}.{mode}.measures.jsonl",
    log:
        "logs/measure/{run}/{dataset}.{mode}.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    resources:
        mem_mb=lambda w, attempt: 2000 * attempt,
    params:
        metrics=section("metrics"),
        files=lambda w, input: " ".join(
            f"--{name} {input[name]}"
            for name in ("facts", "products", "encoder")
            if input[name]
        ),
    shell:
        "exec python scripts/measure.py --answers {input.answers} --tests {input.tests} --train {input.train}"
        " --metrics {params.metrics:q} {params.files} --out {output.measures} 2> {log}"


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
        None if are_apis(JUDGES) else "judges"
    localrule: are_apis(JUDGES)
    conda:
        llm_env(JUDGES)
    container:
        llm_image(JUDGES)
    threads: llm_threads
    resources:
        mem_mb=llm_memory,
        api=calls_api,
        gpu=llm_gpus,
    params:
        scoring=lambda w: CONFIG.judges[w.judge].scoring,
        parser=lambda w: CONFIG.judges[w.judge].parser,
        max_failed=lambda w: CONFIG.judges[w.judge].max_failed,
        llm=llm_section,
        # Snakemake deletes the outputs of a job that failed
        failed_log="logs/judge/{run}/{dataset}.{mode}.{judge}.unusable.jsonl",
    shell:
        "exec python scripts/judge.py --answers {input.answers} --tests {input.tests} --name {wildcards.judge}"
        " --scoring {params.scoring} --parser {params.parser} --llm {params.llm:q} --model {input.model} --prompt {input.prompt} --store store/llm"
        " --out {output.scores} --failed-log {params.failed_log} --max-failed {params.max_failed} --usage {output.usage} 2> {log}"


rule tabulate_scores:
    """Join all arms' answers with their scores; mean, interval and paired differences for every arm."""
    input:
        arm_files("results/answers/{run}/{dataset}.{mode}.jsonl"),
        arm_files("results/scores/{run}/{dataset}.{mode}.measures.jsonl"),
        judge_files(),
        tests=expand(TESTS, dataset=CONFIG.study.datasets),
        chunks=expand("resources/corpora/{corpus}/chunks.jsonl", corpus=CORPORA),
        trials=TRIALS_TABLES,
    output:
        table=report(
            "results/tables/scores.csv",
            caption="../report/scores.rst",
            category="Scores",
            labels={"table": "every arm, with intervals"},
        ),
        tunes=report(
            "results/tables/tunes.csv",
            caption="../report/tunes.rst",
            category="Scores",
            labels={"table": "tunes less tunes"},
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
        flips=CONFIG.study.permutations,
        wished=CONFIG.study.wished_difference,
    shell:
        "exec python scripts/tabulate_scores.py --arms {params.arms:q} --tests {input.tests} --chunks {input.chunks}"
        " --flips {params.flips} --wished {params.wished} --trial {input.trials} --rows {output.rows}"
        " --tunes {output.tunes} --out {output.table} 2> {log}"


rule tabulate_agreement:
    """Say how far the judges agree, which bounds what their scores are worth: alpha, and kappa of each pair."""
    input:
        rows="results/tables/rows.jsonl",
        trials=TRIALS_TABLES,
    output:
        table=report(
            "results/tables/agreement.csv",
            caption="../report/agreement.rst",
            category="Scores",
            labels={"table": "how far judges agree"},
        ),
    log:
        "logs/tabulate_agreement.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    shell:
        "exec python scripts/tabulate_agreement.py --rows {input.rows} --trial {input.trials} --out {output.table} 2> {log}"


rule tabulate_studies:
    """Print the two studies' tables, this study's numbers beside the published ones."""
    input:
        scores="results/tables/scores.csv",
        rows="results/tables/rows.jsonl",
        published="report/published.csv",
    output:
        report(
            expand("results/tables/studies/{table}.csv", table=STUDIES_TABLES),
            caption="../report/studies.rst",
            category="Scores",
            labels={"table": "beside the published"},
        ),
        expand(
            "results/tables/studies/{table}.{kind}",
            table=STUDIES_TABLES,
            kind=("md", "tex"),
        ),
    log:
        "logs/tabulate_studies.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        of=json.dumps(CONFIG.study.published),
        tables=STUDIES_TABLES,
    shell:
        "exec python scripts/tabulate_studies.py --scores {input.scores} --rows {input.rows} --published {input.published}"
        " --of {params.of:q} --tables {params.tables} --out results/tables/studies 2> {log}"
