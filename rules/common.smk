"""The configuration, checked and with its defaults written out, and the functions that rules share."""

import json
import re
import sys

sys.path.insert(0, os.path.join(workflow.basedir, "scripts"))

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from tuneproof import study as tuneproof_study
from tuneproof.errors import InputError

try:
    CONFIG = tuneproof_study.load(config)
except InputError as error:
    raise WorkflowError(str(error))

RUNS = tuneproof_study.expand_runs(CONFIG)
BASES = [run.id for run in RUNS if run.method is None]
TUNED = [run.id for run in RUNS if run.method]
ARMS = [
    {"run": run.id, "mode": mode, "dataset": dataset}
    for run, mode, dataset in tuneproof_study.arms(CONFIG)
]
LOOKED_UP = tuneproof_study.looked_up(CONFIG)
MADE = tuneproof_study.made(CONFIG)
CORPORA = sorted({c for d in MADE if (c := tuneproof_study.corpus_of(CONFIG, d))})
LLMS = tuneproof_study.llms_of(CONFIG)
APIS = {name for name in LLMS if isinstance(CONFIG.llms[name], tuneproof_study.ApiLLM)}
RERANKERS = {
    reranker
    for spec in (CONFIG.retrieval, *MADE.values())
    if (reranker := getattr(spec, "reranker", None))
}
# the pairs of a data set are told apart where a set of one type is made of it
TYPES = {s.of: MADE[s.of].types for s in MADE.values() if s.kind == "typed"}
ENCODERS = sorted(
    {
        *(CONFIG.corpora[c].encoder for c in CORPORA),
        *(types.encoder for types in TYPES.values()),
        *(e for d in MADE.values() if (e := getattr(d, "encoder", None))),
    }
)
MODEL_LOCKS = sorted(
    f"resources/models/{model}/lock.json"
    for model in {
        *CONFIG.study.models,
        *(
            CONFIG.llms[name].model
            for name in LLMS
            if name not in APIS and CONFIG.llms[name].engine == "openvino"
        ),
        *ENCODERS,
        *RERANKERS,
    }
)
# glibc gives large blocks back to the system at every step, and every step faults them in again: told to keep them,
# training on two cores took 61.6 s instead of 82.2 s for 39 steps of the default study.
KEEP_MEMORY = (
    "GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4000000000"
)
# Not a parameter of the rules that ask an LLM: a new budget, price or limit is no reason to run a job again.
CALLS = tuneproof_study.calls_variable(CONFIG)
# Nor is another delay a reason to crawl a site again.
PACE = tuneproof_study.pace_variable(CONFIG)
shell.prefix(
    "set -euo pipefail; export TUNEPROOF_CALLS={CALLS:q} TUNEPROOF_PACE={PACE:q}; "
)
# vLLM has an environment of its own; where one LLM of a study needs it, all that are asked run there
VLLM = any(CONFIG.llms[name].engine == "vllm" for name in LLMS)
LLM_ENV = "../envs/judge.yaml" if VLLM else "../envs/cpu.yaml"
LLM_IMAGE = CONFIG.containers.judge if VLLM else CONFIG.containers.cpu
# built here where they are this project's own; a registry's are pulled by Apptainer
IMAGES = sorted(
    image
    for image in {CONFIG.containers.cpu, CONFIG.containers.gpu, LLM_IMAGE}
    if image in [f"containers/{name}.sif" for name in ("cpu", "gpu", "judge")]
)
CRAWLS = [
    f"resources/corpora/{name}/crawl.warc.gz"
    for name in CORPORA
    if CONFIG.corpora[name].crawl
]
STUDENTS = [
    f"resources/models/{model}/student/lock.json" for model in CONFIG.study.models
]
SPLITS = [
    f"results/datasets/{{dataset}}/{split}.jsonl" for split in tuneproof_study.SPLITS
]
TESTS = [
    f"results/datasets/{{dataset}}/{split}.jsonl"
    for split in tuneproof_study.TEST_SPLITS
]

if workflow.output_settings.dryrun:
    for sentence in tuneproof_study.missing_keys(CONFIG, os.environ, LLMS):
        logger.warning(f"{sentence}; a real run will stop before its first job.")


# Compute nodes have no internet: a rule runs on the login node where all the LLMs that it asks are behind APIs.
WRITING_IS_LOCAL = all(
    llm in APIS for d in MADE.values() if (llm := getattr(d, "llm", None))
)
ANNOTATING_IS_LOCAL = all(types.llm in APIS for types in TYPES.values())
JUDGING_IS_LOCAL = all(CONFIG.judges[j].llm in APIS for j in CONFIG.study.judges)

# `--sdm conda`: the same packages from the same locks
GPU_ENV = (
    "../envs/cpu.yaml"
    if CONFIG.containers.gpu == CONFIG.containers.cpu
    else "../envs/gpu.yaml"
)


def of_kind(*kinds):
    """The names of the study's data sets of some kinds, as a wildcard's constraint."""
    names = [re.escape(name) for name, spec in MADE.items() if spec.kind in kinds]
    return "|".join(names) or "(?!)"


wildcard_constraints:
    model="[^/]+",
    corpus="[^/]+",
    dataset="[^/]+",
    method="[^/]+",
    seed=r"\d+",
    run=r"[^/]+/(base|[^/]+/[^/]+/seed\d+)",
    mode="closed|rag",
    judge="[^/.]+",
    annotator="[^/]+",


def section(registry, wildcard=None, without=()):
    """A section of the configuration with its defaults written out, as JSON: what a script is given as --spec.

    As a rule's parameter it makes Snakemake rerun exactly the jobs whose section has changed. What the audit accepts
    is for the audit alone: who follows its advice must not make and train everything again.
    """

    def of(wildcards):
        part = getattr(CONFIG, registry)
        if wildcard:
            part = part[getattr(wildcards, wildcard)]
        return json.dumps(
            part.model_dump(mode="json", exclude={"accept_leaks", *without})
        )

    return of


def corpus_of(wildcards):
    """The corpus that a data set is made from."""
    return tuneproof_study.corpus_of(CONFIG, wildcards.dataset)


def of_corpus(path):
    """An input below the corpus of the wildcard data set."""
    return lambda wildcards: f"resources/corpora/{corpus_of(wildcards)}/{path}"


def catalogue_of(wildcards):
    """The catalogue that a data set's products are read from, so that an edit is seen.

    One that is missing is no reason not to plan; the job then says so.
    """
    file = CONFIG.datasets[wildcards.dataset].catalogue_file
    return [str(file)] if file and file.exists() else []


def encoder_of(wildcards):
    """The lock of the encoder of a corpus, or of a data set's corpus."""
    corpus = getattr(wildcards, "corpus", None) or corpus_of(wildcards)
    return f"resources/models/{CONFIG.corpora[corpus].encoder}/lock.json"


def reranker_lock(name):
    """The lock of a reranker, where one is used."""
    return [f"resources/models/{name}/lock.json"] if name else []


def reranker_argument(wildcards, input):
    """The argument of a script for its reranker, where there is one."""
    return f"--reranker {input.reranker}" if input.reranker else ""


def parent_folder(wildcards):
    """The folder of the data set that the wildcard data set is made of."""
    return f"results/datasets/{CONFIG.datasets[wildcards.dataset].of}"


def parent_splits(wildcards):
    """The rows of the data set that the wildcard data set is made of."""
    return [
        f"{parent_folder(wildcards)}/{split}.jsonl" for split in tuneproof_study.SPLITS
    ]


def llm_of(wildcards):
    """The id of the LLM: the wildcard annotator, or that of a wildcard judge, or of a wildcard data set."""
    if annotator := getattr(wildcards, "annotator", None):
        return annotator
    judge = getattr(wildcards, "judge", None)
    return CONFIG.judges[judge].llm if judge else CONFIG.datasets[wildcards.dataset].llm


def llm_section(wildcards):
    """The LLM's section of the configuration, as JSON."""
    name = llm_of(wildcards)
    return tuneproof_study.llm_parameter(name, CONFIG.llms[name])


def llm_lock(wildcards):
    """The lock of the LLM's model, as its engine reads it: GGUF, or a transformers folder; an API has none."""
    if calls_api(wildcards):
        return []
    llm = CONFIG.llms[llm_of(wildcards)]
    form = "" if llm.engine == "openvino" else "student/"
    return f"resources/models/{llm.model}/{form}lock.json"


def calls_api(wildcards):
    """1 where the job's LLM is behind an API, else 0: what `resources: api` bounds over all jobs."""
    return int(llm_of(wildcards) in APIS)


def llm_memory(wildcards):
    """Megabytes of a job that asks an LLM: the model and its keys and values, or next to nothing."""
    return 1000 if calls_api(wildcards) else 7000


def llm_threads(wildcards):
    """Cores of a job that asks an LLM: one where it waits for an API."""
    return 1 if calls_api(wildcards) else 2


def llm_gpus(wildcards):
    """GPUs of a job that asks an LLM."""
    return int(CONFIG.llms[llm_of(wildcards)].engine in ("vllm", "transformers"))


def keys_missing_for(jobs):
    """One sentence for each key that these jobs need and the environment does not have.

    Only the keys that are needed are asked for: `make setup`, or a run whose API jobs are done, needs none.
    """
    needed = {llm_of(job.wildcards) for job in jobs if job.resources.get("api")}
    return tuneproof_study.missing_keys(CONFIG, os.environ, needed)


def decisions_of(wildcards):
    """The reviewers' files of a data set, or of the pairs that it is made of, as many as there are."""
    name = getattr(CONFIG.datasets[wildcards.dataset], "of", wildcards.dataset)
    return sorted(
        str(path)
        for kind in ("jsonl", "csv")
        for path in tuneproof_study.Path("reviews", name).glob(f"*.{kind}")
    )


def facts_of(wildcards):
    """The table of facts of a data set's corpus, where there is one."""
    corpus = corpus_of(wildcards)
    facts = CONFIG.corpora[corpus].facts if corpus else None
    return [facts] if facts else []


def arm_files(pattern):
    """One file per arm of the study."""
    return [pattern.format(**arm) for arm in ARMS]


def files_of(folder):
    """A folder's files, so that an edit inside is seen: a folder's own time does not change with it."""
    return [
        str(path)
        for path in tuneproof_study.Folder(path=folder, patterns=["**/*"]).files()
    ]


def crawl_inputs(wildcards):
    """What is served while it is crawled, where anything is: a folder that a rule makes, or the user's files.

    A folder of the user's that is missing is no reason not to plan; the crawl then says so.
    """
    serve = CONFIG.corpora[wildcards.corpus].crawl.serve
    if serve is None:
        return []
    return (
        [serve.folder]
        if serve.folder.startswith("resources/")
        else files_of(serve.folder)
    )


def extract_inputs(wildcards):
    """The archive of a crawl, or the files of a folder."""
    folder = CONFIG.corpora[wildcards.corpus].folder
    if folder is None:
        return [f"resources/corpora/{wildcards.corpus}/crawl.warc.gz"]
    return [str(path) for path in folder.files()]


def adapter_of(wildcards):
    """The adapter of a tuned run; nothing for a base model."""
    if wildcards.run in BASES:
        return []
    return [f"results/runs/{wildcards.run}/adapter/adapter_model.safetensors"]


def retrieved_for(path):
    """An input that only the retrieval arm has."""
    return lambda wildcards: path(wildcards) if wildcards.mode == "rag" else []


def judge_files():
    """Every judge's scores of every arm."""
    pattern = "results/scores/{run}/{dataset}.{mode}.judge-{judge}.jsonl"
    return [
        pattern.format(**arm, judge=judge)
        for judge in CONFIG.study.judges
        for arm in ARMS
    ]


def arm_table():
    """The arms and their files, as JSON for the table's script."""
    labels = {"closed": "closed book", "rag": "retrieval"}
    return json.dumps(
        [
            {
                "dataset": arm["dataset"],
                "label": f"{arm_name(arm['run'])}, {labels[arm['mode']]}",
                "answers": "results/answers/{run}/{dataset}.{mode}.jsonl".format(**arm),
                "measures": "results/scores/{run}/{dataset}.{mode}.measures.jsonl".format(
                    **arm
                ),
                "scores": [
                    f"results/scores/{{run}}/{{dataset}}.{{mode}}.judge-{judge}.jsonl".format(
                        **arm
                    )
                    for judge in CONFIG.study.judges
                ],
            }
            for arm in ARMS
        ]
    )


def arm_name(run):
    """What a reader calls a run: "X base", or "X lora on DATASET", with the seed where there are several."""
    model, *tuned = run.split("/")
    if tuned == ["base"]:
        return f"{model} base"
    method, dataset, seed = tuned
    return f"{model} {method} on {dataset}" + (
        f" ({seed})" if len(CONFIG.study.seeds) > 1 else ""
    )


def costs_and_usages():
    """What every job of the study cost: Snakemake's measurements, and the calls and tokens of those that call a model."""
    corpora = {name: CONFIG.corpora[name] for name in CORPORA}
    arms = ["{run}/{dataset}.{mode}".format(**arm) for arm in ARMS]
    silent = [
        f"{rule}.{c}"
        for c in corpora
        for rule in ("extract_pages", "chunk_pages", "index_chunks")
    ]
    silent += [f"crawl.{name}" for name, corpus in corpora.items() if corpus.crawl]
    pairs = [d for d, spec in MADE.items() if spec.kind == "pairs"]
    reanswered = [d for d, spec in MADE.items() if spec.kind == "reanswered"]
    silent += [f"screen_pairs.{d}" for d in pairs]
    silent += [
        f"{rule}.{d}" for d in LOOKED_UP for rule in ("retrieve", "measure_retrieval")
    ]
    silent += [f"retrieve_for_answers.{d}" for d in reanswered]
    silent += [
        "train.{model}.{method}.{dataset}.seed{seed}".format(**vars(run))
        for run in RUNS
        if run.method
    ]
    calling = [
        f"{rule}.{d}" for d in pairs for rule in ("write_pairs", "rephrase_questions")
    ]
    calling += [f"reanswer.{d}" for d in reanswered]
    calling += [
        f"{rule}.{d}.{types.llm}"
        for d, types in TYPES.items()
        for rule in ("annotate_types", *(["annotate_human"] if types.human else []))
    ]
    silent += [
        f"{rule}.{d}" for d in TYPES for rule in ("train_types", "classify_pairs")
    ]
    for name, spec in MADE.items():
        if spec.kind == "recommendation":
            calling.append(f"write_requirements.{name}")
            silent.append(f"make_recommendations.{name}")
        if spec.kind in ("next-steps", "pitch"):
            calling.append(f"write_instructions.{name}")
    calling += [f"answer/{arm}" for arm in arms]
    calling += [f"judge/{arm}.{judge}" for judge in CONFIG.study.judges for arm in arms]
    silent.append("audit_leaks")
    costs = [f"results/costs/{name}.tsv" for name in (*silent, *calling)]
    return costs, [f"results/costs/{name}.usage.json" for name in calling]
