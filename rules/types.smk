"""Conceptual or factual: an LLM annotates some pairs, a BERT learns it and labels the rest, each type is drawn."""


rule annotate_types:
    """Have an LLM say of pairs, drawn evenly over groups, whether they are conceptual or factual."""
    input:
        pairs="results/datasets/{dataset}/pairs.jsonl",
        chunks=of_corpus("chunks.jsonl"),
        model=llm_lock,
        prompt="prompts/annotate_type.txt",
    output:
        annotated="results/datasets/{dataset}/types/annotated.{annotator}.jsonl",
        usage="results/costs/annotate_types.{dataset}.{annotator}.usage.json",
    log:
        "logs/annotate_types/{dataset}.{annotator}.log",
    benchmark:
        "results/costs/annotate_types.{dataset}.{annotator}.tsv"
    wildcard_constraints:
        dataset=of_kind("pairs"),
    localrule: are_apis(ANNOTATORS)
    conda:
        llm_env(ANNOTATORS)
    container:
        llm_image(ANNOTATORS)
    threads: llm_threads
    resources:
        mem_mb=llm_memory,
        api=calls_api,
        gpu=llm_gpus,
    params:
        # no more of the section: what a classifier is trained and tested with is no reason to ask again
        limit=lambda w: types_of(w).annotated,
        calibrated=calibrated,
        llm=llm_section,
    shell:
        "exec python scripts/annotate_types.py --pairs {input.pairs} --chunks {input.chunks} --limit {params.limit}"
        " {params.calibrated} --llm {params.llm:q} --model {input.model} --prompt {input.prompt} --store store/llm"
        " --out {output.annotated} --usage {output.usage} 2> {log}"


rule annotate_human:
    """Have the same LLM annotate questions that people have sorted, to hold it and the classifier against them."""
    input:
        human_labels,
        model=llm_lock,
        prompt="prompts/annotate_type.txt",
    output:
        annotated="results/datasets/{dataset}/types/human.{annotator}.jsonl",
        usage="results/costs/annotate_human.{dataset}.{annotator}.usage.json",
    log:
        "logs/annotate_human/{dataset}.{annotator}.log",
    benchmark:
        "results/costs/annotate_human.{dataset}.{annotator}.tsv"
    wildcard_constraints:
        dataset=of_kind("pairs"),
    localrule: are_apis(ANNOTATORS)
    conda:
        llm_env(ANNOTATORS)
    container:
        llm_image(ANNOTATORS)
    threads: llm_threads
    resources:
        mem_mb=llm_memory,
        api=calls_api,
        gpu=llm_gpus,
    params:
        folder=lambda w: str(types_of(w).human),
        calibrated=calibrated,
        llm=llm_section,
    shell:
        "exec python scripts/annotate_human.py --questions {params.folder:q} {params.calibrated} --llm {params.llm:q}"
        " --model {input.model} --prompt {input.prompt} --store store/llm --out {output.annotated}"
        " --usage {output.usage} 2> {log}"


rule train_types:
    """Fine-tune a BERT on what the LLM has annotated, and measure it beside simple baselines."""
    input:
        human_labels,
        pairs="results/datasets/{dataset}/pairs.jsonl",
        chunks=of_corpus("chunks.jsonl"),
        annotated=annotated_by_llm("annotated"),
        human=lambda w: annotated_by_llm("human")(w) if types_of(w).human else [],
        encoder=lambda w: f"resources/models/{types_of(w).encoder}/lock.json",
    output:
        classifier=directory("results/datasets/{dataset}/types/classifier"),
        evaluation="results/datasets/{dataset}/types/evaluation.json",
        page="results/datasets/{dataset}/types/evaluation.md",
    log:
        "logs/train_types/{dataset}.log",
    benchmark:
        "results/costs/train_types.{dataset}.tsv"
    wildcard_constraints:
        dataset=of_kind("pairs"),
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 6000 * attempt,  # a BERT of 12 layers and what its optimiser keeps
    params:
        spec=types_section,
        environment=KEEP_MEMORY,
        folder=lambda w: f"results/datasets/{w.dataset}/types",
    shell:
        "{params.environment} exec python scripts/train_types.py --name {wildcards.dataset} --annotated {input.annotated}"
        " --pairs {input.pairs} --chunks {input.chunks} --human-annotated {input.human} --spec {params.spec:q}"
        " --encoder {input.encoder} --threads {threads} --out {params.folder} 2> {log}"


rule classify_pairs:
    """Label every pair: as the LLM has annotated it, or else by the classifier."""
    input:
        pairs="results/datasets/{dataset}/pairs.jsonl",
        annotated=annotated_by_llm("annotated"),
        classifier="results/datasets/{dataset}/types/classifier",
    output:
        types="results/datasets/{dataset}/types.jsonl",
    log:
        "logs/classify_pairs/{dataset}.log",
    benchmark:
        "results/costs/classify_pairs.{dataset}.tsv"
    wildcard_constraints:
        dataset=of_kind("pairs"),
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 2000 * attempt,
    shell:
        "exec python scripts/classify_pairs.py --pairs {input.pairs} --annotated {input.annotated}"
        " --classifier {input.classifier} --threads {threads} --out {output.types} 2> {log}"


rule draw_typed:
    """Draw the conceptual or the factual rows of a data set, as many of the one type as of the other."""
    input:
        of_parent("train.jsonl"),
        of_parent("val.jsonl"),
        of_parent("test_trained_pages.jsonl"),
        of_parent("test_new_pages.jsonl"),
        types=of_parent("types.jsonl"),
    output:
        train="results/datasets/{dataset}/train.jsonl",
        val="results/datasets/{dataset}/val.jsonl",
        tests=TESTS,
        funnel="results/datasets/{dataset}/funnel.json",
    log:
        "logs/draw_typed/{dataset}.log",
    wildcard_constraints:
        dataset=of_kind("typed"),
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        spec=section("datasets", "dataset"),
        parent=of_parent(""),
        folder=lambda w: f"results/datasets/{w.dataset}",
    shell:
        "exec python scripts/draw_typed.py --name {wildcards.dataset} --spec {params.spec:q} --parent {params.parent}"
        " --types {input.types} --out {params.folder} 2> {log}"
