"""Rules that call models, run by Snakemake with what the store holds: replay, and what a failed stage leaves behind."""

import json
import re
import shutil

import pytest

from tuneproof.answers import ask
from tuneproof.llm import api, transformers
from tuneproof.llm.calls import Reply
from tuneproof.llm.store import Store
from tuneproof.pairs import write
from tuneproof.records import Answer, Chunk, Example, Pair, read_rows, write_rows
from tuneproof.study import ApiLLM, Decoding

LLM = {"engine": "openai", "model": "gpt-x", "base_url": "http://127.0.0.1:9/v1", "key_env": "NO_SUCH_KEY"}
CHUNK = Chunk("c", "p", "u", "g", ["CV1"], "CV1 opened in 2019. " * 9, 60)
PAIR = {"quote": "CV1 opened in 2019.", "question": "When did CV1 open?", "answer": "In 2019."}
STUDENT = "smollm2-135m-instruct"


@pytest.fixture
def replay(workflow):
    """A study on an API in replay; what comes before the rules that call a model is there."""
    config = {
        "study": {"datasets": ["d"], "judges": ["gpt"], "base_modes": ["closed"]},
        "corpora": {"d": {"folder": {"path": "documents"}, "encoder": "all-minilm-l6-v2"}},
        "datasets": {"d": {"corpus": "d", "llm": "gpt", "pairs_per_chunk": 1}},
        "llms": {"gpt": LLM},
        "judges": {"gpt": {"llm": "gpt"}},
        "calls": {"mode": "replay"},
    }
    (workflow.folder / "replay.yaml").write_text(json.dumps(config))
    write_rows(workflow.folder / "resources/corpora/d/chunks.jsonl", [CHUNK])
    return workflow


def run(workflow, rule, target, check=True):
    options = ("--allowed-rules", rule, "--configfile", "replay.yaml", "--cores", "1")
    return workflow.snakemake(target, *options, check=check)


def remember(workflow, engine, request, text, finish_reason="stop"):
    store = Store(workflow.folder / "store/llm", engine)
    store.put([(request.key(engine), request, Reply(text, 7, 3, finish_reason))])


def writing(workflow):
    template = (workflow.folder / "prompts/write_pairs.txt").read_text().strip()
    return api.engine_id(ApiLLM(**LLM)), write.requests([CHUNK], template, 1)[0]


def test_in_replay_a_rule_needs_no_key_and_answers_from_the_store(replay):
    remember(replay, *writing(replay), json.dumps({"pairs": [PAIR]}))
    run(replay, "write_pairs", "results/datasets/d/written.jsonl")
    assert [p.question for p in read_rows(replay.folder / "results/datasets/d/written.jsonl", Pair)] == [
        PAIR["question"]
    ]


def test_in_replay_a_call_that_the_store_does_not_hold_fails_the_rule_with_its_address(replay):
    printed = run(replay, "write_pairs", "results/datasets/d/written.jsonl", check=False)
    engine, request = writing(replay)
    assert f"the first of them {request.key(engine)} of {engine}" in printed
    assert not list(replay.folder.glob("results/datasets/d/*"))


def test_in_replay_a_student_answers_from_the_store_and_is_never_loaded(replay):
    question, answer = "When did CV1 open?", "In 2019."
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    example = Example("e", "p", "c", "g", "u", "a", "test_new_pages", question, answer, messages)
    write_rows(replay.folder / "results/datasets/d/test_new_pages.jsonl", [example])
    write_rows(replay.folder / "results/datasets/d/test_trained_pages.jsonl", [])
    lock = replay.folder / f"resources/models/{STUDENT}/student/lock.json"
    lock.parent.mkdir(parents=True)
    (lock.parent / "w").write_text("no weights")
    files = [{"name": "w", "size": 10, "sha256": "0" * 64}]
    lock.write_text(json.dumps({"model": STUDENT, "context": 2048, "weights_sha256": "0" * 64, "files": files}))
    asked, target = (f"results/answers/{STUDENT}/base/{name}" for name in ("load0.json", "d.closed.jsonl"))
    assert "replay, and the store holds no answer to 1 of 1 calls" in run(replay, "answer", asked, check=False)

    [request] = ask.requests([example], "closed", Decoding(), "", {}, {})
    engine = transformers.engine_id(lock, None, 16)
    remember(replay, engine, request, "In 2020.")
    run(replay, "answer", asked)
    assert json.loads((replay.folder / asked).read_text())["engines"] == {f"{STUDENT}/base": engine}
    run(replay, "write_answers", target)
    assert [a.text for a in read_rows(replay.folder / target, Answer)] == ["In 2020."]

    shutil.rmtree(replay.folder / "store")
    (replay.folder / target).unlink()
    printed = run(replay, "write_answers", target, check=False)
    assert f"delete {asked} and run again" in printed, "nothing but `answer` loads a model"


def test_a_stage_that_fails_leaves_the_unusable_replies_where_its_message_says(replay):
    remember(replay, *writing(replay), "no JSON", "length")  # which is not asked for again
    printed = run(replay, "write_pairs", "results/datasets/d/written.jsonl", check=False)
    assert "more than max_failed 0.2; see logs/write_pairs/d.unusable.jsonl" in printed
    [row] = (json.loads(line) for line in (replay.folder / "logs/write_pairs/d.unusable.jsonl").open())
    assert row["text"] == "no JSON"
    assert not (replay.folder / "results/datasets/d/unusable.jsonl").exists(), "Snakemake deletes it"


OPEN = {"engine": "vllm", "model": "qwen2.5-coder-1.5b-instruct"}


def test_each_stage_has_the_image_and_the_gpu_that_its_llms_need(workflow):
    overlay = {"llms": {"open": OPEN}, "judges": {"qwen": {"llm": "open"}}}
    (workflow.folder / "open.json").write_text(json.dumps(overlay))
    images = workflow.snakemake("-n", "staged", "--configfile", "open.json", profile="slurm")
    assert all(f"containers/{name}.sif" in images for name in ("cpu", "judge"))
    printed = workflow.snakemake("-n", "--configfile", "open.json", profile="slurm")
    asked = {
        rule: re.search(rf"rule {rule}:.*?threads: (\d+)\n.*?(mem_mb=\d+),.*?(gpu=\d)", printed, re.DOTALL).groups()
        for rule in ("write_pairs", "judge")
    }
    assert asked == {"write_pairs": ("2", "mem_mb=7000", "gpu=0"), "judge": ("8", "mem_mb=24000", "gpu=1")}


def test_two_engines_in_one_stage_have_no_image(workflow):
    overlay = {"llms": {"open": OPEN}, "datasets": {"haldrune-pitches": {"llm": "open"}}}
    (workflow.folder / "open.json").write_text(json.dumps(overlay))
    printed = workflow.snakemake("-n", "--configfile", "open.json", check=False)
    assert "llms: open, qwen are asked by rules of one stage, some by openvino and some by vllm" in printed


def test_transformers_ask_where_students_answer_so_openvino_shares_a_stage_with_it_in_one_image_only(workflow):
    small = {"engine": "transformers", "model": STUDENT}
    overlay = {"llms": {"small": small}, "datasets": {"haldrune-pitches": {"llm": "small"}}}
    (workflow.folder / "small.json").write_text(json.dumps(overlay))
    assert "rule write_instructions:" in workflow.snakemake("-n", "--configfile", "small.json"), (
        "gpu is the CPU's image"
    )
    (workflow.folder / "small.json").write_text(json.dumps({**overlay, "containers": {"gpu": "containers/gpu.sif"}}))
    printed = workflow.snakemake("-n", "--configfile", "small.json", check=False)
    assert "some by openvino and some by transformers, which share no image" in printed
