"""Figures and the report: one self-contained HTML file, and captions for `snakemake --report`."""


rule plot_scores:
    """Draw each judge's distribution of scores, arm beside arm."""
    input:
        rows="results/tables/rows.jsonl",
    output:
        figure=report(
            "results/figures/scores.svg",
            caption="../report/scores_figure.rst",
            category="Scores",
            labels={"figure": "distribution of scores"},
        ),
        data="results/figures/scores.csv",
    log:
        "logs/plot_scores.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    shell:
        "exec python scripts/plot_scores.py --rows {input.rows} --out {output.figure} --data {output.data} 2> {log}"


rule plot_loss:
    """Draw training and validation loss by step, run beside run."""
    input:
        logs=expand("results/runs/{run}/train_log.jsonl", run=TUNED),
    output:
        figure=report(
            "results/figures/loss.svg",
            caption="../report/loss.rst",
            category="Training",
            labels={"figure": "loss"},
        ),
        data="results/figures/loss.csv",
    log:
        "logs/plot_loss.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        runs=TUNED,
    shell:
        "exec python scripts/plot_loss.py --log {input.logs} --run {params.runs} --out {output.figure}"
        " --data {output.data} 2> {log}"


rule plot_funnel:
    """Draw what was left at each step from documents to training rows."""
    input:
        funnels=expand(
            "results/datasets/{dataset}/funnel.json", dataset=CONFIG.study.datasets
        ),
    output:
        figure=report(
            "results/figures/funnel.svg",
            caption="../report/funnel.rst",
            category="Data",
            labels={"figure": "from documents to rows"},
        ),
        data="results/figures/funnel.csv",
    log:
        "logs/plot_funnel.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    shell:
        "exec python scripts/plot_funnel.py --funnel {input.funnels} --out {output.figure} --data {output.data} 2> {log}"


rule resolve_study:
    """Keep the configuration with every default written out beside the results."""
    output:
        "results/study.json",
    log:
        "logs/resolve_study.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        study=lambda w: CONFIG.model_dump_json(indent=2),
    shell:
        "printf '%s\\n' {params.study:q} > {output} 2> {log}"


rule write_manifest:
    """Keep what the results were made with: revision, images by digest, locks."""
    input:
        locks=["envs/cpu.lock", "envs/gpu.lock"],
        results="results/tables/scores.csv",
    output:
        manifest="results/manifest.json",
    log:
        "logs/write_manifest.log",
    # no container: the image is looked at from outside
    conda:
        "../envs/cpu.yaml"
    params:
        images=sorted({CONFIG.containers.cpu, CONFIG.containers.gpu}),
    shell:
        "exec python scripts/write_manifest.py --image {params.images} --lock {input.locks} --out {output.manifest}"
        " 2> {log}"


rule write_report:
    """Write the report: the question, the answer with its uncertainty, and everything it rests on."""
    input:
        study="results/study.json",
        manifest="results/manifest.json",
        scores="results/tables/scores.csv",
        rows="results/tables/rows.jsonl",
        figures=[f"results/figures/{name}.svg" for name in ("scores", "loss", "funnel")],
        funnels=expand(
            "results/datasets/{dataset}/funnel.json", dataset=CONFIG.study.datasets
        ),
        retrievals=expand(
            "results/datasets/{dataset}/retrieval.json", dataset=LOOKED_UP
        ),
        leaks="results/tables/leaks.csv",
        cards=expand("results/datasets/{dataset}/card.json", dataset=MADE),
        costs=costs_and_usages()[0],
        usages=costs_and_usages()[1],
        # of `make estimate`, which one may have run or not
        estimate=[path for path in ["results/estimate.json"] if os.path.exists(path)],
        template="report/report.html.j2",
    output:
        html=report(
            "results/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"page": "the report"},
        ),
    log:
        "logs/write_report.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        figures=lambda w, input: [
            f"{os.path.basename(p).removesuffix('.svg')}={p}" for p in input.figures
        ],
        estimate=lambda w, input: (
            f"--estimate {input.estimate}" if input.estimate else ""
        ),
    shell:
        "exec python scripts/write_report.py --config {input.study} --manifest {input.manifest} --scores {input.scores} --rows {input.rows}"
        " --figure {params.figures} --funnel {input.funnels} --retrieval {input.retrievals} --leaks {input.leaks} --card {input.cards}"
        " --cost {input.costs} --usage {input.usages} {params.estimate} --template {input.template} --out {output.html} 2> {log}"
