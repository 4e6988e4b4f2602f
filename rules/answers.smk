"""Arms answer the test questions: asked in one job per loaded base, written arm by arm."""


rule answer:
    """Have the arms of one loaded base answer their test questions; what was answered before is in the store."""
    input:
        files=lambda w: files_of_arms(LOADS[w.load]),
        prompt="prompts/answer_with_context.txt",
    output:
        engines="results/answers/{load}.json",
    log:
        "logs/answer/{load}.log",
    benchmark:
        "results/costs/answer/{load}.tsv"
    conda:
        ANSWER_ENV
    container:
        ANSWER_IMAGE
    threads: 2
    resources:
        mem_mb=4000,
        gpu=1,
    params:
        decoding=section("decoding", without=("loads",)),
        environment=KEEP_MEMORY,
        arms=lambda w: arms_section(LOADS[w.load]),
    shell:
        "{params.environment} exec python scripts/answer.py --arms {params.arms:q} --decoding {params.decoding:q}"
        " --prompt {input.prompt} --store store/llm --out {output.engines} 2> {log}"


rule write_answers:
    """Write one arm's answers out of the store."""
    input:
        files=lambda w: files_of_arms([(w.run, w.mode, w.dataset)]),
        prompt="prompts/answer_with_context.txt",
        engines=lambda w: f"results/answers/{load_of(w)}.json",
    output:
        answers="results/answers/{run}/{dataset}.{mode}.jsonl",
        usage="results/costs/answer/{run}/{dataset}.{mode}.usage.json",
    log:
        "logs/write_answers/{run}/{dataset}.{mode}.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        decoding=section("decoding", without=("loads",)),
        arm=lambda w: arms_section([(w.run, w.mode, w.dataset)]),
    shell:
        "exec python scripts/write_answers.py --arm {params.arm:q} --decoding {params.decoding:q} --engines {input.engines}"
        " --prompt {input.prompt} --store store/llm --out {output.answers} --usage {output.usage} 2> {log}"
