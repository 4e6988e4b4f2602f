"""Published dialogues with summaries that people wrote."""


rule read_dialogues:
    """Read dialogues in the splits that they were published in, clean what is said, and make rows of them."""
    input:
        dialogue_files,
        system=system_prompt,
    output:
        train="results/datasets/{dataset}/train.jsonl",
        val="results/datasets/{dataset}/val.jsonl",
        tests=TESTS,
        dropped="results/datasets/{dataset}/dropped.jsonl",
        funnel="results/datasets/{dataset}/funnel.json",
    log:
        "logs/read_dialogues/{dataset}.log",
    wildcard_constraints:
        dataset=of_kind("dialogues"),
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        # what the card says besides is no reason to read and to train again
        spec=section(
            "datasets", "dataset", without=("kind", "encoder", "source", "licence")
        ),
        folder=lambda w: f"results/datasets/{w.dataset}",
    shell:
        "exec python scripts/read_dialogues.py --name {wildcards.dataset} --spec {params.spec:q}"
        " --system {input.system} --out {params.folder} 2> {log}"
