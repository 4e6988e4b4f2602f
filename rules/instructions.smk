"""Instruction sets: product recommendation, next steps after a call, sales pitches."""


rule write_requirements:
    """Have an LLM write what customers need and a product offers, without the product's name."""
    input:
        chunks=lambda w: of_corpus("chunks.jsonl")(w) if corpus_of(w) else [],
        catalogue=catalogue_of,
        model=llm_lock,
        prompt="prompts/write_requirements.txt",
    output:
        products="results/datasets/{dataset}/products.jsonl",
        requirements="results/datasets/{dataset}/requirements.jsonl",
        unusable="results/datasets/{dataset}/unusable.jsonl",
        usage="results/costs/write_requirements.{dataset}.usage.json",
    log:
        "logs/write_requirements/{dataset}.log",
    benchmark:
        "results/costs/write_requirements.{dataset}.tsv"
    wildcard_constraints:
        dataset=of_kind("recommendation"),
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
        spec=section("datasets", "dataset"),
        llm=llm_section,
        # Snakemake deletes the outputs of a job that failed
        failed_log="logs/write_requirements/{dataset}.unusable.jsonl",
    shell:
        "exec python scripts/write_requirements.py --spec {params.spec:q} --chunks {input.chunks} --llm {params.llm:q}"
        " --model {input.model} --prompt {input.prompt} --store store/llm --products {output.products}"
        " --out {output.requirements} --failed {output.unusable} --failed-log {params.failed_log} --usage {output.usage} 2> {log}"


rule make_recommendations:
    """Put each requirement over a list of near products, the right one's place balanced, split by product."""
    input:
        products="results/datasets/{dataset}/products.jsonl",
        requirements="results/datasets/{dataset}/requirements.jsonl",
        unusable="results/datasets/{dataset}/unusable.jsonl",
        encoder=lambda w: f"resources/models/{CONFIG.datasets[w.dataset].encoder}/lock.json",
        prompt="prompts/recommend_product.txt",
    output:
        train="results/datasets/{dataset}/train.jsonl",
        val="results/datasets/{dataset}/val.jsonl",
        tests=TESTS,
        dropped="results/datasets/{dataset}/dropped.jsonl",
        funnel="results/datasets/{dataset}/funnel.json",
    log:
        "logs/make_recommendations/{dataset}.log",
    benchmark:
        "results/costs/make_recommendations.{dataset}.tsv"
    wildcard_constraints:
        dataset=of_kind("recommendation"),
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    threads: 2
    params:
        spec=section("datasets", "dataset"),
        folder=lambda w: f"results/datasets/{w.dataset}",
    shell:
        "exec python scripts/make_recommendations.py --name {wildcards.dataset} --spec {params.spec:q}"
        " --requirements {input.requirements} --products {input.products} --unusable {input.unusable}"
        " --encoder {input.encoder} --prompt {input.prompt} --out {params.folder} 2> {log}"


rule write_instructions:
    """Have an LLM write how sales calls begin and end, or sales pitches, about a corpus's chunks."""
    input:
        pairs_of_calls,
        chunks=of_corpus("chunks.jsonl"),
        model=llm_lock,
        prompt=lambda w: {
            "next-steps": "prompts/write_call.txt",
            "pitch": "prompts/write_pitch.txt",
        }[CONFIG.datasets[w.dataset].kind],
    output:
        written="results/datasets/{dataset}/written.jsonl",
        unusable="results/datasets/{dataset}/unusable.jsonl",
        usage="results/costs/write_instructions.{dataset}.usage.json",
    log:
        "logs/write_instructions/{dataset}.log",
    benchmark:
        "results/costs/write_instructions.{dataset}.tsv"
    wildcard_constraints:
        dataset=of_kind("next-steps", "pitch"),
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
        spec=section("datasets", "dataset"),
        llm=llm_section,
        # Snakemake deletes the outputs of a job that failed
        failed_log="logs/write_instructions/{dataset}.unusable.jsonl",
        parent=lambda w: f"--parent {parent_folder(w)}" if pairs_of_calls(w) else "",
    shell:
        "exec python scripts/write_instructions.py --spec {params.spec:q} --chunks {input.chunks} {params.parent}"
        " --llm {params.llm:q} --model {input.model} --prompt {input.prompt} --store store/llm --out {output.written}"
        " --failed {output.unusable} --failed-log {params.failed_log} --usage {output.usage} 2> {log}"


rule split_instructions:
    """Keep the calls and pitches that are grounded in their pages, and write the rows of each split."""
    input:
        written="results/datasets/{dataset}/written.jsonl",
        unusable="results/datasets/{dataset}/unusable.jsonl",
        chunks=of_corpus("chunks.jsonl"),
        prompt=lambda w: {
            "next-steps": "prompts/next_steps.txt",
            "pitch": "prompts/pitch.txt",
        }[CONFIG.datasets[w.dataset].kind],
    output:
        train="results/datasets/{dataset}/train.jsonl",
        val="results/datasets/{dataset}/val.jsonl",
        tests=TESTS,
        dropped="results/datasets/{dataset}/dropped.jsonl",
        funnel="results/datasets/{dataset}/funnel.json",
    log:
        "logs/split_instructions/{dataset}.log",
    wildcard_constraints:
        dataset=of_kind("next-steps", "pitch"),
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        spec=section("datasets", "dataset"),
        folder=lambda w: f"results/datasets/{w.dataset}",
    shell:
        "exec python scripts/split_instructions.py --name {wildcards.dataset} --spec {params.spec:q}"
        " --written {input.written} --unusable {input.unusable} --chunks {input.chunks} --prompt {input.prompt}"
        " --out {params.folder} 2> {log}"
