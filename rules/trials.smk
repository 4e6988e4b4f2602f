"""Judges on trial: answers that people have judged, scored by each judge and by metrics that need none."""


rule try_judge:
    """Have a judge score answers that people have judged."""
    input:
        answers=judged_answers,
        model=llm_lock,
        prompt=lambda w: CONFIG.judges[w.judge].prompt,
    output:
        scores="results/trials/{trial}/{judge}.jsonl",
        usage="results/costs/try_judge/{trial}.{judge}.usage.json",
    log:
        "logs/try_judge/{trial}.{judge}.log",
    benchmark:
        "results/costs/try_judge/{trial}.{judge}.tsv"
    # not in the profile: Snakemake submits a local rule that has a group
    group:
        None if are_apis(TRIED) else "judges"
    localrule: are_apis(TRIED)
    conda:
        llm_env(TRIED)
    container:
        llm_image(TRIED)
    threads: llm_threads
    resources:
        mem_mb=llm_memory,
        api=calls_api,
        gpu=llm_gpus,
    params:
        answers=section("trials", "trial", without=["judges", "encoder", "layer"]),
        judge=section("judges", "judge", without=["max_failed"]),
        llm=llm_section,
    shell:
        "exec python scripts/try_judge.py --answers {params.answers:q} --name {wildcards.judge} --judge {params.judge:q}"
        " --llm {params.llm:q} --model {input.model} --prompt {input.prompt} --store store/llm"
        " --out {output.scores} --usage {output.usage} 2> {log}"


rule tabulate_trial:
    """Hold judges against people and against metrics; mark those that beat no metric."""
    input:
        answers=judged_answers,
        scores=lambda w: expand(
            "results/trials/{{trial}}/{judge}.jsonl",
            judge=CONFIG.trials[w.trial].judges,
        ),
        encoder=lambda w: f"resources/models/{CONFIG.trials[w.trial].encoder}/lock.json",
    output:
        table=report(
            "results/tables/trial.{trial}.csv",
            caption="../report/trial.rst",
            category="Judges",
            labels={"trial": "{trial}"},
        ),
        text="results/tables/trial.{trial}.md",
        data="results/tables/trial.{trial}.json",
    log:
        "logs/tabulate_trial/{trial}.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 3000 * attempt,
    params:
        trial=section("trials", "trial"),
        judges=lambda w: CONFIG.trials[w.trial].judges,
    shell:
        "exec python scripts/tabulate_trial.py --name {wildcards.trial} --trial {params.trial:q} --judge {params.judges}"
        " --scores {input.scores} --encoder {input.encoder} --table {output.table} --text {output.text} --data {output.data} 2> {log}"
