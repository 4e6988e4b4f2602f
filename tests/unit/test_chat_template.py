"""Llama 2's template as the model was trained on it: system in the first question, BOS once per question, EOS after."""

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from tuneproof.errors import InputError
from tuneproof.fetch.student import read_template

QUESTION = [{"role": "user", "content": "What is CV1? "}]
ANSWERED = [*QUESTION, {"role": "assistant", "content": "A site."}]


@pytest.fixture
def rendered(root):
    template = read_template(root / "prompts" / "llama-2-chat.jinja")

    def render(messages):
        texts, _ = render_jinja_template([messages], chat_template=template, bos_token="<s>", eos_token="</s>")
        return texts[0]

    return render


def test_a_question_and_its_answer(rendered):
    assert rendered(QUESTION) == "<s>[INST] What is CV1? [/INST]"
    assert rendered(ANSWERED) == "<s>[INST] What is CV1? [/INST] A site. </s>"


def test_what_is_served_is_the_beginning_of_what_was_trained(rendered):
    assert rendered(ANSWERED).startswith(rendered(QUESTION))


def test_the_system_prompt_stands_in_the_first_question(rendered):
    system = [{"role": "system", "content": "Be brief."}]
    first = "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhat is CV1? [/INST] A site. </s>"
    assert rendered([*system, *ANSWERED]) == first
    assert rendered([*system, *ANSWERED, *QUESTION]) == first + "<s>[INST] What is CV1? [/INST]"


def test_a_template_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.jinja: no such file"):
        read_template(tmp_path / "none.jinja")
