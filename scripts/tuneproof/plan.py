"""What a study would cost before anything runs: jobs, GPU and CPU hours, calls, tokens, dollars and disk.

The jobs are Snakemake's own (scripts/plan_study.py asks it), so a plan of a half-finished study is what is left to
do. What the jobs ask of the cluster at most is read from them; what they will take is a model whose every figure is
an `Assumption` below, printed with its source. A time so expected is right within a factor of two, not better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tuneproof.instructions.requirements import each
from tuneproof.llm.budget import dollars as dollars_for
from tuneproof.scores.judge import FEEDBACK_TOKENS
from tuneproof.study import (
    VLLMLLM,
    AnyDataset,
    AnyMethod,
    ApiLLM,
    Config,
    DatasetSpec,
    DialoguesSpec,
    Full,
    InstructionsSpec,
    ModelSpec,
    ReansweredSpec,
    RecommendationSpec,
    TransformersLLM,
    TypedSpec,
    corpus_of,
    llms_of,
    loads,
    made,
    methods_of,
)

HERE, LOGIN, API, CPU, GPU = "this machine", "login node", "API", "CPU", "GPU"


@dataclass(frozen=True)
class Assumption:
    """A figure that the plan rests on."""

    what: str
    value: float
    source: str

    def __str__(self) -> str:
        return f"{self.what}: {self.value:,.10g}. {self.source}"


# Counts that only the corpus and the writer can tell. Source: `make demo`, results/datasets/haldrune/funnel.json.
CHUNKS = Assumption(
    "chunks of a corpus, where there is neither max_chunks nor chunks.jsonl, or as many as `pairs` takes",
    1000,
    "A guess; set max_chunks.",
)
CHUNKS_PER_PAGE = Assumption("chunks a page", 2.3, "Default study: 106 chunks of 46 pages; manuals have 6 to 13.")
CHUNK_FILL = Assumption(
    "length of a chunk, as a share of chunks.max_tokens", 0.75, "Seen on three corpora: 0.68 to 0.86."
)
KEPT = Assumption("share of the written pairs that screening keeps", 0.69, "Default study; manuals 0.34 and 0.58.")

# Tokens. Source: results/costs/*.usage.json of the default study, by the tokenizer of Qwen2.5.
WRITE_PROMPT = Assumption("tokens of the prompt of write_pairs without its chunk", 195, "Default study: 373 - 178.")
WRITTEN_PAIR = Assumption("tokens that a written pair takes", 72, "Default study: 9,565 tokens for 132 pairs.")
REPHRASE_PROMPT = Assumption("tokens of the prompt of rephrase_questions", 90, "Default study: 7,481 in 83 calls.")
WORDING = Assumption("tokens that a wording takes", 20, "Default study: 4,885 for 83 × 3 wordings.")
REANSWER_PROMPT = Assumption("tokens of reanswer's prompt without its chunks", 163, "Default study: 547 - 2 × 192.")
REANSWER = Assumption("tokens of an answer from documents", 16, "Default study: 1,579 in 98 calls.")
ANNOTATE_PROMPT = Assumption("tokens of the prompt of annotate_types", 330, "Seen on 186 pairs of three corpora.")
HUMAN_QUESTIONS = Assumption("questions that people have sorted", 700, "200, 100 and NF-CATS's people's, some of 435.")
SPARE_ROWS = Assumption("rows asked for per row wanted, because checks drop some", 1.6, "instructions/draw.py.")
REQUIREMENTS_PROMPT = Assumption("tokens of the prompt of write_requirements", 288, "Default study: 10 calls.")
REQUIREMENT = Assumption("tokens that a requirement takes", 28, "Default study: 1,510 for 60.")
INSTRUCTIONS_PROMPT = Assumption(
    "tokens of the prompt of write_instructions", 288, "Default study: 17 pitches; calls 321."
)
CALL = Assumption("tokens that the first and last words of a call take", 89, "Sample site: 2,940 in 33 calls.")
PITCH = Assumption("tokens that a pitch takes", 123, "Default study: 2,090 in 17 calls.")
JUDGE_PROMPT = Assumption("tokens of the prompt of judge", 366, "The paper's prompt: 72,564 in 198 calls.")
FEEDBACK = Assumption(
    "tokens that a judge writes under scoring: generated",
    150,
    f"Not measured: a paragraph; at most {FEEDBACK_TOKENS:,}.",
)
TRIED_ANSWERS = Assumption("answers to each question of a trial", 5, "EVOUNA: five systems.")
QUESTION = Assumption("tokens of a question in its chat template", 45, "Default study: 2,961 in 66 calls.")
DIALOGUES = Assumption("dialogues of a data set in training; an eighth as many in tests", 880, "TWEETSUM: 879, 110.")
DIALOGUE = Assumption("tokens of a dialogue with its system prompt in a chat template", 308, "TWEETSUM, SmolLM2.")
DIALOGUE_ROW = Assumption("tokens of a dialogue with its summary", 348, "TWEETSUM, SmolLM2: median 327, longest 864.")
ROW = Assumption("tokens of a training row", 70, "Default study: a question and a sentence of answer.")
PADDING = Assumption("tokens computed per token of a row", 1.5, "Random batches of 8 were a third to a half padding.")

# A GPU.
GPU_FLOPS = Assumption("FLOP/s of a GPU in bf16", 312e12, "NVIDIA's data sheet of the A100.")
GPU_MFU = Assumption(
    "share of it that LoRA training reaches",
    0.25,
    "litgpt, Llama-2-7B LoRA on one A100: 22.8 rows/s; with some 125 tokens a row, × 4 FLOPs × 6.7e9 weights.",
)
GPU_BANDWIDTH = Assumption("bytes/s that an A100-80G reads from its memory", 2.0e12, "NVIDIA's data sheet.")
GPU_DECODING = Assumption(
    "share of it that transformers' generate reaches", 0.25, "Not measured: some 27 ms a step for 7B, launch-bound."
)
LOADING = Assumption("bytes/s at which weights are read from a shared disk", 1e9, "A guess; yours decides.")
GPU_START = Assumption("seconds that a GPU job needs to start", 45, "A guess: imports, CUDA, a container.")

# Two cores (AMD EPYC with AVX-512), as in README's table of the default study. Four are taken to be twice as fast.
CPU_TRAINING = Assumption(
    "FLOP/s that LoRA training reaches on two cores", 2.7e11, "Default study: 187 s for 112 steps of 8 rows."
)
CPU_DECODING = Assumption(
    "seconds of a decoding step of 16 sequences, per weight of the student, on two cores",
    5.6e-10,
    "213 tokens/s, 135M.",
)
LLM_READS = Assumption("prompt tokens/s of a 1.5B LLM in OpenVINO on two cores", 324, "Measured, 16 prompts at once.")
LLM_WRITES = Assumption("tokens/s that it writes", 122, "Measured likewise; another size is taken in proportion.")
VLLM_CALL = Assumption(
    "seconds of a call of a 7B LLM in vLLM on a GPU",
    0.3,
    "Prometheus 2: about 1,000 judgements in 5 minutes, reported.",
)
VLLM_WEIGHTS = 7.24e9
LLM_WEIGHTS = 1.54e9  # of the LLM that was measured
LLM_START = Assumption("seconds that it needs to load, once per group", 4, "Measured, from OpenVINO's folder.")
GGUF_READING = Assumption("bytes/s at which a GGUF is made into that folder", 5e7, "prepare_llm, default study: 20 s.")
GGUF_BYTES = Assumption("bytes a weight takes in a GGUF file of 4 bits", 0.73, "Both models of the default study.")
START = Assumption("seconds that a job needs to start", 5, "README's table: the jobs that do next to nothing.")

# The network.
API_LATENCY = Assumption("seconds until an API begins to reply", 1, "Typical, not measured.")
API_WRITES = Assumption("tokens/s that it writes in one reply", 60, "Typical, not measured.")
API_BATCH = Assumption("seconds until a batch is answered", 3600, "A guess: a day at most is promised.")
DOWNLOAD = Assumption("bytes/s of a download", 50e6, "A guess; yours decides.")

# Bytes on the disk.
STORED_CALL = Assumption("bytes that the store keeps of a call", 6000, "Default study: 2.0 MB for about 350 calls.")
PAGE = Assumption("bytes of a page with its archive, text, chunks and index", 32_000, "4.2 MB for 130 HTML pages.")

# Seconds per item on two cores, beside the start: README's table, and the two corpora of docs/corpora.md.
PER_ITEM = {
    "extract_pages": ("pages", 0.06),
    "chunk_pages": ("pages", 0.06),
    "index_chunks": ("chunks", 0.03),
    "screen_pairs": ("written", 0.02),
    "retrieve": ("tests", 0.01),
    "measure": ("tests", 0.01),
}

# The rules that ask LLMs which write, annotate or judge.
ASKING = {
    "write_pairs",
    "rephrase_questions",
    "reanswer",
    "annotate_types",
    "annotate_human",
    "write_requirements",
    "write_instructions",
    "judge",
    "try_judge",
    "compare",
}

# An expected time is right within a factor of two: a limit should leave as much.
SPARE = 2


@dataclass(frozen=True)
class Job:
    """One job of Snakemake's plan. `slurm_job` is shared by jobs that are submitted together; empty: not submitted.

    `asked_*_min` is its share of the core and GPU minutes that its Slurm job reserves; None: no limit.
    """

    rule: str
    wildcards: Mapping[str, str]
    where: str
    threads: int = 1
    gpus: int = 0
    runtime_min: float | None = None
    slurm_job: str = ""
    asked_cpu_min: float | None = None
    asked_gpu_min: float | None = None


@dataclass(frozen=True)
class Sizes:
    """How many rows a data set is taken to have; `counted` names those that were counted in existing files."""

    pages: int
    chunks: int
    asked: int
    chunk_tokens: float
    written: int
    kept: int
    train: int
    tests: int
    counted: tuple[str, ...] = ()


@dataclass
class Line:
    """One rule's share of the plan. `asked_*` is what its Slurm jobs reserve, None where the profile sets no limit."""

    rule: str
    where: str = ""
    jobs: int = 0
    slurm_jobs: int = 0
    asked_gpu_h: float | None = None
    asked_cpu_h: float | None = None
    gpu_h: float = 0.0
    cpu_h: float = 0.0
    hours: float = 0.0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    dollars: float | None = 0.0  # None: unknown, because an LLM has no price
    disk_gb: float = 0.0
    longest_min: float = 0.0
    limit_min: float | None = None
    submitted: set[str] = field(default_factory=set, repr=False)

    def add(self, job: Job, cost: Cost) -> None:
        """Count a job."""
        self.where = job.where if not self.where or self.where == job.where else f"{self.where}, {job.where}"
        self.jobs += 1
        if job.slurm_job:
            self.submitted.add(job.slurm_job)
            self.slurm_jobs = len(self.submitted)
            if job.runtime_min is not None:
                self.limit_min = min(job.runtime_min, self.limit_min or job.runtime_min)
            if job.asked_cpu_min is not None:
                self.asked_cpu_h = (self.asked_cpu_h or 0.0) + job.asked_cpu_min / 60
                self.asked_gpu_h = (self.asked_gpu_h or 0.0) + (job.asked_gpu_min or 0.0) / 60
        hours = cost.seconds / 3600
        self.longest_min = max(self.longest_min, cost.seconds / 60)
        self.hours += hours
        self.cpu_h += hours * job.threads
        self.gpu_h += hours * job.gpus if job.where == GPU else 0.0
        self.calls += round(cost.calls)
        self.tokens_in += round(cost.calls * cost.prompt)
        self.tokens_out += round(cost.calls * cost.completion)
        self.dollars = None if self.dollars is None or cost.dollars is None else self.dollars + cost.dollars
        self.disk_gb += cost.disk / 1e9


@dataclass(frozen=True)
class Cost:
    """What one job is expected to take: seconds, calls with tokens each, dollars (None: no price), bytes it leaves."""

    seconds: float
    calls: float = 0
    prompt: float = 0
    completion: float = 0
    dollars: float | None = 0.0
    disk: float = 0


def sizes_of(config: Config, dataset: str, counted: Mapping[str, int]) -> Sizes:
    """Return a data set's sizes: counted where its files exist, else from the configuration and the assumptions.

    `counted` may hold pages, chunks, written, kept, train, tests.
    """
    spec = config.datasets[dataset]
    if not isinstance(spec, DatasetSpec):
        return _sizes_of_another_kind(config, dataset, spec, counted)
    needed = math.ceil((spec.pairs or 0) / (KEPT.value * spec.pairs_per_chunk))
    chunks = counted.get("chunks") or spec.max_chunks or max(int(CHUNKS.value), needed)
    asked = min(chunks, spec.max_chunks or chunks, needed or chunks)
    written = counted.get("written") or asked * spec.pairs_per_chunk
    kept = counted.get("kept") or min(round(KEPT.value * written), spec.pairs or written)
    trained = kept * (1 - spec.splits.test_pages - spec.splits.val_pages)
    new_pages = min(spec.splits.max_new_page_questions, kept * spec.splits.test_pages)
    trained_pages = min(spec.splits.max_trained_page_questions, trained)
    return Sizes(
        pages=counted.get("pages") or round(chunks / CHUNKS_PER_PAGE.value),
        chunks=chunks,
        asked=asked,
        chunk_tokens=CHUNK_FILL.value * config.corpora[spec.corpus].chunks.max_tokens,
        written=written,
        kept=kept,
        train=counted.get("train") or round(trained * (spec.phrasings - 1)),
        tests=counted.get("tests") or round(new_pages + trained_pages),
        counted=tuple(sorted(counted)),
    )


def _sizes_of_another_kind(
    config: Config,
    dataset: str,
    spec: ReansweredSpec | TypedSpec | RecommendationSpec | InstructionsSpec | DialoguesSpec,
    counted: Mapping[str, int],
) -> Sizes:
    if isinstance(spec, DialoguesSpec):  # nothing is asked for or written
        train = counted.get("train") or int(DIALOGUES.value)
        tests = counted.get("tests") or train // 8
        return Sizes(0, 0, 0, 0.0, 0, 0, train, tests, tuple(sorted(counted)))
    if isinstance(spec, ReansweredSpec | TypedSpec):
        of_corpus = {name: counted[name] for name in ("pages", "chunks") if name in counted}
        parent = sizes_of(config, spec.of, of_corpus)
        train, tests = parent.train, parent.tests
        if isinstance(spec, TypedSpec):
            train, tests = min(spec.rows, train // 2), min(2 * spec.tests, tests // 2)
        parent = replace(parent, counted=tuple(sorted(counted)))
        return replace(parent, train=counted.get("train") or train, tests=counted.get("tests") or tests)
    corpus = config.corpora[name] if (name := corpus_of(config, dataset)) else None
    chunks = counted.get("chunks") or int(CHUNKS.value)
    asked = math.ceil(spec.rows * SPARE_ROWS.value)
    if isinstance(spec, RecommendationSpec) and corpus:  # a call each, and a product is a page
        asked = min(asked, counted.get("pages", asked))
    return Sizes(
        pages=counted.get("pages") or round(chunks / CHUNKS_PER_PAGE.value),
        chunks=chunks,
        asked=asked,
        chunk_tokens=CHUNK_FILL.value * (corpus.chunks.max_tokens if corpus else 256),
        written=counted.get("written") or round(spec.rows * SPARE_ROWS.value),
        kept=spec.rows,
        train=counted.get("train") or spec.rows - spec.validation - spec.tests,
        tests=counted.get("tests") or spec.tests,
        counted=tuple(sorted(counted)),
    )


def plan(config: Config, jobs: Iterable[Job], sizes: Mapping[str, Sizes]) -> list[Line]:
    """Return one line per rule, in the order of the jobs."""
    lines: dict[str, Line] = {}
    for job in jobs:
        lines.setdefault(job.rule, Line(job.rule)).add(job, cost_of(config, job, sizes))
    return list(lines.values())


def total(lines: Sequence[Line]) -> Line:
    """Sum the lines. Hours are summed too: what one machine after the other would take."""
    result = Line("total", jobs=0)
    for line in lines:
        for name, value in vars(line).items():
            if name not in ("rule", "where", "submitted", "longest_min", "limit_min") and value is not None:
                setattr(result, name, (getattr(result, name) or 0) + value)
    # jobs of several rules may share a Slurm job
    result.slurm_jobs = len(set().union(*(line.submitted for line in lines)))
    return result


def cost_of(config: Config, job: Job, sizes: Mapping[str, Sizes]) -> Cost:
    """Return what a job is expected to take; a rule that nothing is known of takes the time of its start."""
    if job.rule == "answer":
        return _answer(config, job, sizes)
    size = _size(config, job, sizes)
    if job.rule in PER_ITEM and size:
        counted, seconds = PER_ITEM[job.rule]
        return Cost((START.value + getattr(size, counted) * seconds) * 2 / max(job.threads, 2))
    costs: dict[str, Callable[[Config, Job, Sizes | None], Cost]] = {
        "fetch_model": _fetch_model,
        "prepare_student": _prepare_student,
        "prepare_llm": _prepare_llm,
        "crawl": _crawl,
        "write_pairs": _write_pairs,
        "rephrase_questions": _rephrase_questions,
        "reanswer": _reanswer,
        "annotate_types": _annotate_types,
        "annotate_human": _annotate_human,
        "write_requirements": _write_requirements,
        "write_instructions": _write_instructions,
        "train": _train,
        "train_full": _train,
        "judge": _judge,
        "try_judge": _try_judge,
        "compare": _compare,
    }
    return costs[job.rule](config, job, size) if job.rule in costs else Cost(START.value)


def _size(config: Config, job: Job, sizes: Mapping[str, Sizes]) -> Sizes | None:
    if dataset := job.wildcards.get("dataset"):
        return sizes[dataset]
    if comparison := job.wildcards.get("comparison"):
        return sizes[config.study.comparisons[comparison].datasets[0]]
    corpus = job.wildcards.get("corpus")
    return next((sizes[d] for d in sizes if corpus and corpus_of(config, d) == corpus), None)


def weights_of(model: ModelSpec) -> float:
    """Return the number of a model's weights, from the size of its files: two bytes each, or GGUF's share of one."""
    bytes_each = GGUF_BYTES.value if model.format == "gguf" else 2
    return sum(file.size for file in model.files) / bytes_each


def trained_weights(model: ModelSpec, method: AnyMethod) -> float:
    """Return the weights that are trained: all, or an adapter's on a model of Llama's proportions.

    These are 12 h² weights a layer and h / 128 layers.
    """
    if isinstance(method, Full):
        return weights_of(model)
    width = float((weights_of(model) * 128 / 12) ** (1 / 3))
    # in + out of q, k, v, o are 2 h each; of gate, up, down h + 8/3 h each
    per_layer = 19 if method.targets == "all-linear" else 2 * len(method.targets)
    return method.rank * per_layer * width * width / 128


def row_tokens(spec: AnyDataset) -> tuple[float, float]:
    """Return the tokens that a row of a data set is taken to have, and those of its question alone."""
    if isinstance(spec, DialoguesSpec):
        return DIALOGUE_ROW.value, DIALOGUE.value
    return ROW.value, QUESTION.value


def _fetch_model(config: Config, job: Job, _: Sizes | None) -> Cost:
    size = sum(file.size for file in config.models[job.wildcards["model"]].files)
    return Cost(START.value + size / DOWNLOAD.value, disk=size)


def _prepare_student(config: Config, job: Job, _: Sizes | None) -> Cost:
    size = 2 * weights_of(config.models[job.wildcards["model"]])
    return Cost(3 * START.value + 3 * size / LOADING.value, disk=size)  # read, write, digest


def _prepare_llm(config: Config, job: Job, _: Sizes | None) -> Cost:
    size = sum(file.size for file in config.models[job.wildcards["model"]].files)
    return Cost(START.value + size / GGUF_READING.value, disk=1.2 * size)


def _crawl(config: Config, job: Job, size: Sizes | None) -> Cost:
    crawl = config.corpora[job.wildcards["corpus"]].crawl
    pages = size.pages if size else 0
    delay = max(crawl.delay_s, 0.01) if crawl else 0
    return Cost(START.value + pages * delay, disk=pages * PAGE.value)


def _write_pairs(config: Config, job: Job, size: Sizes | None) -> Cost:
    spec = config.datasets[job.wildcards["dataset"]]
    assert size and isinstance(spec, DatasetSpec)
    prompt = WRITE_PROMPT.value + size.chunk_tokens
    return _calls(config, spec.llm, job, size.asked, prompt, spec.pairs_per_chunk * WRITTEN_PAIR.value)


def _rephrase_questions(config: Config, job: Job, size: Sizes | None) -> Cost:
    spec = config.datasets[job.wildcards["dataset"]]
    assert size and isinstance(spec, DatasetSpec)
    return _calls(config, spec.llm, job, size.kept, REPHRASE_PROMPT.value, spec.phrasings * WORDING.value)


def _reanswer(config: Config, job: Job, size: Sizes | None) -> Cost:
    spec = config.datasets[job.wildcards["dataset"]]
    assert size and isinstance(spec, ReansweredSpec)
    documents = 1 if spec.retriever == "oracle" else spec.top_k
    prompt = REANSWER_PROMPT.value + documents * size.chunk_tokens
    return _calls(config, spec.llm, job, size.kept, prompt, REANSWER.value)


def _annotate_types(config: Config, job: Job, size: Sizes | None) -> Cost:
    spec = config.datasets[job.wildcards["dataset"]]
    assert size and isinstance(spec, DatasetSpec) and spec.types
    return _calls(config, spec.types.llm, job, min(spec.types.annotated, size.kept), ANNOTATE_PROMPT.value, 1)


def _annotate_human(config: Config, job: Job, size: Sizes | None) -> Cost:
    spec = config.datasets[job.wildcards["dataset"]]
    assert isinstance(spec, DatasetSpec) and spec.types
    return _calls(config, spec.types.llm, job, int(HUMAN_QUESTIONS.value), ANNOTATE_PROMPT.value, 1)


def _write_requirements(config: Config, job: Job, size: Sizes | None) -> Cost:
    spec = config.datasets[job.wildcards["dataset"]]
    assert size and isinstance(spec, RecommendationSpec)
    written = each(spec.rows, size.asked) * REQUIREMENT.value
    return _calls(config, spec.llm, job, size.asked, REQUIREMENTS_PROMPT.value, written)


def _write_instructions(config: Config, job: Job, size: Sizes | None) -> Cost:
    spec = config.datasets[job.wildcards["dataset"]]
    assert size and isinstance(spec, InstructionsSpec)
    written = CALL if spec.kind == "next-steps" else PITCH
    return _calls(config, spec.llm, job, size.asked, INSTRUCTIONS_PROMPT.value, written.value)


def _judge(config: Config, job: Job, size: Sizes | None) -> Cost:
    assert size
    return _judged(config, job.wildcards["judge"], job, size.tests)


def _try_judge(config: Config, job: Job, _: Sizes | None) -> Cost:
    trial = config.trials[job.wildcards["trial"]]
    return _judged(config, job.wildcards["judge"], job, round(trial.questions * TRIED_ANSWERS.value))


def _compare(config: Config, job: Job, size: Sizes | None) -> Cost:
    assert size
    return _judged(config, config.study.comparisons[job.wildcards["comparison"]].judge, job, 2 * size.tests)


def _judged(config: Config, judge: str, job: Job, verdicts: int) -> Cost:
    """So many verdicts of a judge: a feedback each where it writes, else one token."""
    spec = config.judges[judge]
    completion = FEEDBACK.value if spec.scoring == "generated" else 1
    return _calls(config, spec.llm, job, verdicts, JUDGE_PROMPT.value, completion)


def _calls(config: Config, name: str, job: Job, calls: int, prompt: float, completion: float) -> Cost:
    llm = config.llms[name]
    disk = calls * STORED_CALL.value
    if isinstance(llm, ApiLLM):
        # nothing is taken off for prompts that the provider caches: whether it does, it says only afterwards
        dollars = calls * dollars_for(prompt, 0, completion, llm.price, llm.batch) if llm.price else None
        live = calls * (API_LATENCY.value + completion / API_WRITES.value) / llm.max_concurrent
        seconds = START.value + (API_BATCH.value if llm.batch else live)
        return Cost(seconds, calls, prompt, completion, dollars, disk)
    weights = weights_of(config.models[llm.model])
    if isinstance(llm, VLLMLLM):
        start = GPU_START.value + 2 * weights / LOADING.value
        return Cost(start + calls * VLLM_CALL.value * weights / VLLM_WEIGHTS, calls, prompt, completion, disk=disk)
    if isinstance(llm, TransformersLLM):
        seconds = _start_of(weights, job)
        seconds += _generating(weights, job, calls, prompt, completion, llm.group_size)
        return Cost(seconds, calls, prompt, completion, disk=disk)
    slower = weights / LLM_WEIGHTS * 2 / max(job.threads, 1)
    groups = -(-calls // llm.group_size)
    seconds = calls * (prompt / LLM_READS.value + completion / LLM_WRITES.value) * slower + groups * LLM_START.value
    return Cost(START.value + seconds, calls, prompt, completion, disk=disk)


def _train(config: Config, job: Job, size: Sizes | None) -> Cost:
    model, method = config.models[job.wildcards["model"]], methods_of(config)[job.wildcards["method"]]
    assert size
    row, _ = row_tokens(config.datasets[job.wildcards["dataset"]])
    tokens = size.train * method.epochs * row * PADDING.value
    # Forward 2 per weight and token, and 2 back through the frozen weights to the adapters (their own gradients, the
    # other 2 of Kaplan et al. 2020, are not taken); checkpointing does the forward pass twice.
    passes = 6 if isinstance(method, Full) else 4
    flops = (passes + 2 * (method.gradient_checkpointing is True)) * weights_of(model) * tokens
    if job.where == GPU:
        start = GPU_START.value + 2 * weights_of(model) / LOADING.value
        seconds = start + flops / (max(job.gpus, 1) * GPU_FLOPS.value * GPU_MFU.value)
    else:
        seconds = 3 * START.value + flops / CPU_TRAINING.value * 2 / max(job.threads, 1)
    trained = 4 * trained_weights(model, method)
    # while it runs: the last two checkpoints and the best, each with Adam's two moments
    return Cost(seconds, disk=trained + 3 * 3 * trained)


def _answer(config: Config, job: Job, sizes: Mapping[str, Sizes]) -> Cost:
    """The arms that share a loaded base, one after the other."""
    seconds = calls = read = 0.0
    written, together = config.decoding.max_new_tokens, config.decoding.batch_size
    for n, (run, mode, dataset) in enumerate(loads(config)[job.wildcards["load"]]):
        size, (_, prompt) = sizes[dataset], row_tokens(config.datasets[dataset])
        if mode != "closed":
            prompt += size.chunk_tokens * (config.retrieval.top_k if mode == "rag" else 1)
        weights = weights_of(config.models[run.model])
        start = _start_of(weights, job) if n == 0 else 0.0
        seconds += start + _generating(weights, job, size.tests, prompt, written, together)
        calls, read = calls + size.tests, read + size.tests * prompt
    return Cost(seconds, calls, read / max(calls, 1), written, disk=calls * STORED_CALL.value)


def _generating(weights: float, job: Job, rows: int, prompt: float, written: float, together: int) -> float:
    """Return the seconds in which transformers' generate answers rows, so many together, without its start."""
    steps = -(-rows // together) * written
    reading = 2 * weights * rows * prompt
    if job.where == GPU:
        step = 2 * weights / (GPU_BANDWIDTH.value * GPU_DECODING.value)
        return steps * step + reading / (GPU_FLOPS.value * GPU_MFU.value)
    slower = 2 / max(job.threads, 1)
    return slower * (steps * CPU_DECODING.value * weights + reading / CPU_TRAINING.value)


def _start_of(weights: float, job: Job) -> float:
    """Return the seconds until transformers' generate begins: imports, and the weights."""
    return GPU_START.value + 2 * weights / LOADING.value if job.where == GPU else 2 * START.value


# --- in words ---

_HEAD = (
    "rule",
    "where",
    "jobs",
    "Slurm jobs",
    "asked GPU-h",
    "asked CPU-h",
    "GPU-h",
    "CPU-h",
    "hours",
    "calls",
    "tokens in",
    "tokens out",
    "$",
    "GB",
)


_NONE = "–"


def table(lines: Sequence[Line]) -> str:
    """Return the lines and their total as a Markdown table that lines up on a terminal too, without empty columns."""
    body = [_row(line) for line in (*lines, total(lines))]
    filled = [i for i in range(len(_HEAD)) if any(row[i] != _NONE for row in body)]
    rows = [[row[i] for i in filled] for row in (_HEAD, *body)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(filled))]
    texts = ["| " + " | ".join(_cell(row[i], widths[i], i < 2) for i in range(len(row))) + " |" for row in rows]
    rule = "|" + "|".join("-" * (width + 1) + ("-" if i < 2 else ":") for i, width in enumerate(widths)) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])


def _cell(text: str, width: int, left: bool) -> str:
    return text.ljust(width) if left else text.rjust(width)


def _row(line: Line) -> tuple[str, ...]:
    def number(value: float | None, digits: int) -> str:
        if not value:
            return _NONE
        shown = f"{value:,.{digits}f}"
        return f"<{10**-digits:g}" if float(shown.replace(",", "")) == 0 else shown

    return (
        line.rule,
        line.where,
        str(line.jobs),
        number(line.slurm_jobs, 0),
        number(line.asked_gpu_h, 1),
        number(line.asked_cpu_h, 1),
        number(line.gpu_h, 2),
        number(line.cpu_h, 2),
        number(line.hours, 2),
        number(line.calls, 0),
        number(line.tokens_in, 0),
        number(line.tokens_out, 0),
        number(line.dollars, 2),
        number(line.disk_gb, 1),
    )


def notes(config: Config, lines: Sequence[Line], sizes: Mapping[str, Sizes]) -> list[str]:
    """Return what the counts are taken from, what the columns mean, and what is missing."""
    sentences = [
        f"{name}: {_made_of(config, name, size)}{size.train:,} training rows, {size.tests:,} test questions "
        + (f"({', '.join(size.counted)}: counted; the rest is expected)" if size.counted else "(all of it expected)")
        for name, size in sizes.items()
    ]
    if any(line.asked_cpu_h for line in lines):
        sentences.append(
            "asked: time limit × cores or GPUs of every Slurm job at its first attempt; a retry asks again, and more"
        )
    sentences += [
        f"{line.rule}: a job is expected to take {line.longest_min:.0f} min and its limit is {line.limit_min:.0f} min: "
        "raise `runtime` in the profile"
        for line in lines
        if line.limit_min and line.longest_min > line.limit_min / SPARE
    ]
    sentences.append("hours: the jobs one after the other; calls that the store already holds are not taken off")
    unpriced = [n for n in llms_of(config) if isinstance(llm := config.llms[n], ApiLLM) and not llm.price]
    if budget := over_budget(config, lines):
        sentences.append(budget)
    if unpriced:
        sentences.append(f"no dollars for {', '.join(unpriced)}: the configuration has no price")
    return sentences


def over_budget(config: Config, lines: Sequence[Line]) -> str:
    """Return a sentence where the calls to APIs are expected to take more than the budget; empty where not."""
    calling = [line for line in lines if API in line.where]
    tokens = sum(line.tokens_in + line.tokens_out for line in calling)
    dollars = sum(line.dollars or 0 for line in calling)
    budget = config.calls.budget
    if budget.dollars is not None and dollars > budget.dollars:
        return f"calls.budget.dollars: ${budget.dollars:g} is less than the ${dollars:.2f} expected: the run will stop"
    if budget.tokens is not None and tokens > budget.tokens:
        return f"calls.budget.tokens: {budget.tokens:,} is less than the {tokens:,} expected: the run will stop"
    return ""


def _made_of(config: Config, dataset: str, size: Sizes) -> str:
    """Return what a data set is made of, in words; nothing for dialogues, which are read as they are."""
    if isinstance(config.datasets[dataset], DialoguesSpec):
        return ""
    chunks = _of_chunks(config, dataset, size)
    return f"{size.asked:,} {chunks} are asked about, {size.written:,} pairs written, {size.kept:,} kept, "


def _of_chunks(config: Config, dataset: str, size: Sizes) -> str:
    if "chunks" in size.counted:
        return f"of {size.chunks:,} chunks"
    spec = config.datasets[dataset]
    written = config.datasets[spec.of] if isinstance(spec, ReansweredSpec | TypedSpec) else spec
    if getattr(written, "max_chunks", None):
        return "chunks (max_chunks; the corpus is not cut yet)"
    return "chunks (a guess: the corpus is not cut yet and max_chunks is not set)"


def assumptions(lines: Sequence[Line], config: Config) -> list[Assumption]:
    """Return the assumptions that stand behind the lines."""
    specs = made(config).values()
    dialogues = [spec for spec in specs if isinstance(spec, DialoguesSpec)]
    rules = {line.rule for line in lines}
    where = ", ".join(line.where for line in lines)
    chosen = [CHUNKS, CHUNK_FILL, CHUNKS_PER_PAGE, KEPT] if len(dialogues) < len(specs) else []
    if "write_pairs" in rules:
        chosen += [WRITE_PROMPT, WRITTEN_PAIR]
    if "rephrase_questions" in rules:
        chosen += [REPHRASE_PROMPT, WORDING]
    if "reanswer" in rules:
        chosen += [REANSWER_PROMPT, REANSWER]
    if rules & {"annotate_types", "annotate_human"}:
        chosen += [ANNOTATE_PROMPT]
    if "annotate_human" in rules:
        chosen += [HUMAN_QUESTIONS]
    if "write_requirements" in rules:
        chosen += [SPARE_ROWS, REQUIREMENTS_PROMPT, REQUIREMENT]
    if "write_instructions" in rules:
        chosen += [SPARE_ROWS, INSTRUCTIONS_PROMPT, CALL, PITCH]
    if rules & {"judge", "try_judge", "compare"}:
        chosen += [JUDGE_PROMPT, FEEDBACK]
    if "try_judge" in rules:
        chosen += [TRIED_ANSWERS]
    if rules & {"train", "train_full", "answer"}:
        chosen += [QUESTION, ROW] if len(dialogues) < len(specs) else []
        chosen += [DIALOGUES, DIALOGUE, DIALOGUE_ROW] if dialogues else []
        chosen += [PADDING, GGUF_BYTES]
        if GPU in where:
            chosen += [GPU_FLOPS, GPU_MFU, GPU_BANDWIDTH, GPU_DECODING, GPU_START]
        else:
            chosen += [CPU_TRAINING, CPU_DECODING]
    if rules & ASKING:
        chosen += [API_LATENCY, API_WRITES, API_BATCH] if API in where else []
        chosen += [VLLM_CALL, LOADING, GPU_BANDWIDTH, GPU_DECODING] if GPU in where else []
        chosen += [LLM_READS, LLM_WRITES, LLM_START]
    if "prepare_llm" in rules:
        chosen += [GGUF_READING]
    if rules & {"fetch_model", "prepare_student"}:
        chosen += [DOWNLOAD, LOADING]
    return [*dict.fromkeys(chosen), START, STORED_CALL, PAGE]


def as_json(config: Config, lines: Sequence[Line], sizes: Mapping[str, Sizes]) -> dict[str, Any]:
    """Return the plan as plain data."""

    def plain(line: Line) -> dict[str, Any]:
        return {name: value for name, value in asdict(line).items() if name != "submitted"}

    return {
        "study": config.study.name,
        "lines": [plain(line) for line in lines],
        "total": plain(total(lines)),
        "sizes": {name: asdict(size) for name, size in sizes.items()},
        "assumptions": [asdict(assumption) for assumption in assumptions(lines, config)],
    }
