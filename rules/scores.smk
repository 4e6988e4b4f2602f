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
    params:
        llm=llm_section,
    benchmark:
        "results/costs/judge/{run}/{dataset}.{mode}.{judge}.tsv"
    threads: 2
    resources:
        mem_mb=7000,
    shell:
        "exec python scripts/judge.py --answers {input.answers} --tests {input.tests} --name {wildcards.judge}"
        " --llm {params.llm:q} --model {input.model} --prompt {input.prompt} --store store/llm"
        " --out {output.scores} --usage {output.usage} 2> {log}"


def arm_table():
    """The arms and their files, as JSON for the table's script."""
    labels = {"closed": "closed book", "rag": "retrieval"}
    return json.dumps(
        [
            {
                "dataset": arm["dataset"],
                "label": f"{arm_name(arm['run'])}, {labels[arm['mode']]}",
                "answers": "results/answers/{run}/{dataset}.{mode}.jsonl".format(**arm),
                "measures": "results/scores/{run}/{dataset}.{mode}.measures.jsonl".format(**arm),
                "scores": [
                    f"results/scores/{{run}}/{{dataset}}.{{mode}}.judge-{judge}.jsonl".format(**arm)
                    for judge in CONFIG.study.judges
                ],
            }
            for arm in ARMS
        ]
    )


def arm_name(run):
    """What a reader calls a run: "X base", or "X lora on DATASET", with the seed where there are several."""
    model, *tuned = run.split("/")
    if tuned == ["base"]:
        return f"{model} base"
    method, dataset, seed = tuned
    return f"{model} {method} on {dataset}" + (f" ({seed})" if len(CONFIG.study.seeds) > 1 else "")


rule tabulate_scores:
    """Join all arms' answers with their scores; n, mean, sd, interval and paired difference for every arm."""
    input:
        arm_files("results/answers/{run}/{dataset}.{mode}.jsonl"),
        arm_files("results/scores/{run}/{dataset}.{mode}.measures.jsonl"),
        [
            arm_files("results/scores/{run}/{dataset}.{mode}.judge-" + judge + ".jsonl")
            for judge in CONFIG.study.judges
        ],
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
    params:
        arms=arm_table(),
        bootstrap=CONFIG.study.bootstrap,
    shell:
        "exec python scripts/tabulate_scores.py --arms {params.arms:q} --tests {input.tests} --chunks {input.chunks}"
        " --bootstrap {params.bootstrap} --rows {output.rows} --out {output.table} 2> {log}"
