"""A corpus: crawled or read from a folder, extracted, cut into chunks, indexed."""


rule render_sample_site:
    """Render the sample site from its table of invented facts: ground truth for fact recall without a judge."""
    input:
        table="sample_site/facts.yaml",
        templates=files_of("sample_site/templates"),
    output:
        site=directory("resources/sites/haldrune/site"),
        facts="resources/sites/haldrune/facts.jsonl",
    log:
        "logs/render_sample_site.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        source=lambda w, input: os.path.dirname(input.table),
    shell:
        "exec python scripts/render_sample_site.py --source {params.source} --site {output.site}"
        " --facts {output.facts} > {log} 2>&1"


rule crawl:
    """Crawl the corpus's sites into a WARC, so that everything after can be rebuilt without them."""
    input:
        crawl_inputs,
    output:
        archive="resources/corpora/{corpus}/crawl.warc.gz",
        counts="resources/corpora/{corpus}/crawl.json",
    log:
        "logs/crawl/{corpus}.log",
    benchmark:
        "results/costs/crawl.{corpus}.tsv"
    # no container: the login node's own environment knows its proxies, certificates and package index
    conda:
        "../envs/cpu.yaml"
    params:
        spec=lambda w: tuneproof_study.crawl_parameter(CONFIG.corpora[w.corpus].crawl),
    shell:
        "exec python scripts/crawl.py --name {wildcards.corpus} --spec {params.spec:q} --out {output.archive}"
        " --counts {output.counts} 2> {log}"


rule extract_pages:
    """Turn a crawl, or a folder of files, into pages: text, group, no navigation, no copies."""
    input:
        extract_inputs,
    output:
        pages="resources/corpora/{corpus}/pages.jsonl",
        counts="resources/corpora/{corpus}/pages.json",
    log:
        "logs/extract_pages/{corpus}.log",
    benchmark:
        "results/costs/extract_pages.{corpus}.tsv"
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    threads: 2
    params:
        spec=lambda w: CONFIG.corpora[w.corpus].model_dump_json(
            include=set(tuneproof_study.Extraction.model_fields)
        ),
        archive=lambda w, input: (
            f"--archive {input[0]}" if CONFIG.corpora[w.corpus].crawl else ""
        ),
    shell:
        "exec python scripts/extract_pages.py --spec {params.spec:q} {params.archive} --out {output.pages}"
        " --counts {output.counts} --processes {threads} 2> {log}"


rule chunk_pages:
    """Cut pages into chunks that fit a prompt, along headings and sentences."""
    input:
        pages="resources/corpora/{corpus}/pages.jsonl",
        encoder=encoder_of,
    output:
        chunks="resources/corpora/{corpus}/chunks.jsonl",
    log:
        "logs/chunk_pages/{corpus}.log",
    benchmark:
        "results/costs/chunk_pages.{corpus}.tsv"
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    threads: 2
    params:
        spec=lambda w: CONFIG.corpora[w.corpus].chunks.model_dump_json(),
    shell:
        "exec python scripts/chunk_pages.py --pages {input.pages} --encoder {input.encoder} --spec {params.spec:q}"
        " --out {output.chunks} --processes {threads} 2> {log}"


rule index_chunks:
    """Embed the chunks into a FAISS index, for the retrieval arm."""
    input:
        chunks="resources/corpora/{corpus}/chunks.jsonl",
        encoder=encoder_of,
    output:
        index="resources/corpora/{corpus}/index/chunks.faiss",
    log:
        "logs/index_chunks/{corpus}.log",
    benchmark:
        "results/costs/index_chunks.{corpus}.tsv"
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    threads: 2
    shell:
        "exec python scripts/index_chunks.py --chunks {input.chunks} --encoder {input.encoder}"
        " --out {output.index} 2> {log}"
