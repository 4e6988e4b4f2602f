"""Engines inside the process give the same kind of reply: text or a distribution, whatever is asked for."""

import json
import math

import pytest

from tuneproof.errors import InputError
from tuneproof.fetch.openvino import prepare_llm
from tuneproof.llm.calls import Request
from tuneproof.llm.engines import complete_with
from tuneproof.llm.openvino import OpenVINO, engine_id
from tuneproof.llm.store import Store, entries
from tuneproof.study import VLLMLLM, OpenVINOLLM, TransformersLLM, parse_llm


@pytest.fixture(scope="module")
def student(root):
    lock = root / "resources/models/smollm2-135m-instruct/student/lock.json"
    if not lock.exists():
        pytest.skip(f"{lock} is not there: the rule prepare_student makes it")
    return lock


def ask(student, folder, *requests):
    llm = TransformersLLM(engine="transformers", model="smollm2-135m-instruct", group_size=4)
    return [a.reply for a in complete_with(llm, student, list(requests), folder, "test")]


def say(text, max_tokens=8, **how):
    return Request([{"role": "user", "content": text}], max_tokens, **how)


def test_transformers_writes_and_chooses_in_one_group(student, tmp_path):
    long, short, choice = ask(
        student, tmp_path, say("Count to ten."), say("Count to ten.", 3), say("Yes or no?", 1, choices=["1", "2", "3"])
    )
    assert (long.completion_tokens, short.completion_tokens) == (8, 3)
    assert long.text.startswith(short.text)
    assert sum(choice.distribution.values()) == pytest.approx(1)
    assert choice.text == max(choice.distribution, key=choice.distribution.get)


def test_a_choice_that_is_no_single_token_is_an_error(student, tmp_path):
    with pytest.raises(InputError, match="is not one token"):
        ask(student, tmp_path, say("Which?", 1, choices=["photosynthesis and so on", "2"]))


def test_beams_that_are_no_choice_say_nothing():
    from tuneproof.llm.openvino import distribution

    assert distribution(["1", "2"], {"1": math.log(0.3), "2": math.log(0.1)}) == pytest.approx({"1": 0.75, "2": 0.25})
    assert distribution(["1", "2"], {"": -0.5}) == distribution(["1", "2"], {"1": -math.inf}) == {}


def test_vllm_is_named_where_it_is_missing(student, tmp_path):
    llm, _ = parse_llm(json.dumps({"engine": "vllm", "model": "smollm2-135m-instruct"}))
    assert isinstance(llm, VLLMLLM)
    with pytest.raises(InputError, match="engine vllm: vllm is not installed here"):
        complete_with(llm, student, [say("x")], tmp_path, "test")


# --- a prompt too long for the context ---


def check_one_too_long(replies, alone, model):
    assert [r.finish_reason for r in replies] == ["length", "refused", "length"]
    assert "tokens of prompt and reply do not fit the context of" in replies[1].error
    assert [replies[0], replies[2]] == alone, "as if the one too long had not been asked"
    assert {r.served for r in alone} == {model}


LONG = "word " * 2100


def test_transformers_refuses_the_row_that_is_too_long_and_answers_the_others(student, tmp_path):
    one, two = say("Count to ten."), say("Name a colour.")
    replies = ask(student, tmp_path / "a", one, say(LONG), two)
    check_one_too_long(replies, ask(student, tmp_path / "b", one, two), "smollm2-135m-instruct")
    [refused] = ask(student, tmp_path / "c", say(LONG))
    assert refused.finish_reason == "refused", "a group of nothing else"


def test_openvino_refuses_the_row_that_is_too_long_and_answers_the_others(root, tmp_path):
    lock = root / "resources/models/smollm2-135m-instruct/lock.json"
    if not lock.exists():
        pytest.skip(f"{lock} is not there: `make setup` fetches it")
    llm = OpenVINOLLM(engine="openvino", model="smollm2-135m-instruct", kv_cache_gb=1)

    def replies_to(store, *requests):
        return [a.reply for a in complete_with(llm, lock, list(requests), tmp_path / store, "test")]

    one, two = say("Count to ten."), say("Name a colour.")
    replies = replies_to("a", one, say(LONG), two)
    check_one_too_long(replies, replies_to("b", one, two), llm.model)


def test_a_gguf_that_was_read_once_gives_the_same_replies_and_has_the_same_name(root, tmp_path):
    lock = root / "resources/models/smollm2-135m-instruct/lock.json"
    if not lock.exists():
        pytest.skip(f"{lock} is not there: `make setup` fetches it")
    ready = tmp_path / "openvino/lock.json"
    prepare_llm(lock, ready)
    llm = OpenVINOLLM(engine="openvino", model="smollm2-135m-instruct", kv_cache_gb=1)
    asked = [say("Count to ten."), say("Yes or no?", 1, choices=["Yes", "No"]), say("Name a colour.", 16)]
    of_gguf, of_folder = (OpenVINO(llm, path).answer(asked, lambda n: None) for path in (lock, ready))
    assert of_folder == of_gguf
    assert engine_id(llm, ready) == engine_id(llm, lock)

    content = json.loads(ready.read_text())
    assert not list(tmp_path.glob(".openvino.*")) and not list(tmp_path.rglob("*.gguf"))
    ready.write_text(json.dumps({**content, "openvino_genai": "2025.1.0.0"}))
    with pytest.raises(InputError, match=r"lock.json: made by openvino-genai 2025.1.0.0, this is .*; delete it"):
        OpenVINO(llm, ready)
    with pytest.raises(InputError, match="openvino reads GGUF, but smollm2-135m-instruct has format 'openvino'"):
        prepare_llm(ready, tmp_path / "twice/lock.json")


class Watched:
    """A pipeline that writes down in which order it reads: requests by their number, steps as |."""

    def __init__(self, pipeline):
        self.pipeline, self.seen = pipeline, []

    def __getattr__(self, name):
        return getattr(self.pipeline, name)

    def add_request(self, number, *rest):
        self.seen.append(str(number))
        return self.pipeline.add_request(number, *rest)

    def step(self):
        self.seen.append("|")
        self.pipeline.step()


def test_a_prompt_waits_for_one_that_begins_alike_and_for_no_other(root, monkeypatch):
    lock = root / "resources/models/smollm2-135m-instruct/lock.json"
    if not lock.exists():
        pytest.skip(f"{lock} is not there: `make setup` fetches it")
    load, watched = OpenVINO._load, []

    def watch(self):
        watched.append(Watched(load(self)))
        return watched[-1]

    monkeypatch.setattr(OpenVINO, "_load", watch)
    rules, one, two = "Answer in a word. " * 20, "Alder stands by the river. " * 20, "Birch grows on the hill. " * 20
    asked = [say(f"{rules}{page}{question}") for page in (one, two) for question in ("Where?", "What?", "Who?")]
    llm = OpenVINOLLM(engine="openvino", model="smollm2-135m-instruct", kv_cache_gb=1)
    ended = []
    replies = OpenVINO(llm, lock).answer([*asked, say("Hello.")], ended.append)
    # the first question brings the rules, of one's page and two's; what begins with neither is read at once
    assert "".join(watched[0].seen).startswith("06|123|45|")
    assert sum(ended) == len(replies) == 7
    alone = [OpenVINO(llm, lock).answer([request], ended.append)[0] for request in asked[:2]]
    assert [r.text for r in replies[:2]] == [r.text for r in alone]


def test_a_reply_stored_before_the_model_was_named_is_still_an_answer(root, tmp_path):
    [recorded] = (root / "tests/e2e/recorded").glob("*/recorded.jsonl")
    line = json.loads(recorded.read_text().splitlines()[0])
    del line["reply"]["served"]
    (tmp_path / recorded.parent.name).mkdir()
    segment = tmp_path / recorded.parent.name / "old.jsonl"
    segment.write_text(json.dumps(line) + "\n")
    entry = next(entries(segment))
    assert entry["reply"].served == ""
    assert Store(tmp_path, line["engine"]).get(Request(**entry["request"]).key(entry["engine"])) == entry["reply"]
