"""Retrieval: what is found for each question, how well, and the questions answered again from it (D-RAG)."""


rule retrieve:
    """Find the chunks that answer each question."""
    input:
        examples=TESTS,
        chunks=of_corpus("chunks.jsonl"),
        index=of_corpus("index/chunks.faiss"),
        encoder=encoder_of,
        reranker=reranker_lock(CONFIG.retrieval.reranker),
    output:
        retrieved="results/datasets/{dataset}/retrieved.jsonl",
    log:
        "logs/retrieve/{dataset}.log",
    benchmark:
        "results/costs/retrieve.{dataset}.tsv"
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    threads: 2
    params:
        retriever=CONFIG.retrieval.retriever,
        top_k=CONFIG.retrieval.top_k,
        reranker=reranker_argument,
    shell:
        "exec python scripts/retrieve.py --examples {input.examples} --chunks {input.chunks} --index {input.index}"
        " --encoder {input.encoder} --retriever {params.retriever} --top-k {params.top_k} {params.reranker}"
        " --out {output.retrieved} 2> {log}"


use rule retrieve as retrieve_for_answers with:
    input:
        examples=parent_splits,
        chunks=of_corpus("chunks.jsonl"),
        index=of_corpus("index/chunks.faiss"),
        encoder=encoder_of,
        reranker=lambda w: reranker_lock(CONFIG.datasets[w.dataset].reranker),
    output:
        retrieved="results/datasets/{dataset}/retrieved_for_answers.jsonl",
    log:
        "logs/retrieve_for_answers/{dataset}.log",
    benchmark:
        "results/costs/retrieve_for_answers.{dataset}.tsv"
    params:
        retriever=lambda w: CONFIG.datasets[w.dataset].retriever,
        top_k=lambda w: CONFIG.datasets[w.dataset].top_k,
        reranker=reranker_argument,


rule measure_retrieval:
    """Measure the retrievers on every question of a data set: each knows the chunk that it was written from."""
    input:
        splits=SPLITS,
        retrieved="results/datasets/{dataset}/retrieved.jsonl",
        chunks=of_corpus("chunks.jsonl"),
        index=of_corpus("index/chunks.faiss"),
        encoder=encoder_of,
        reranker=reranker_lock(CONFIG.retrieval.reranker),
    output:
        metrics="results/datasets/{dataset}/retrieval.json",
        table=report(
            "results/datasets/{dataset}/retrieval.md",
            caption="../report/retrieval.rst",
            category="Data",
            labels={"table": "retrievers, {dataset}"},
        ),
    log:
        "logs/measure_retrieval/{dataset}.log",
    benchmark:
        "results/costs/measure_retrieval.{dataset}.tsv"
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    threads: 2
    params:
        retrieval=section("retrieval"),
        reranker=reranker_argument,
    shell:
        "exec python scripts/measure_retrieval.py --dataset {wildcards.dataset} --splits {input.splits}"
        " --retrieved {input.retrieved} --retrieval {params.retrieval:q} --chunks {input.chunks} --index {input.index}"
        " --encoder {input.encoder} {params.reranker} --out {output.metrics}"
        " --table {output.table} 2> {log}"


rule reanswer:
    """Have an LLM answer the questions of another data set again, from the chunks that were found (D-RAG)."""
    input:
        parent=parent_splits,
        retrieved="results/datasets/{dataset}/retrieved_for_answers.jsonl",
        chunks=of_corpus("chunks.jsonl"),
        model=llm_lock,
        prompt="prompts/answer_from_documents.txt",
    output:
        train="results/datasets/{dataset}/train.jsonl",
        val="results/datasets/{dataset}/val.jsonl",
        tests=TESTS,
        answers="results/datasets/{dataset}/answers.jsonl",
        funnel="results/datasets/{dataset}/funnel.json",
        usage="results/costs/reanswer.{dataset}.usage.json",
    log:
        "logs/reanswer/{dataset}.log",
    benchmark:
        "results/costs/reanswer.{dataset}.tsv"
    wildcard_constraints:
        dataset=of_kind("reanswered"),
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
        parent=parent_folder,
        folder=lambda w: f"results/datasets/{w.dataset}",
    shell:
        "exec python scripts/reanswer.py --name {wildcards.dataset} --spec {params.spec:q} --of {params.parent}"
        " --retrieved {input.retrieved} --chunks {input.chunks} --llm {params.llm:q} --model {input.model}"
        " --prompt {input.prompt} --store store/llm --out {params.folder} --usage {output.usage} 2> {log}"
