"""Engines inside the process give the same kind of reply: text or a distribution, whatever is asked for."""

import json

import pytest

from tuneproof.errors import InputError
from tuneproof.llm.calls import Request
from tuneproof.llm.engines import complete_with
from tuneproof.study import VLLMLLM, TransformersLLM, parse_llm


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


def test_vllm_is_named_where_it_is_missing(student, tmp_path):
    llm, _ = parse_llm(json.dumps({"engine": "vllm", "model": "smollm2-135m-instruct"}))
    assert isinstance(llm, VLLMLLM)
    with pytest.raises(InputError, match="engine vllm: vllm is not installed here"):
        complete_with(llm, student, [say("x")], tmp_path, "test")
