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

METHODS = tuneproof_study.methods_of(CONFIG)
RUNS = tuneproof_study.expand_runs(CONFIG)
BASES = [run.id for run in RUNS if run.method is None]
TUNED = [run.id for run in RUNS if run.method]
WITH_ADAPTERS = {name for name, method in METHODS.items() if method.kind != "full"}
# those that leave an adapter, which others may load
ADAPTERS = [run.id for run in RUNS if run.method in WITH_ADAPTERS]
ARMS = [
    {"run": run.id, "mode": mode, "dataset": dataset}
    for run, mode, dataset in tuneproof_study.arms(CONFIG)
]
# id of a job that answers -> its arms
LOADS = {
    load: [(run.id, mode, dataset) for run, mode, dataset in its]
    for load, its in tuneproof_study.loads(CONFIG).items()
}
LOAD_OF = {arm: load for load, its in LOADS.items() for arm in its}
# name -> the runs that it compares; they are trained, and neither answered nor judged
SWEEPS = {
    name: tuneproof_study.sweep_runs(CONFIG, name) for name in CONFIG.study.sweeps
}
# every run that is trained, once
TRAINED = list(
    dict.fromkeys([*TUNED, *(run.id for runs in SWEEPS.values() for run in runs)])
)
STUDENT_MODELS = list(
    dict.fromkeys(
        [*CONFIG.study.models, *(CONFIG.sweeps[name].model for name in SWEEPS)]
    )
)
TRIALS = {name: CONFIG.trials[name] for name in CONFIG.study.trials}
# which judges are marked, in every table that uses them
TRIALS_TABLES = [f"results/tables/trial.{name}.json" for name in TRIALS]
COMPARISONS = CONFIG.study.comparisons
LOOKED_UP = tuneproof_study.looked_up(CONFIG)
MADE = tuneproof_study.made(CONFIG)
RECOMMENDS = any(
    CONFIG.datasets[name].kind == "recommendation" for name in CONFIG.study.datasets
)
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
BERTSCORE = CONFIG.metrics.bertscore
ENCODERS = sorted(
    {
        *([BERTSCORE.encoder] if BERTSCORE else []),
        *(CONFIG.corpora[c].encoder for c in CORPORA),
        *(types.encoder for types in TYPES.values()),
        *(e for d in MADE.values() if (e := getattr(d, "encoder", None))),
        *(trial.encoder for trial in TRIALS.values()),
    }
)
MODEL_LOCKS = sorted(
    f"resources/models/{model}/lock.json"
    for model in {
        *STUDENT_MODELS,
        *(CONFIG.llms[name].model for name in LLMS if name not in APIS),
        *ENCODERS,
        *RERANKERS,
    }
)


def ready_lock(llm):
    """The lock of a local LLM's model as its engine loads it: OpenVINO's folder, or a transformers folder."""
    form = "openvino" if llm.engine == "openvino" else "student"
    return f"resources/models/{llm.model}/{form}/lock.json"


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
    # a set's order follows from the hashes: bert_score sorts a set of texts into its batches
    "set -euo pipefail; export PYTHONHASHSEED=0 TUNEPROOF_CALLS={CALLS:q} TUNEPROOF_PACE={PACE:q}; "
)
# The engines whose jobs ask for a GPU.
GPU_ENGINES = ("vllm", "transformers")
# The LLMs that the rules of a stage ask.
WRITERS = {llm for d in MADE.values() if (llm := getattr(d, "llm", None))}
ANNOTATORS = {types.llm for types in TYPES.values()}
JUDGES = {CONFIG.judges[judge].llm for judge in CONFIG.study.judges}
COMPARERS = {CONFIG.judges[c.judge].llm for c in COMPARISONS.values()}
TRIED = {CONFIG.judges[judge].llm for t in TRIALS.values() for judge in t.judges}


def are_apis(llms):
    """Whether rules that ask these LLMs run on the login node: compute nodes have no internet."""
    return llms <= APIS


def engines_of(llms):
    """The engines of these LLMs."""
    return {CONFIG.llms[name].engine for name in llms}


def llm_place(llms):
    """Where rules that ask these LLMs run: judge is vLLM's, with transformers; gpu is transformers'; OpenVINO is in cpu."""
    engines = engines_of(llms)
    return (
        "judge" if "vllm" in engines else "gpu" if "transformers" in engines else "cpu"
    )


def llm_env(llms):
    """The conda environment of rules that ask these LLMs."""
    return f"../envs/{llm_place(llms)}.yaml"


def llm_image(llms):
    """The image of rules that ask these LLMs."""
    return getattr(CONFIG.containers, llm_place(llms))


for asked in (WRITERS, ANNOTATORS, JUDGES, COMPARERS, TRIED):
    if "openvino" in engines_of(asked) and llm_image(asked) != CONFIG.containers.cpu:
        raise WorkflowError(
            f"llms: {', '.join(sorted(asked))} are asked by rules of one stage, some by openvino and some by "
            f"{' and '.join(sorted(engines_of(asked) & set(GPU_ENGINES)))}, which share no image; expected one of these "
            "engines in a stage"
        )
ANSWER_IMAGE = (
    CONFIG.containers.judge
    if CONFIG.decoding.engine == "vllm"
    else CONFIG.containers.gpu
)
USED_IMAGES = sorted(
    {
        CONFIG.containers.cpu,
        CONFIG.containers.gpu,
        ANSWER_IMAGE,
        *map(llm_image, (WRITERS, ANNOTATORS, JUDGES, COMPARERS, TRIED)),
    }
)
# built here where they are this project's own; a registry's are pulled by Apptainer
IMAGES = [
    image
    for image in USED_IMAGES
    if image in [f"containers/{name}.sif" for name in ("cpu", "gpu", "judge")]
]
CRAWLS = [
    f"resources/corpora/{name}/crawl.warc.gz"
    for name in CORPORA
    if CONFIG.corpora[name].crawl
]
STUDENTS = [f"resources/models/{model}/student/lock.json" for model in STUDENT_MODELS]
READY_MODELS = sorted(
    {*STUDENTS, *(ready_lock(CONFIG.llms[name]) for name in LLMS if name not in APIS)}
)
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


# `--sdm conda`: the same packages from the same locks
GPU_ENV = (
    "../envs/cpu.yaml"
    if CONFIG.containers.gpu == CONFIG.containers.cpu
    else "../envs/gpu.yaml"
)
ANSWER_ENV = "../envs/judge.yaml" if CONFIG.decoding.engine == "vllm" else GPU_ENV


def of_kind(*kinds):
    """The names of the study's data sets of some kinds, as a wildcard's constraint."""
    names = [re.escape(name) for name, spec in MADE.items() if spec.kind in kinds]
    return "|".join(names) or "(?!)"


def one_of(names):
    """A wildcard that is one of some names. Ids have dots in them, and so have the names of logs and costs."""
    return "|".join(re.escape(name) for name in names)


wildcard_constraints:
    model=one_of(CONFIG.models),
    corpus="[^/]+",
    dataset="[^/]+",
    method=one_of(METHODS),
    seed=r"\d+",
    run=r"[^/]+/(base|[^/]+/[^/]+/seed\d+)",
    sweep=one_of(SWEEPS) or "(?!)",
    load=one_of(LOADS),
    mode="closed|rag|oracle",
    judge="[^/.]+",
    trial=one_of(TRIALS) or "(?!)",
    comparison=one_of(COMPARISONS) or "(?!)",
    annotator="[^/]+",


def section(registry, wildcard=None, without=()):
    """A section of the configuration with its defaults written out, as JSON: what a script is given as --spec.

    As a rule's parameter it makes Snakemake rerun exactly the jobs whose section has changed. What the audit accepts
    is for the audit alone: who follows its advice must not make and train everything again.
    """

    def of(wildcards):
        part = METHODS if registry == "methods" else getattr(CONFIG, registry)
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
    """The id of the LLM: the wildcard annotator, or that of a wildcard judge, comparison or data set."""
    if annotator := getattr(wildcards, "annotator", None):
        return annotator
    judge = getattr(wildcards, "judge", None)
    if comparison := getattr(wildcards, "comparison", None):
        judge = COMPARISONS[comparison].judge
    return CONFIG.judges[judge].llm if judge else CONFIG.datasets[wildcards.dataset].llm


def llm_section(wildcards):
    """The LLM's section of the configuration, as JSON."""
    name = llm_of(wildcards)
    return tuneproof_study.llm_parameter(name, CONFIG.llms[name])


def llm_lock(wildcards):
    """The lock of the LLM's model, as its engine reads it; an API has none."""
    return [] if calls_api(wildcards) else ready_lock(CONFIG.llms[llm_of(wildcards)])


def calls_api(wildcards):
    """1 where the job's LLM is behind an API, else 0: what `resources: api` bounds over all jobs."""
    return int(llm_of(wildcards) in APIS)


def llm_memory(wildcards, attempt):
    """Megabytes of a job that asks an LLM: the model and its keys and values, or next to nothing."""
    if calls_api(wildcards):
        return 1000
    return (24000 if llm_gpus(wildcards) else 7000) * attempt


def llm_threads(wildcards):
    """Cores of a job that asks an LLM: one where it waits for an API.

    With a GPU as many as profiles/slurm lets a Slurm job have: grouped jobs then run one after the other, and no two
    engines share a GPU.
    """
    if calls_api(wildcards):
        return 1
    return 8 if llm_gpus(wildcards) else 2


def llm_gpus(wildcards):
    """GPUs of a job that asks an LLM."""
    return int(CONFIG.llms[llm_of(wildcards)].engine in GPU_ENGINES)


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


def tests_of_comparison(wildcards):
    """The test questions of the data set that two arms are compared on."""
    return expand(TESTS, dataset=COMPARISONS[wildcards.comparison].datasets[0])


def judged_answers(wildcards):
    """The file of answers that people have judged, so that an edit is seen.

    One that is missing is no reason not to plan; the job then says so.
    """
    path = TRIALS[wildcards.trial].path
    return [str(path)] if path.exists() else []


def facts_of(wildcards):
    """The table of facts of a data set's corpus, where there is one."""
    corpus = corpus_of(wildcards)
    facts = CONFIG.corpora[corpus].facts if corpus else None
    return [facts] if facts else []


def products_of(wildcards):
    """The products that a data set of recommendations lists."""
    recommends = CONFIG.datasets[wildcards.dataset].kind == "recommendation"
    return (
        [f"results/datasets/{wildcards.dataset}/products.jsonl"] if recommends else []
    )


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


def student_of(run):
    """The lock of the model that answers: the student, or what a full tuning has made of it."""
    if run in BASES or run in ADAPTERS:
        return f"resources/models/{run.split('/')[0]}/student/lock.json"
    return f"results/runs/{run}/model/lock.json"


def sweep_logs(wildcards):
    """The logs of a sweep's runs."""
    return [f"results/runs/{run.id}/train_log.jsonl" for run in SWEEPS[wildcards.sweep]]


def sweep_points(wildcards):
    """Each variant's point of the grid, as JSON: {variant: {key: value}}."""
    return json.dumps(tuneproof_study.sweep_points(CONFIG, wildcards.sweep))


def arm_inputs(run, mode, dataset):
    """What an arm answers from: weights, tests, and what its mode puts into the prompt. None: it has no such file."""
    corpus = tuneproof_study.corpus_of(CONFIG, dataset)
    return {
        "student": student_of(run),
        "adapter": (
            f"results/runs/{run}/adapter/adapter_model.safetensors"
            if run in ADAPTERS
            else None
        ),
        "tests": [path.format(dataset=dataset) for path in TESTS],
        "retrieved": (
            f"results/datasets/{dataset}/retrieved.jsonl" if mode == "rag" else None
        ),
        "chunks": (
            None if mode == "closed" else f"resources/corpora/{corpus}/chunks.jsonl"
        ),
    }


def files_of_arms(arms):
    """The files that arms answer from, each once."""
    files = []
    for run, mode, dataset in arms:
        for path in arm_inputs(run, mode, dataset).values():
            files += path if isinstance(path, list) else [path] if path else []
    return list(dict.fromkeys(files))


def load_of(wildcards):
    """The id of the job that answers for an arm."""
    arm = (wildcards.run, wildcards.mode, wildcards.dataset)
    if arm in LOAD_OF:
        return LOAD_OF[arm]
    raise WorkflowError(
        f"{arm[0]} in mode {arm[1]} on {arm[2]} is no arm of this study, see study.base_modes, tuned_modes and cross"
    )


def arms_section(arms):
    """Arms with their files, each as JSON: Linux takes long command lines, but no single argument above 128 KiB."""
    return [
        json.dumps(
            {"run": run, "mode": mode, "dataset": dataset}
            | arm_inputs(run, mode, dataset)
        )
        for run, mode, dataset in arms
    ]


def judge_files():
    """Every judge's scores of every arm."""
    pattern = "results/scores/{run}/{dataset}.{mode}.judge-{judge}.jsonl"
    return [
        pattern.format(**arm, judge=judge)
        for judge in CONFIG.study.judges
        for arm in ARMS
    ]


def arm_table():
    """The arms and their files for the table's script, each as JSON."""
    table = []
    for run, mode, dataset in tuneproof_study.arms(CONFIG):
        of_arm = tuneproof_study.arm_path(run, mode, dataset)
        table.append(
            {
                "dataset": dataset,
                "label": tuneproof_study.arm_name(CONFIG, run, mode),
                "answers": f"results/answers/{of_arm}.jsonl",
                "measures": f"results/scores/{of_arm}.measures.jsonl",
                "scores": [
                    f"results/scores/{of_arm}.judge-{judge}.jsonl"
                    for judge in CONFIG.study.judges
                ],
            }
        )
    return [json.dumps(arm) for arm in table]


def costs_and_usages():
    """What every job of the study cost: Snakemake's measurements; the calls and tokens of those that call a model; and of
    jobs that ask a model where there may be a GPU, the measurement and the file that says how many there were.
    Trainings say themselves how many they had, and for how long.
    """
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
    silent += ["train.{}.{}.{}.{}".format(*run.split("/")) for run in TRAINED]
    # the job and the model that it asks
    calling = {
        f"{rule}.{d}": MADE[d].llm
        for d in pairs
        for rule in ("write_pairs", "rephrase_questions")
    }
    calling |= {f"reanswer.{d}": MADE[d].llm for d in reanswered}
    calling |= {
        f"{rule}.{d}.{types.llm}": types.llm
        for d, types in TYPES.items()
        for rule in ("annotate_types", *(["annotate_human"] if types.human else []))
    }
    silent += [
        f"{rule}.{d}" for d in TYPES for rule in ("train_types", "classify_pairs")
    ]
    for name, spec in MADE.items():
        if spec.kind == "recommendation":
            calling[f"write_requirements.{name}"] = spec.llm
            silent.append(f"make_recommendations.{name}")
        if spec.kind in ("next-steps", "pitch"):
            calling[f"write_instructions.{name}"] = spec.llm
    silent += [f"answer/{load}" for load in LOADS]
    llm_of_judge = {name: judge.llm for name, judge in CONFIG.judges.items()}
    calling |= {
        f"judge/{arm}.{judge}": llm_of_judge[judge]
        for judge in CONFIG.study.judges
        for arm in arms
    }
    calling |= {
        f"compare/{name}": llm_of_judge[comparison.judge]
        for name, comparison in COMPARISONS.items()
    }
    calling |= {
        f"try_judge/{name}.{judge}": llm_of_judge[judge]
        for name, trial in TRIALS.items()
        for judge in trial.judges
    }
    silent.append("audit_leaks")
    usages = [*calling, *(f"answer/{arm}" for arm in arms)]
    said = {f"answer/{load}": f"results/answers/{load}.json" for load in LOADS}
    said |= {
        job: f"results/costs/{job}.usage.json"
        for job, llm in calling.items()
        if CONFIG.llms[llm].engine in GPU_ENGINES
    }
    return (
        [f"results/costs/{name}.tsv" for name in (*silent, *calling)],
        [f"results/costs/{name}.usage.json" for name in usages],
        [(f"results/costs/{job}.tsv", file) for job, file in said.items()],
    )


COSTS, USAGES, PERHAPS_ON_GPU = costs_and_usages()
