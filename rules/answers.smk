"""Arms answer the test questions."""


rule retrieve:
    """Find the chunks nearest to each test question, and count how often the source chunk is among them."""
    input:
        tests=TESTS,
        chunks=of_corpus("chunks.jsonl"),
        index=of_corpus("index/chunks.faiss"),
        encoder=encoder_of,
    output:
        retrieved="results/datasets/{dataset}/retrieved.jsonl",
        counts="results/datasets/{dataset}/retrieval.json",
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
        top_k=CONFIG.retrieval.top_k,
    shell:
        "exec python scripts/retrieve.py --tests {input.tests} --chunks {input.chunks} --index {input.index}"
        " --encoder {input.encoder} --top-k {params.top_k} --dataset {wildcards.dataset} --out {output.retrieved}"
        " --counts {output.counts} 2> {log}"


rule answer:
    """Let one arm (a run in a mode) answer the test questions of a data set."""
    input:
        tests=TESTS,
        student=lambda w: f"resources/models/{w.run.split('/')[0]}/student/lock.json",
        adapter=adapter_of,
        retrieved=retrieved_for(
            lambda w: f"results/datasets/{w.dataset}/retrieved.jsonl"
        ),
        chunks=retrieved_for(of_corpus("chunks.jsonl")),
        prompt="prompts/answer_with_context.txt",
    output:
        answers="results/answers/{run}/{dataset}.{mode}.jsonl",
        usage="results/costs/answer/{run}/{dataset}.{mode}.usage.json",
    log:
        "logs/answer/{run}/{dataset}.{mode}.log",
    benchmark:
        "results/costs/answer/{run}/{dataset}.{mode}.tsv"
    conda:
        GPU_ENV
    container:
        CONFIG.containers.gpu
    threads: 2
    resources:
        mem_mb=4000,
        gpu=1,
    params:
        decoding=section("decoding"),
        environment=KEEP_MEMORY,
        adapter=lambda w, input: (
            f"--adapter {os.path.dirname(input.adapter[0])}" if input.adapter else ""
        ),
        context=lambda w, input: (
            f"--retrieved {input.retrieved} --chunks {input.chunks}"
            if w.mode == "rag"
            else ""
        ),
    shell:
        "{params.environment} exec python scripts/answer.py --tests {input.tests} --run {wildcards.run} --mode {wildcards.mode}"
        " --decoding {params.decoding:q} --student {input.student} {params.adapter} {params.context}"
        " --prompt {input.prompt} --store store/llm --out {output.answers} --usage {output.usage} 2> {log}"
