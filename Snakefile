"""Tuneproof: from a corpus to fine-tuned models, judged scores and a report, as one DAG of files."""

from snakemake.utils import min_version

min_version("9.19")


configfile: "config.yaml"


report: "report/workflow.rst"


include: "rules/common.smk"
include: "rules/kinds.smk"
include: "rules/preflight.smk"
include: "rules/fetch.smk"
include: "rules/corpus.smk"
include: "rules/pairs.smk"
include: "rules/retrieval.smk"
include: "rules/types.smk"
include: "rules/instructions.smk"
include: "rules/dialogues.smk"
include: "rules/cards.smk"
include: "rules/training.smk"
include: "rules/sweeps.smk"
include: "rules/adapters.smk"
include: "rules/answers.smk"
include: "rules/scores.smk"
include: "rules/comparisons.smk"
include: "rules/trials.smk"
include: "rules/report.smk"


localrules:
    all,
    models,
    staged,
    fetch_model,
    build_image,
    render_sample_site,
    crawl,
    resolve_study,


rule all:
    """The study's report, with everything it needs, the cards of its adapters, its judges' trials and its pairs of arms."""
    default_target: True
    input:
        "results/report.html",
        expand("results/tables/trial.{trial}.json", trial=TRIALS),
        ["results/tables/pairwise.csv"] if COMPARISONS else [],
        rules.tabulate_studies.output,
        expand("results/runs/{run}/adapter/README.md", run=ADAPTERS),
        expand("results/runs/{run}/model_card.json", run=ADAPTERS),


rule models:
    """Every model of the study, fetched, verified and made ready: what `make setup` asks for."""
    input:
        MODEL_LOCKS,
        READY_MODELS,


rule staged:
    """All that needs the internet, fetched on the login node: the study's models, its crawls and its images."""
    input:
        MODEL_LOCKS,
        CRAWLS,
        IMAGES,
