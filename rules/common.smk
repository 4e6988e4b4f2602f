"""The configuration, checked and with its defaults written out, and the functions that rules share."""

import json
import sys

sys.path.insert(0, os.path.join(workflow.basedir, "scripts"))

from snakemake.exceptions import WorkflowError
from tuneproof import study as tuneproof_study
from tuneproof.errors import InputError

try:
    CONFIG = tuneproof_study.load(config)
except InputError as error:
    raise WorkflowError(str(error))

RUNS = tuneproof_study.expand_runs(CONFIG)
ARMS = [
    {"run": run.id, "mode": mode, "dataset": dataset}
    for run, mode in tuneproof_study.arms(CONFIG)
    for dataset in ([run.dataset] if run.dataset else CONFIG.study.datasets)
]
CORPORA = sorted({CONFIG.datasets[d].corpus for d in CONFIG.study.datasets})
LLMS = sorted(
    {CONFIG.datasets[d].llm for d in CONFIG.study.datasets}
    | {CONFIG.judges[j].llm for j in CONFIG.study.judges}
)
ENCODERS = sorted({CONFIG.corpora[c].encoder for c in CORPORA})
MODEL_LOCKS = sorted(
    f"resources/models/{model}/lock.json"
    for model in {*CONFIG.study.models, *(CONFIG.llms[name].model for name in LLMS), *ENCODERS}
)
TESTS = [f"results/datasets/{{dataset}}/{split}.jsonl" for split in tuneproof_study.TEST_SPLITS]


wildcard_constraints:
    model="[^/]+",
    corpus="[^/]+",
    dataset="[^/]+",
    method="[^/]+",
    seed=r"\d+",
    run=r"[^/]+/(base|[^/]+/[^/]+/seed\d+)",
    mode="closed|rag",
    judge="[^/.]+",


def section(registry, wildcard=None):
    """A section of the configuration with its defaults written out, as JSON: what a script is given as --spec.

    As a rule's parameter it makes Snakemake rerun exactly the jobs whose section has changed.
    """

    def of(wildcards):
        part = getattr(CONFIG, registry)
        if wildcard:
            part = part[getattr(wildcards, wildcard)]
        return json.dumps(part.model_dump(mode="json"))

    return of


def corpus_of(wildcards):
    """The corpus that a data set is made from."""
    return CONFIG.datasets[wildcards.dataset].corpus


def of_corpus(path):
    """An input below the corpus of the wildcard data set."""
    return lambda wildcards: f"resources/corpora/{corpus_of(wildcards)}/{path}"


def encoder_of(wildcards):
    """The lock of the encoder of a corpus, or of a data set's corpus."""
    corpus = getattr(wildcards, "corpus", None) or corpus_of(wildcards)
    return f"resources/models/{CONFIG.corpora[corpus].encoder}/lock.json"


def llm_of(wildcards):
    """The id of the LLM of a wildcard judge, or of a wildcard data set."""
    judge = getattr(wildcards, "judge", None)
    return CONFIG.judges[judge].llm if judge else CONFIG.datasets[wildcards.dataset].llm


def llm_section(wildcards):
    """The LLM's section of the configuration, as JSON."""
    return json.dumps(CONFIG.llms[llm_of(wildcards)].model_dump(mode="json"))


def llm_lock(wildcards):
    """The lock of the LLM's model."""
    return f"resources/models/{CONFIG.llms[llm_of(wildcards)].model}/lock.json"


def facts_of(wildcards):
    """The table of facts of a data set's corpus, where there is one."""
    facts = CONFIG.corpora[corpus_of(wildcards)].facts
    return [facts] if facts else []


def arm_files(pattern):
    """One file per arm of the study."""
    return [pattern.format(**arm) for arm in ARMS]
