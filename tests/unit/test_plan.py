"""The plan's arithmetic, against numbers that can be worked out by hand, and the drawing of the rules."""

import copy
import math

import pytest
import yaml

from tuneproof import dag, plan
from tuneproof.errors import InputError
from tuneproof.plan import API, CPU, GPU, HERE, LOGIN, Job
from tuneproof.study import load


@pytest.fixture
def config(root):
    return load(yaml.safe_load((root / "config.yaml").read_text()))


def laid_over(root, study):
    """A study, laid over the default one as Snakemake lays it."""
    base = yaml.safe_load((root / "config.yaml").read_text())
    over = yaml.safe_load((root / "studies" / f"{study}.yaml").read_text())
    for section, content in over.items():
        base[section] = {**base.get(section, {}), **content}
    return load(base)


@pytest.fixture
def paper(root):
    return laid_over(root, "beyond-qa-pairs")


@pytest.fixture
def dialogues(root):
    return laid_over(root, "tweetsum")


def sizes(config, **counted):
    return {name: plan.sizes_of(config, name, counted) for name in config.study.datasets}


def cost(config, rule, where=HERE, threads=2, gpus=0, counted=None, **wildcards):
    return plan.cost_of(config, Job(rule, wildcards, where, threads, gpus), sizes(config, **(counted or {})))


# --- sizes ---


def test_the_papers_sizes_come_from_its_configuration(paper):
    size = sizes(paper)["d-naive"]
    assert (size.kept, size.counted) == (20_000, ())
    assert size.asked == math.ceil(20_000 / (4 * plan.KEPT.value)), (
        "so many chunks that 20,000 pairs are left of four each"
    )
    assert size.train == round(0.75 * size.kept), "one wording of each pair on 75 % of the pages"


def test_dialogues_are_read_and_their_rows_have_lengths_of_their_own(dialogues):
    size = sizes(dialogues)["tweetsum"]
    assert (size.train, size.tests, size.asked, size.written) == (880, 110, 0, 0)
    assert sizes(dialogues, train=8, tests=3)["tweetsum"].tests == 3
    where = {"model": "llama-2-7b-chat", "dataset": "tweetsum"}
    train = cost(dialogues, "train", GPU, 8, 1, method="qlora-dissertation", **where)
    start = plan.GPU_START.value + 2 * 6.74e9 / plan.LOADING.value
    tokens = 880 * 3 * plan.DIALOGUE_ROW.value * plan.PADDING.value
    flops = 4 * 6.74e9 * tokens
    assert train.seconds == pytest.approx(start + flops / (plan.GPU_FLOPS.value * plan.GPU_MFU.value), rel=0.01)
    answer = cost(dialogues, "answer", GPU, 8, 1, load="llama-2-7b-chat/base/load0")
    assert (answer.calls, answer.prompt, answer.completion) == (110, plan.DIALOGUE.value, 192)
    lines = plan.plan(
        dialogues, [Job("train", {**where, "method": "qlora-dissertation", "seed": "1"}, GPU)], sizes(dialogues)
    )
    assert not {plan.CHUNKS, plan.KEPT, plan.ROW} & {*plan.assumptions(lines, dialogues)}
    assert "tweetsum: 880 training rows, 110 test questions (all of it expected)" in plan.notes(
        dialogues, lines, sizes(dialogues)
    )


def test_what_is_there_is_counted_and_not_guessed(config):
    counted = {"chunks": 106, "pages": 46, "written": 121, "kept": 83, "train": 103, "tests": 66}
    size = sizes(config, **counted)["haldrune"]
    assert {name: getattr(size, name) for name in counted} == counted
    assert size.asked == 44
    assert size.counted == tuple(sorted(counted))


def test_the_guess_of_the_default_study_is_near_what_it_made(config):
    size = sizes(config, chunks=106, written=121)["haldrune"]
    assert size.kept == pytest.approx(83, rel=0.05)
    assert size.train == pytest.approx(103, rel=0.1)
    assert size.tests == pytest.approx(66, rel=0.1)


def test_each_product_is_a_call_that_writes_several_requirements(config):
    rows = config.datasets["haldrune-products"].rows
    few = plan.sizes_of(config, "haldrune-products", {"pages": 10})
    many = plan.sizes_of(config, "haldrune-products", {"pages": 10_000})
    assert (few.asked, many.asked) == (10, math.ceil(1.6 * rows))
    job = Job("write_requirements", {"dataset": "haldrune-products"}, HERE, 2, 0)
    costs = [plan.cost_of(config, job, {"haldrune-products": size}) for size in (few, many)]
    assert [(c.calls, c.completion / plan.REQUIREMENT.value) for c in costs] == [(10, 5), (39, 3)]


# --- one job ---


def test_training_is_flops_over_what_the_gpus_reach(paper):
    size = sizes(paper)["d-naive"]
    tokens = size.train * 5 * plan.ROW.value * plan.PADDING.value
    weights = plan.weights_of(paper.models["llama-2-7b"])
    assert weights == pytest.approx(6.74e9, rel=0.01)
    seconds = 6 * weights * tokens / (4 * 312e12 * 0.25)
    wildcards = {"model": "llama-2-7b", "method": "lora-paper", "dataset": "d-naive", "seed": "1"}
    taken = cost(paper, "train", GPU, gpus=4, **wildcards).seconds
    assert taken == pytest.approx(seconds + 45 + 2 * weights / 1e9)


def test_half_the_gpus_take_twice_as_long_apart_from_the_start(paper):
    wildcards = {"model": "llama-2-7b", "method": "lora-paper", "dataset": "d-naive", "seed": "1"}
    four, two = (cost(paper, "train", GPU, gpus=n, **wildcards).seconds for n in (4, 2))
    start = 45 + 2 * plan.weights_of(paper.models["llama-2-7b"]) / 1e9
    assert two - start == pytest.approx(2 * (four - start))


def test_a_full_tuning_is_a_rule_of_its_own_and_takes_six_passes(config):
    content = config.model_dump()
    content["methods"]["whole"] = {"kind": "full", "epochs": 3, "learning_rate": 1e-5, "batch_size": 8}
    whole = load(content)
    of = {"model": "smollm2-135m-instruct", "method": "whole", "dataset": "haldrune"}
    flops = 6 * plan.weights_of(whole.models["smollm2-135m-instruct"]) * 3 * sizes(whole)["haldrune"].train
    flops *= plan.ROW.value * plan.PADDING.value
    taken = cost(whole, "train_full", **of)
    assert taken.seconds == pytest.approx(3 * plan.START.value + flops / plan.CPU_TRAINING.value)
    lines = plan.plan(whole, [Job("train_full", {**of, "seed": "1"}, HERE)], sizes(whole))
    assert plan.CPU_TRAINING in plan.assumptions(lines, whole)


def test_dollars_are_tokens_times_the_price(paper):
    written = cost(paper, "write_pairs", API, dataset="d-naive")
    prompt, completion = plan.WRITE_PROMPT.value + 0.75 * 480, 4 * plan.WRITTEN_PAIR.value
    calls = sizes(paper)["d-naive"].asked
    assert (written.calls, written.prompt, written.completion) == (calls, prompt, completion)
    assert written.dollars == pytest.approx(calls * (prompt * 2 + completion * 8) / 1e6)


def test_without_a_price_there_are_no_dollars_and_a_note_says_so(paper):
    content = paper.model_dump()
    content["llms"]["gpt-writer"]["price"] = None
    unpriced = load(content)
    lines = plan.plan(unpriced, [Job("write_pairs", {"dataset": "d-naive"}, API)], sizes(unpriced))
    assert lines[0].dollars is None
    assert "no dollars for gpt-writer" in " ".join(plan.notes(unpriced, lines, sizes(unpriced)))


def test_one_llm_without_a_price_makes_the_dollars_of_a_rule_unknown(paper):
    content = copy.deepcopy(paper.model_dump())
    content["llms"]["unpriced"] = {**content["llms"]["gpt-judge"], "price": None}
    content["judges"]["other"] = {**content["judges"]["gpt"], "llm": "unpriced"}
    both = load(content)
    of = {"run": "llama-2-7b/base", "mode": "closed", "dataset": "d-naive"}
    jobs = [Job("judge", {**of, "judge": judge}, API) for judge in ("gpt", "other", "gpt")]
    assert plan.plan(both, jobs[:1], sizes(both))[0].dollars > 0
    assert plan.plan(both, jobs, sizes(both))[0].dollars is None


def test_a_batch_takes_its_own_time_and_transformers_is_not_costed_as_openvino(paper, config):
    content = copy.deepcopy(paper.model_dump())
    content["llms"]["gpt-writer"]["batch"] = True
    batch = cost(load(content), "write_pairs", API, dataset="d-naive")
    assert batch.seconds == plan.START.value + plan.API_BATCH.value
    content = copy.deepcopy(config.model_dump())
    content["llms"]["qwen"] = {"engine": "transformers", "model": "qwen2.5-coder-1.5b-instruct"}
    there, here = (
        cost(load(content), "write_pairs", where, gpus=1, dataset="haldrune").seconds for where in (GPU, HERE)
    )
    assert 5 * there < here


def test_a_judge_that_writes_feedback_costs_more_than_one_that_does_not(paper):
    content = copy.deepcopy(paper.model_dump())
    content["judges"]["gpt"]["scoring"] = "expected"
    wildcards = {"run": "llama-2-7b/base", "mode": "closed", "dataset": "d-naive", "judge": "gpt"}
    short, long = (cost(c, "judge", API, **wildcards) for c in (load(content), paper))
    assert (short.completion, long.completion) == (1, plan.FEEDBACK.value)
    assert short.dollars < long.dollars


# seconds in README's table of the default study, on two cores
MEASURED = {
    "train": (187, {"model": "smollm2-135m-instruct", "method": "lora", "dataset": "haldrune", "seed": "1"}),
    "write_pairs": (177, {"dataset": "haldrune"}),
    "rephrase_questions": (60, {"dataset": "haldrune"}),
    "judge": (
        175 / 3,
        {"run": "smollm2-135m-instruct/base", "dataset": "haldrune", "mode": "closed", "judge": "qwen"},
    ),
    "answer": (2 * 72 / 3, {"load": "smollm2-135m-instruct/base/load0"}),
    "index_chunks": (9, {"corpus": "haldrune"}),
    "screen_pairs": (5, {"dataset": "haldrune"}),
    "prepare_student": (19, {"model": "smollm2-135m-instruct"}),
}


@pytest.mark.parametrize("rule", MEASURED)
def test_the_default_studys_times_are_met_within_a_factor_of_two(config, rule):
    seconds, wildcards = MEASURED[rule]
    expected = cost(config, rule, counted={"chunks": 106, "kept": 96, "tests": 66}, **wildcards).seconds
    assert seconds / 2 < expected < 2 * seconds


def test_an_adapters_size_is_met_within_a_factor_of_two(config):
    model, method = config.models["smollm2-135m-instruct"], config.methods["lora"]
    assert 39_131_224 / 2 < 4 * plan.trained_weights(model, method) < 39_131_224 * 2


def test_a_rule_that_nothing_is_known_of_is_counted_too(config):
    assert cost(config, "some_new_rule", dataset="haldrune").seconds == plan.START.value


# --- the table ---

SLURM = [
    Job("crawl", {"corpus": "haldrune"}, LOGIN),
    Job("measure", {"dataset": "haldrune"}, CPU, 1, 0, 60, "group 1", 60, 0),
    Job("measure", {"dataset": "haldrune"}, CPU, 1, 0, 60, "group 1", 60, 0),
    Job("tabulate_scores", {}, CPU, 1, 0, 30, "group 1", 30, 0),
    Job(
        "train",
        {"model": "smollm2-135m-instruct", "method": "lora", "dataset": "haldrune", "seed": "1"},
        GPU,
        8,
        4,
        90,
        "job 4",
        8 * 90,
        4 * 90,
    ),
]


def test_what_is_asked_is_the_limit_times_cores_and_gpus(config):
    lines = {line.rule: line for line in plan.plan(config, SLURM, sizes(config))}
    assert (lines["train"].asked_gpu_h, lines["train"].asked_cpu_h) == (6.0, 12.0)
    assert (lines["measure"].jobs, lines["measure"].slurm_jobs, lines["measure"].asked_cpu_h) == (2, 1, 2.0)
    assert (lines["crawl"].slurm_jobs, lines["crawl"].asked_cpu_h) == (0, None)


def test_a_slurm_job_of_several_rules_is_counted_once_in_the_total(config):
    total = plan.total(plan.plan(config, SLURM, sizes(config)))
    assert (total.jobs, total.slurm_jobs, total.asked_gpu_h, total.asked_cpu_h) == (5, 2, 6.0, 14.5)


def test_the_table_is_markdown_with_a_total_and_without_empty_columns(config):
    text = plan.table(plan.plan(config, SLURM, sizes(config)))
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1, "columns line up"
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "crawl",
        "measure",
        "tabulate_scores",
        "train",
        "total",
    ]
    assert "asked GPU-h" in lines[0]
    assert "$" not in lines[0], "nothing here costs dollars"


def test_a_limit_without_room_is_named(paper):
    jobs = [Job("write_pairs", {"dataset": "d-naive"}, API, 1, 0, 10, "job 1")]
    notes = " ".join(plan.notes(paper, plan.plan(paper, jobs, sizes(paper)), sizes(paper)))
    assert "write_pairs: a job is expected to take" in notes
    assert "its limit is 10 min" in notes


def test_every_assumption_has_its_source_and_is_plain_data(paper):
    lines = plan.plan(paper, [Job("write_pairs", {"dataset": "d-naive"}, API)], sizes(paper))
    written = plan.as_json(paper, lines, sizes(paper))
    assert all(a["source"].endswith(".") for a in written["assumptions"])
    assert written["total"]["calls"] == sizes(paper)["d-naive"].asked


# --- the drawing ---

RULEGRAPH = """---
title: DAG
---
flowchart TB
\tid0[all]
\tid1[report]
\tid2[train]
\tid3[split]
\tstyle id0 fill:#D95757,stroke-width:2px,color:#333333
\tid1 --> id0
\tid2 --> id1
\tid3 --> id1
\tid3 --> id2
"""


def test_edges_are_read_and_implied_ones_left_out():
    edges = dag.edges_of(RULEGRAPH)
    assert edges == [("report", "all"), ("train", "report"), ("split", "report"), ("split", "train")]
    assert dag.reduced(edges) == [("report", "all"), ("train", "report"), ("split", "train")]


def test_a_rule_has_the_colour_of_its_place_and_the_legend_only_places_that_are_used():
    edges = dag.reduced(dag.edges_of(RULEGRAPH))
    places = {"split": [CPU], "train": [GPU], "report": [CPU, API]}
    drawn = dag.mermaid(places, edges)
    assert 'train["train"]:::gpu' in drawn
    assert 'report["report<br/>(CPU or API)"]:::cpu' in drawn
    assert "split --> train" in drawn
    assert "all" not in drawn.replace("calls", ""), "a target runs nowhere"
    assert "login" not in drawn
    source = dag.dot(places, edges)
    assert f'train [label="train", fillcolor="{dag.COLOURS[GPU][0]}"' in source
    assert "legend_login" not in source


def test_output_without_a_graph_is_an_error():
    with pytest.raises(InputError, match="no rules"):
        dag.edges_of("Building DAG of jobs...")
