"""What there is to know of the data sets before they are used: their cards, reviews, and what tests share with training."""


rule audit_leaks:
    """Count and list what every test set shares with every training set; more than is allowed ends the study."""
    input:
        splits=expand(
            "results/datasets/{dataset}/{split}.jsonl",
            dataset=MADE,
            split=["train", *tuneproof_study.TEST_SPLITS],
        ),
        encoder=audit_encoder(),
    output:
        table=report(
            "results/tables/leaks.csv",
            caption="../report/leaks.rst",
            category="Data",
            labels={"table": "what tests share with training"},
        ),
        text="results/tables/leaks.md",
        pairs="results/tables/leaks.jsonl",
    log:
        "logs/audit_leaks.log",
    benchmark:
        "results/costs/audit_leaks.tsv"
    priority: 1  # before what could start too: if it fails, the sooner the better
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    threads: 2
    params:
        folders=[f"results/datasets/{dataset}" for dataset in MADE],
        limits=CONFIG.study.leaks.model_dump_json(),
        accepted=[name for name, spec in MADE.items() if spec.accept_leaks],
    shell:
        "exec python scripts/audit_leaks.py --dataset {params.folders} --limits {params.limits:q} --accept {params.accepted}"
        " --encoder {input.encoder} --table {output.table} --text {output.text} --pairs {output.pairs} 2> {log}"


rule write_card:
    """Write a data set's card, and its splits as Parquet that `datasets.load_dataset` opens."""
    input:
        splits=SPLITS,
        funnel="results/datasets/{dataset}/funnel.json",
        types=card_types,
        encoder=card_encoder,
        models=card_models,
        decisions=decisions_of,
        prompts=lambda w: sorted(
            {p for s in lineage(w) for p in PROMPTS[s.kind]} | {*system_prompt(w)}
        ),
    output:
        card="results/datasets/{dataset}/card.md",
        data="results/datasets/{dataset}/card.json",
        readme="results/datasets/{dataset}/README.md",
        parquet=expand(
            "results/datasets/{{dataset}}/data/{split}.parquet",
            split=tuneproof_study.SPLITS,
        ),
    log:
        "logs/write_card/{dataset}.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        spec=section("datasets", "dataset"),
        corpus=card_corpus,
        api=lambda w: json.dumps(
            {llm: CONFIG.llms[llm].model for llm in llms_behind(w) if llm in APIS}
        ),
        folder=lambda w: f"results/datasets/{w.dataset}",
    shell:
        "exec python scripts/write_card.py --name {wildcards.dataset} --spec {params.spec:q} --corpus {params.corpus:q}"
        " --splits {input.splits} --funnel {input.funnel} --types {input.types} --encoder {input.encoder}"
        " --model {input.models} --api {params.api:q} --prompt {input.prompts}"
        " --decisions {input.decisions} --out {params.folder} 2> {log}"


rule review_pairs:
    """Write a data set's pairs for people to review, as a table and a page, and how far the reviews so far agree."""
    input:
        pairs="results/datasets/{dataset}/screened.jsonl",
        chunks=of_corpus("chunks.jsonl"),
        template="report/review.html.j2",
        decisions=decisions_of,
    output:
        table="review/{dataset}.csv",
        page="review/{dataset}.html",
        summary="review/{dataset}.txt",
    log:
        "logs/review_pairs/{dataset}.log",
    wildcard_constraints:
        dataset=of_kind("pairs"),
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    shell:
        "exec python scripts/review_pairs.py --name {wildcards.dataset} --pairs {input.pairs} --chunks {input.chunks}"
        " --template {input.template} --decisions {input.decisions} --table {output.table} --page {output.page}"
        " --summary {output.summary} 2> {log}"
