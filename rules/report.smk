"""Figures and the report: one self-contained HTML file, and captions for `snakemake --report`."""

JUDGES_COMPARED = len(CONFIG.study.judges) > 1
# without a judge there are no scores to draw
FIGURES = [
    *(["scores"] if CONFIG.study.judges else []),
    "loss",
    "memory",
    "funnel",
]
MODELS_ASKED = {
    *STUDENT_MODELS,
    *(CONFIG.llms[name].model for name in LLMS if name not in APIS),
}
# what models are told, and in which form: files that need not lie in prompts/
TOLD = sorted(
    {
        *(CONFIG.judges[judge].prompt for judge in CONFIG.study.judges),
        *(CONFIG.judges[judge].prompt for t in TRIALS.values() for judge in t.judges),
        *(comparison.prompt for comparison in COMPARISONS.values()),
        *(system for d in MADE.values() if (system := getattr(d, "system", None))),
        *(t for m in MODELS_ASKED if (t := CONFIG.models[m].chat_template)),
    }
)


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


rule plot_memory:
    """Draw the memory of each training over time."""
    input:
        telemetry=expand("results/runs/{run}/telemetry.jsonl", run=TUNED),
    output:
        figure=report(
            "results/figures/memory.svg",
            caption="../report/memory.rst",
            category="Training",
            labels={"figure": "memory"},
        ),
        data="results/figures/memory.csv",
    log:
        "logs/plot_memory.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        runs=TUNED,
    shell:
        "exec python scripts/plot_memory.py --telemetry {input.telemetry} --run {params.runs} --out {output.figure}"
        " --data {output.data} 2> {log}"


rule tabulate_runs:
    """Tabulate how each training went: steps, tokens, speed, memory, minutes, losses."""
    input:
        logs=expand("results/runs/{run}/train_log.jsonl", run=TUNED),
        telemetry=expand("results/runs/{run}/telemetry.jsonl", run=TUNED),
    output:
        table=report(
            "results/tables/runs.csv",
            caption="../report/runs.rst",
            category="Training",
            labels={"figure": "runs"},
        ),
    log:
        "logs/tabulate_runs.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        runs=TUNED,
    shell:
        "exec python scripts/tabulate_runs.py --log {input.logs} --telemetry {input.telemetry} --run {params.runs}"
        " --out {output.table} 2> {log}"


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
    """Keep what the results were made with (code, images, packages, data, prompts, models, seeds), and what they took."""
    input:
        locks=[
            "envs/cpu.lock",
            "envs/gpu.lock",
            *(["envs/judge.lock"] if CONFIG.containers.judge in USED_IMAGES else []),
        ],
        results="results/tables/scores.csv",
        # what scores rest on besides rows: facts, pages, answers that people have judged, published numbers
        data=[
            *(path for name in MADE for path in expand(SPLITS, dataset=name)),
            *expand(
                "resources/corpora/{corpus}/{file}.jsonl",
                corpus=CORPORA,
                file=("pages", "chunks"),
            ),
            *sorted({f for c in CORPORA if (f := CONFIG.corpora[c].facts)}),
            *sorted({str(t.path) for t in TRIALS.values() if t.path.exists()}),
            "report/published.csv",
        ],
        models=MODEL_LOCKS,
        specs=expand("results/runs/{run}/spec.json", run=TRAINED),
        times=[time for time, _ in PERHAPS_ON_GPU],
        gpus=[said for _, said in PERHAPS_ON_GPU],
        usages=USAGES,
    output:
        manifest="results/manifest.json",
    log:
        "logs/write_manifest.log",
    # no container: the image is looked at from outside
    conda:
        "../envs/cpu.yaml"
    params:
        images=USED_IMAGES,
        prompts=TOLD,
        apis=json.dumps({name: CONFIG.llms[name].model for name in sorted(APIS)}),
        seeds=sorted(
            {
                *CONFIG.study.seeds,
                *(run.seed for runs in SWEEPS.values() for run in runs),
            }
        ),
    shell:
        # prompts are no inputs: the results depend on those that they were made with
        "exec python scripts/write_manifest.py --image {params.images} --lock {input.locks} --data {input.data}"
        " --prompts prompts {params.prompts} --model {input.models} --apis {params.apis:q} --seed {params.seeds} --spec {input.specs}"
        " --time {input.times} --gpus {input.gpus} --usage {input.usages} --out {output.manifest} 2> {log}"


rule write_report:
    """Write the report: the question, the answer with its uncertainty, and everything it rests on."""
    input:
        study="results/study.json",
        manifest="results/manifest.json",
        scores="results/tables/scores.csv",
        rows="results/tables/rows.jsonl",
        figures=[f"results/figures/{name}.svg" for name in FIGURES],
        agreement=["results/tables/agreement.csv"] if JUDGES_COMPARED else [],
        tunes="results/tables/tunes.csv",
        trials=TRIALS_TABLES,
        runs="results/tables/runs.csv",
        sweeps=expand("results/tables/sweep.{sweep}.json", sweep=SWEEPS),
        swept=expand("results/figures/sweep.{sweep}.svg", sweep=SWEEPS),
        funnels=expand(
            "results/datasets/{dataset}/funnel.json", dataset=CONFIG.study.datasets
        ),
        retrievals=expand(
            "results/datasets/{dataset}/retrieval.json", dataset=LOOKED_UP
        ),
        leaks="results/tables/leaks.csv",
        cards=expand("results/datasets/{dataset}/card.json", dataset=MADE),
        costs=COSTS,
        usages=USAGES,
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
            f"{os.path.basename(p).removesuffix('.svg')}={p}"
            for p in [*input.figures, *input.swept]
        ],
        agreement=lambda w, input: (
            f"--agreement {input.agreement}" if input.agreement else ""
        ),
        estimate=lambda w, input: (
            f"--estimate {input.estimate}" if input.estimate else ""
        ),
    shell:
        "exec python scripts/write_report.py --config {input.study} --manifest {input.manifest} --scores {input.scores} --rows {input.rows}"
        " --tunes {input.tunes} {params.agreement} --trial {input.trials} --figure {params.figures} --runs {input.runs} --sweep {input.sweeps} --funnel {input.funnels} --retrieval {input.retrievals} --leaks {input.leaks} --card {input.cards}"
        " --cost {input.costs} --usage {input.usages} {params.estimate} --template {input.template} --out {output.html} 2> {log}"
