"""Arms answer the test questions."""


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
