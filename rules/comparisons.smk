"""Two arms side by side: a judge takes the better answer to each question, shown in both orders."""


rule compare:
    """Have a judge take the better of two arms' answers to each question, in both orders."""
    input:
        answers=lambda w: expand(
            "results/answers/{arm}.jsonl", arm=COMPARISONS[w.comparison].arms
        ),
        tests=tests_of_comparison,
        model=llm_lock,
        prompt=lambda w: COMPARISONS[w.comparison].prompt,
    output:
        choices="results/comparisons/{comparison}.jsonl",
        usage="results/costs/compare/{comparison}.usage.json",
    log:
        "logs/compare/{comparison}.log",
    benchmark:
        "results/costs/compare/{comparison}.tsv"
    # not in the profile: Snakemake submits a local rule that has a group
    group:
        None if are_apis(COMPARERS) else "judges"
    localrule: are_apis(COMPARERS)
    conda:
        llm_env(COMPARERS)
    container:
        llm_image(COMPARERS)
    threads: llm_threads
    resources:
        mem_mb=llm_memory,
        api=calls_api,
        gpu=llm_gpus,
    params:
        # which arm is the first is said by the order of inputs, and Snakemake knows those as a set
        arms=lambda w: COMPARISONS[w.comparison].arms,
        scoring=lambda w: CONFIG.judges[COMPARISONS[w.comparison].judge].scoring,
        llm=llm_section,
    shell:
        "exec python scripts/compare.py --answers {input.answers} --tests {input.tests} --name {wildcards.comparison}"
        " --scoring {params.scoring} --llm {params.llm:q} --model {input.model} --prompt {input.prompt} --store store/llm"
        " --out {output.choices} --usage {output.usage} 2> {log}"


rule tabulate_comparisons:
    """Tabulate the comparisons: win rates with intervals, and how far the order decides."""
    input:
        choices=expand("results/comparisons/{comparison}.jsonl", comparison=COMPARISONS),
        trials=TRIALS_TABLES,
    output:
        table=report(
            "results/tables/pairwise.csv",
            caption="../report/pairwise.rst",
            category="Scores",
            labels={"table": "arms in pairs"},
        ),
    log:
        "logs/tabulate_comparisons.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        comparisons=json.dumps(
            {name: each.model_dump() for name, each in COMPARISONS.items()}
        ),
    shell:
        "exec python scripts/tabulate_comparisons.py --comparisons {params.comparisons:q} --choices {input.choices}"
        " --trial {input.trials} --out {output.table} 2> {log}"
