"""Data sets: pairs written by an LLM, screened, worded in several ways, split by page."""


rule write_pairs:
    """Have an LLM write question-answer pairs about each chunk (D-Naive), each with a quote that supports it."""
    input:
        chunks=of_corpus("chunks.jsonl"),
        model=llm_lock,
        prompt="prompts/write_pairs.txt",
    output:
        written="results/datasets/{dataset}/written.jsonl",
        unusable="results/datasets/{dataset}/unusable.jsonl",
        usage="results/costs/write_pairs.{dataset}.usage.json",
    log:
        "logs/write_pairs/{dataset}.log",
    benchmark:
        "results/costs/write_pairs.{dataset}.tsv"
    wildcard_constraints:
        dataset=of_kind("pairs"),
    localrule: are_apis(WRITERS)
    conda:
        llm_env(WRITERS)
    container:
        llm_image(WRITERS)
    threads: llm_threads
    resources:
        mem_mb=llm_memory,
        api=calls_api,
        gpu=llm_gpus,
    params:
        spec=section("datasets", "dataset", without=["types"]),
        llm=llm_section,
        # Snakemake deletes the outputs of a job that failed
        failed_log="logs/write_pairs/{dataset}.unusable.jsonl",
    shell:
        "exec python scripts/write_pairs.py --chunks {input.chunks} --spec {params.spec:q} --llm {params.llm:q}"
        " --model {input.model} --prompt {input.prompt} --store store/llm --out {output.written}"
        " --failed {output.unusable} --failed-log {params.failed_log} --usage {output.usage} 2> {log}"


rule screen_pairs:
    """Keep the pairs that are grounded, make sense without their page, are asked once, and that no reviewer rejects."""
    input:
        pairs="results/datasets/{dataset}/written.jsonl",
        chunks=of_corpus("chunks.jsonl"),
        encoder=encoder_of,
        decisions=decisions_of,
    output:
        kept="results/datasets/{dataset}/pairs.jsonl",
        screened="results/datasets/{dataset}/screened.jsonl",
        reviewed="results/datasets/{dataset}/reviewed.jsonl",
        dropped="results/datasets/{dataset}/dropped.jsonl",
    log:
        "logs/screen_pairs/{dataset}.log",
    benchmark:
        "results/costs/screen_pairs.{dataset}.tsv"
    wildcard_constraints:
        dataset=of_kind("pairs"),
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    threads: 2
    params:
        near_duplicate=lambda w: CONFIG.datasets[w.dataset].near_duplicate,
        wanted=lambda w: (
            f"--wanted {n}" if (n := CONFIG.datasets[w.dataset].pairs) else ""
        ),
    shell:
        "exec python scripts/screen_pairs.py --pairs {input.pairs} --chunks {input.chunks} --encoder {input.encoder}"
        " --near-duplicate {params.near_duplicate} {params.wanted}"
        " --decisions {input.decisions} --screened {output.screened} --reviewed {output.reviewed} --out {output.kept} --dropped {output.dropped} 2> {log}"


rule rephrase_questions:
    """Have the LLM ask each question in other words: one is held out for testing, the others are trained on."""
    input:
        pairs="results/datasets/{dataset}/pairs.jsonl",
        chunks=of_corpus("chunks.jsonl"),
        model=llm_lock,
        prompt="prompts/rephrase_question.txt",
    output:
        phrasings="results/datasets/{dataset}/phrasings.jsonl",
        unusable="results/datasets/{dataset}/unusable_phrasings.jsonl",
        usage="results/costs/rephrase_questions.{dataset}.usage.json",
    log:
        "logs/rephrase_questions/{dataset}.log",
    benchmark:
        "results/costs/rephrase_questions.{dataset}.tsv"
    wildcard_constraints:
        dataset=of_kind("pairs"),
    localrule: are_apis(WRITERS)
    conda:
        llm_env(WRITERS)
    container:
        llm_image(WRITERS)
    threads: llm_threads
    resources:
        mem_mb=llm_memory,
        api=calls_api,
        gpu=llm_gpus,
    params:
        phrasings=lambda w: CONFIG.datasets[w.dataset].phrasings,
        max_failed=lambda w: CONFIG.datasets[w.dataset].max_failed,
        llm=llm_section,
        # Snakemake deletes the outputs of a job that failed
        failed_log="logs/rephrase_questions/{dataset}.unusable.jsonl",
    shell:
        "exec python scripts/rephrase_questions.py --pairs {input.pairs} --chunks {input.chunks}"
        " --phrasings {params.phrasings} --llm {params.llm:q} --model {input.model} --prompt {input.prompt}"
        " --store store/llm --out {output.phrasings}"
        " --failed {output.unusable} --failed-log {params.failed_log} --max-failed {params.max_failed} --usage {output.usage} 2> {log}"


rule split_pairs:
    """Split by page into train, val and two test sets, and count the way there."""
    input:
        pairs="results/datasets/{dataset}/pairs.jsonl",
        phrasings="results/datasets/{dataset}/phrasings.jsonl",
        chunks=of_corpus("chunks.jsonl"),
        page_counts=of_corpus("pages.json"),
        written="results/datasets/{dataset}/written.jsonl",
        unusable="results/datasets/{dataset}/unusable.jsonl",
        dropped="results/datasets/{dataset}/dropped.jsonl",
    output:
        train="results/datasets/{dataset}/train.jsonl",
        val="results/datasets/{dataset}/val.jsonl",
        tests=TESTS,
        funnel="results/datasets/{dataset}/funnel.json",
    log:
        "logs/split_pairs/{dataset}.log",
    wildcard_constraints:
        dataset=of_kind("pairs"),
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        spec=section("datasets", "dataset", without=["types"]),
        folder=lambda w: f"results/datasets/{w.dataset}",
    shell:
        "exec python scripts/split_pairs.py --name {wildcards.dataset} --spec {params.spec:q} --pairs {input.pairs}"
        " --phrasings {input.phrasings} --chunks {input.chunks} --page-counts {input.page_counts}"
        " --written {input.written} --unusable {input.unusable} --dropped {input.dropped} --out {params.folder} 2> {log}"
