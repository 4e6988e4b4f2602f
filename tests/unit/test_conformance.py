"""What everybody's fine-tuning gets wrong once, as tests: on a tiny Llama, and on the default study's student."""

import json

import pytest
import torch
from tiny import CHATML, TEXTS, example, make_student, write_examples

from tuneproof.errors import InputError
from tuneproof.fetch.student import read_template
from tuneproof.records import Message, write_rows
from tuneproof.study import parse_method
from tuneproof.training import attention
from tuneproof.training.fused import fuse
from tuneproof.training.packing import IGNORED, packed, padded
from tuneproof.training.rows import Row, read_rows, tokenise, tokenizer_digest
from tuneproof.training.student import load_student

RECIPE = {"kind": "lora", "rank": 4, "alpha": 8, "epochs": 1, "learning_rate": 1e-3, "batch_size": 8, "max_tokens": 256}
DIALOGUES: dict[str, list[Message]] = {
    "question": [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": "12 megawatts."}],
    "system": [
        {"role": "system", "content": "Summarise."},
        {"role": "user", "content": TEXTS[4]},
        {"role": "assistant", "content": "A parcel is late."},
    ],
    "answer that begins with a line end": [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "\n\nBecause."},
    ],
    "several turns": [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Ada."},
        {"role": "user", "content": "Since when?"},
        {"role": "assistant", "content": "2019."},
    ],
}


def method(**changes):
    return parse_method(json.dumps({**RECIPE, **changes}))


@pytest.fixture(scope="module", params=["chatml", "llama-2", "student"])
def folder(request, root, tmp_path_factory):
    """A student's folder: tiny with either template in use, and the default study's."""
    if request.param == "student":
        student = root / "resources" / "models" / "smollm2-135m-instruct" / "student"
        if not (student / "lock.json").exists():
            pytest.skip(f"{student} is not there: `make setup` prepares it")
        return student
    template = CHATML if request.param == "chatml" else read_template(root / "prompts" / "llama-2-chat.jinja")
    return make_student(tmp_path_factory.mktemp(request.param), template).parent


@pytest.fixture(scope="module")
def tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", DIALOGUES)
def test_the_prompt_is_what_a_server_sends_and_is_masked_exactly(tokenizer, name):
    messages = DIALOGUES[name]
    tokens, prompt = tokenise(messages, tokenizer)
    served = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    assert tokens[:prompt] == served
    # what is learned is the answer and its end, and nothing else
    learned = tokenizer.decode(tokens[prompt:])
    assert learned.removesuffix(tokenizer.eos_token).strip() == messages[-1]["content"].strip()
    assert tokens[-1] == tokenizer.eos_token_id
    assert tokens[prompt:].count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("name", DIALOGUES)
def test_bos_stands_once_at_the_beginning(tokenizer, name):
    tokens, _ = tokenise(DIALOGUES[name], tokenizer)
    bos = tokenizer.bos_token_id
    assert tokens[0] == bos
    assert tokens[1] != bos
    if tokenizer.bos_token == "<s>":  # in ChatML the same token begins every turn
        questions = sum(m["role"] == "user" for m in DIALOGUES[name])
        assert tokens.count(bos) == questions, "once per question, as Llama 2 was trained"


def test_a_row_that_the_template_refuses_is_named(tmp_path):
    from transformers import AutoTokenizer

    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template = refuse + CHATML
    tokenizer = AutoTokenizer.from_pretrained(make_student(tmp_path / "m", template).parent)
    write_rows(tmp_path / "rows.jsonl", [example(1, "Who?", "Ada."), example(2, "Who?", "Ada.", system="Be brief.")])
    with pytest.raises(InputError, match=r"rows.jsonl: row row002: no system"):
        read_rows(tmp_path / "rows.jsonl", tokenizer, 256, "refuse")


def test_another_template_is_another_run(tmp_path):
    from transformers import AutoTokenizer

    one, other = (
        AutoTokenizer.from_pretrained(make_student(tmp_path / str(n), template).parent)
        for n, template in enumerate((CHATML, CHATML.replace("assistant", "agent")))
    )
    assert tokenizer_digest(one) != tokenizer_digest(other)


def test_a_template_that_writes_bos_twice_is_refused(tmp_path):
    from transformers import AutoTokenizer

    template = "{{ bos_token }}{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}{{ eos_token }}"
    doubled = AutoTokenizer.from_pretrained(make_student(tmp_path, template.replace("{{ eos_token }}", "")).parent)
    with pytest.raises(InputError, match="stands twice at the beginning"):
        tokenise(DIALOGUES["question"], doubled)


def test_pad_is_neither_eos_nor_learned(tokenizer):
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id)
    rows = [Row(name, *tokenise(m, tokenizer)) for name, m in DIALOGUES.items()]
    batch = padded(rows, tokenizer.pad_token_id, answer_logits=False)
    assert (batch["input_ids"] == tokenizer.pad_token_id).any()
    learned = batch["shift_labels"]
    assert tokenizer.pad_token_id not in learned
    assert (learned == tokenizer.eos_token_id).sum() == len(rows), "EOS is learned in every row"
    assert (learned[batch["attention_mask"] == 0] == IGNORED).all()


def test_both_batches_hold_the_same_answers(tokenizer):
    rows = [Row(name, *tokenise(m, tokenizer)) for name, m in DIALOGUES.items()]
    answers = [t for row in rows for t in row.tokens[row.prompt :]]
    for logits in (True, False):
        for batch in (packed(rows, logits), padded(rows, tokenizer.pad_token_id, logits)):
            labels = batch["shift_labels"]
            assert labels[labels != IGNORED].tolist() == answers
    assert packed(rows, True)["shift_labels"].shape == (1, len(answers)), "logits of answers, and no others"


def loaded(folder, spec, name):
    attention.register()
    torch.manual_seed(3)
    model = load_student(spec, folder, name)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:  # zeros at the beginning: an adapter that does nothing tests nothing
            torch.nn.init.normal_(parameter, std=0.02)
    return model.train()


def loss_and_gradients(model, batch):
    labels = batch.pop("shift_labels")
    logits = model(**batch, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1))
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    return float(loss.detach()), dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.fixture(scope="module")
def plain(folder, tokenizer):
    """Rows, and their loss and gradients the slow way: padded, transformers' own attention, PEFT's own layers, fp32."""
    rows = [Row(name, *tokenise(m, tokenizer)) for name, m in DIALOGUES.items()]
    model = loaded(folder, method(precision="fp32"), "eager")
    return rows, *loss_and_gradients(model, padded(rows, tokenizer.pad_token_id, answer_logits=False))


@pytest.mark.parametrize("name", ["eager", "sdpa", attention.SEGMENTS])
@pytest.mark.parametrize("logits", [True, False])
def test_packed_rows_have_the_loss_and_gradients_of_padded_ones(folder, plain, name, logits):
    rows, loss, gradients = plain
    model = loaded(folder, method(precision="fp32"), name)
    assert fuse(model) > 0
    found, found_gradients = loss_and_gradients(model, packed(rows, logits))
    assert found == pytest.approx(loss, abs=1e-4)
    scale = max(float(g.abs().max()) for g in gradients.values())
    for key, gradient in gradients.items():
        torch.testing.assert_close(found_gradients[key], gradient, rtol=1e-3, atol=1e-4 * scale)


def test_logits_of_answers_alone_change_nothing_in_padded_batches(folder, tokenizer, plain):
    rows, loss, _ = plain
    model = loaded(folder, method(precision="fp32"), "sdpa")
    found, _ = loss_and_gradients(model, padded(rows, tokenizer.pad_token_id, answer_logits=True))
    assert found == pytest.approx(loss, abs=1e-4)


@pytest.mark.parametrize("name", ["sdpa", attention.SEGMENTS])
def test_nothing_is_seen_across_a_border(folder, plain, name):
    rows, *_ = plain
    model = loaded(folder, method(precision="fp32"), name).eval()
    other = Row("other", [t for row in reversed(rows) for t in row.tokens][: len(rows[0].tokens)], 1)

    def logits(batch):
        batch.pop("shift_labels")
        with torch.no_grad():
            return model(**batch, use_cache=False).logits[0]

    tail = sum(len(row.tokens) for row in rows[1:])
    same = logits(packed(rows, False))[-tail:]
    changed = logits(packed([other, *rows[1:]], False))[-tail:]
    torch.testing.assert_close(changed, same, rtol=0, atol=1e-5)
    alone = logits(packed([rows[-1]], False))
    torch.testing.assert_close(same[-len(rows[-1].tokens) :], alone, rtol=0, atol=1e-3)


def test_dropout_reaches_the_adapter_alone_and_has_its_gradient():
    """The fused layer under dropout against PEFT's own, with the same mask."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(12, 8))
    model = get_peft_model(net, LoraConfig(r=3, lora_alpha=6, lora_dropout=0.5, target_modules=["0"])).train()
    torch.nn.init.normal_(model.base_model.model[0].lora_B["default"].weight)
    x = torch.randn(2, 5, 12, requires_grad=True)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def run():
        torch.manual_seed(1)
        y = model(x)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *parameters])]

    expected = run()
    assert fuse(model) == 1
    for a, b in zip(run(), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


REFUSED = {
    "no rows": ([], {}, "no rows, expected at least one example"),
    "empty answers": (
        [example(0, "Why?", " ")],
        {},
        "1 of 1 rows have no question or no answer to learn, the first is row000",
    ),
    "empty question": ([example(0, "", "Because."), example(1, "a", "b")], {}, "1 of 2 rows"),
    "too long": (
        [example(i, "word " * (300 if i else 1), "x") for i in range(3)],
        {},
        "2 of 3 rows are longer than max_tokens 256; the longest, row001",
    ),
    "all too long": (
        [example(0, "word " * 300, "x")],
        {"too_long": "drop"},
        "all 1 rows are longer than max_tokens 256",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_cannot_be_trained_on_are_refused(tmp_path, tokenizer, name):
    rows, options, message = REFUSED[name]
    write_rows(tmp_path / "train.jsonl", rows)
    with pytest.raises(InputError, match=r"train\.jsonl: .*" + message):
        read_rows(tmp_path / "train.jsonl", tokenizer, 256, options.get("too_long", "refuse"))


def test_rows_that_are_left_out_are_counted(tmp_path, tokenizer, capsys):
    write_rows(tmp_path / "train.jsonl", [example(i, "word " * (300 if i == 1 else 1), "x") for i in range(3)])
    rows = read_rows(tmp_path / "train.jsonl", tokenizer, 256, "drop")
    assert (len(rows.rows), rows.dropped) == (2, 1)
    assert "1 of 3 rows are longer than max_tokens 256 and left out" in capsys.readouterr().err


def test_rows_are_tokenised_once(tmp_path, tokenizer, monkeypatch):
    file = write_examples(tmp_path / "train.jsonl", 5)
    first = read_rows(file, tokenizer, 256, "refuse", tmp_path / "cache")
    monkeypatch.setattr("tuneproof.training.rows.tokenise", None)
    assert read_rows(file, tokenizer, 256, "refuse", tmp_path / "cache") == first
    monkeypatch.undo()
    write_examples(file, 6)
    assert len(read_rows(file, tokenizer, 256, "refuse", tmp_path / "cache").rows) == 6, "other rows, other tokens"
    (entry, *_) = sorted((tmp_path / "cache").iterdir())
    entry.write_bytes(b"torn")
    assert len(read_rows(file, tokenizer, 256, "refuse", tmp_path / "cache").rows) == 6


def test_a_file_without_rows_is_refused_each_time(tmp_path, tokenizer):
    write_rows(tmp_path / "train.jsonl", [])
    for _ in range(2):  # the second time from the cache
        with pytest.raises(InputError, match=r"train\.jsonl: no rows"):
            read_rows(tmp_path / "train.jsonl", tokenizer, 256, "refuse", tmp_path / "cache")
