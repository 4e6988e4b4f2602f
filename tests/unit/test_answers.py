"""Arms: what each is asked, and that what it is answered depends on nothing but its own weights and questions."""

import copy
import importlib.metadata
import json
import sys
import types
from pathlib import Path

import pytest
import yaml
from tiny import TEXTS, example, make_student

from tuneproof import study
from tuneproof.answers import ask
from tuneproof.answers.arms import Arm, parse_arms
from tuneproof.answers.engines import Students
from tuneproof.errors import InputError
from tuneproof.llm import transformers, vllm
from tuneproof.llm.calls import Request
from tuneproof.llm.generation import cache_with_room
from tuneproof.llm.store import Store
from tuneproof.records import Answer, Chunk, Retrieved, read_json, read_rows, write_rows
from tuneproof.study import Decoding
from tuneproof.training.fused import fuse
from tuneproof.training.rows import tokenise

# --- what is asked ---

GOLD, OTHER = (Chunk(f"row00{n}", "p", "u", "g", [], f"Text {n}.", 3) for n in (1, 2))
CHUNKS = {chunk.id: chunk for chunk in (GOLD, OTHER)}
QUESTION = example(1, "When?", "Never.", "test_new_pages", system="Be brief.")
FOUND = {QUESTION.id: Retrieved(QUESTION.id, [OTHER.id, GOLD.id], [2.0, 1.0])}


@pytest.mark.parametrize(
    ("mode", "asked", "given"),
    [
        ("closed", "When?", []),
        ("rag", "Text 2.\n\nText 1.|When?", [OTHER.id, GOLD.id]),
        ("oracle", "Text 1.|When?", [GOLD.id]),
    ],
)
def test_a_mode_says_which_chunks_stand_above_the_question(mode, asked, given):
    [request] = ask.requests([QUESTION], mode, Decoding(), "{context}|{question}", FOUND, CHUNKS)
    assert request.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": asked}]
    assert ask.context_ids(QUESTION, mode, FOUND) == given


def test_a_question_that_nothing_was_retrieved_for_is_named():
    with pytest.raises(InputError, match="example row001: nothing was retrieved for it, expected a row for each"):
        ask.requests([QUESTION], "rag", Decoding(), "{context}{question}", {}, CHUNKS)


def test_a_gold_chunk_that_the_corpus_does_not_hold_is_named():
    with pytest.raises(InputError, match="example row001: chunk 'row001' is not in the corpus, expected a known one"):
        ask.requests([QUESTION], "oracle", Decoding(), "{context}{question}", {}, {})


def test_a_wrong_arm_is_named_by_key_and_value():
    with pytest.raises(InputError, match=r"--arms: 0\.mode: 'open' is wrong"):
        parse_arms(['{"run": "m/base", "mode": "open"}'])


# --- which arms share a base ---


@pytest.fixture
def config(root):
    return yaml.safe_load((root / "config.yaml").read_text())


def runs_by_load(config):
    dealt = study.loads(study.load(config))
    return {load: list(dict.fromkeys(run.id for run, _, _ in arms)) for load, arms in dealt.items()}


def test_a_run_is_answered_by_one_job_and_a_further_run_moves_no_other(config):
    config["decoding"]["loads"] = 2
    config["study"]["seeds"] = [1, 2]
    two = runs_by_load(copy.deepcopy(config))
    config["study"]["seeds"] = [1, 2, 3]
    three = runs_by_load(config)
    model = "smollm2-135m-instruct"
    seeds = [f"{model}/lora/haldrune/seed{n}" for n in (1, 2, 3)]
    assert two == {f"{model}/load0": [f"{model}/base", seeds[1]], f"{model}/load1": [seeds[0]]}
    assert three == {**two, f"{model}/load1": [seeds[0], seeds[2]]}


# --- the engine of transformers ---


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("models") / "student")


@pytest.fixture(scope="module")
def adapters(student, tmp_path_factory):
    """Two adapters of other ranks and other modules, each of which changes what is said."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folders = []
    for seed, rank, targets in ((1, 4, "all-linear"), (2, 9, ["q_proj", "v_proj"])):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(student.parent, dtype="auto")
        model = get_peft_model(base, LoraConfig(r=rank, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM"))
        with torch.no_grad():
            for name, weights in model.named_parameters():
                if "lora_B" in name:
                    weights.normal_(0, 0.3)
        folders.append(tmp_path_factory.mktemp("adapters") / f"lora-rate0.{seed}")  # runs have dots in their names
        model.save_pretrained(folders[-1])
    return folders


REQUESTS = [Request([{"role": "user", "content": text}], 6) for text in TEXTS]


def logits(base, adapter):
    import torch

    with torch.inference_mode():
        return base.model(adapter)(torch.arange(3, 40)[None]).logits


def test_an_arm_is_answered_bit_for_bit_as_it_is_alone(student, adapters):
    import torch

    first, second = adapters
    alone = {adapter: logits(transformers.Base(student, prepare=fuse), adapter) for adapter in (None, first, second)}
    assert not torch.equal(alone[None], alone[first]) and not torch.equal(alone[first], alone[second])
    shared = transformers.Base(student, prepare=fuse)
    for adapter in (None, first, second, first, None, second):
        assert torch.equal(logits(shared, adapter), alone[adapter]), adapter


def test_an_adapter_beside_others_is_computed_as_peft_computes_it_alone(student, adapters):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    shared = transformers.Base(student, "fp32", fuse)
    for adapter in (*adapters, adapters[0]):
        whole = AutoModelForCausalLM.from_pretrained(student.parent, dtype=torch.float32)
        with torch.inference_mode():
            theirs = PeftModel.from_pretrained(whole, adapter).eval()(torch.arange(3, 40)[None]).logits
        torch.testing.assert_close(logits(shared, adapter), theirs, rtol=1e-4, atol=1e-5)


def test_arithmetic_is_part_of_an_engines_name(student, adapters):
    names = {transformers.engine_id(student, adapter, 2, p) for adapter in (None, *adapters) for p in ("bf16", "fp32")}
    assert len(names) == 6


def test_replies_are_the_same_whichever_arms_share_the_base(student, adapters, tmp_path):
    def texts(base, adapter, name):
        identity = transformers.engine_id(student, adapter, 2)
        answered = ask.answer(REQUESTS, identity, lambda: base.engine(adapter, 2), tmp_path / name, "test")
        return [a.reply for a in answered]

    shared = transformers.Base(student, prepare=fuse)
    together = [texts(shared, adapter, "shared") for adapter in (*adapters, None)]
    for adapter, replies in zip((*adapters, None), together, strict=True):
        assert replies == texts(transformers.Base(student, prepare=fuse), adapter, "alone")


def test_a_cache_with_room_gives_the_tokens_that_transformers_own_gives(student):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(student.parent, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(student.parent).eval()
    batch = tokenizer(TEXTS[:3], padding=True, return_tensors="pt")
    width, how = batch["input_ids"].shape[1], {"max_new_tokens": 12, "do_sample": False}
    with torch.inference_mode():
        own = model.generate(**batch, **how)
        cache = cache_with_room(model.config, width + 12)
        assert torch.equal(model.generate(**batch, past_key_values=cache, **how), own)
        narrow = cache_with_room(model.config, width)
        with pytest.raises(IndexError, match=f"{width + 1} tokens, the cache has room for {width}"):
            model.generate(**batch, past_key_values=narrow, **how)


def test_the_prompt_is_what_training_has_before_the_answer(student):
    tokenizer = transformers.Base(student).tokenizer
    row = example(1, TEXTS[0], "It has 12 megawatts.", system="Be brief.")
    [request] = ask.requests([row], "closed", Decoding(), "", {}, {})
    tokens, prompt = tokenise(row.messages, tokenizer)
    assert transformers.prompt_tokens([request], tokenizer) == [tokens[:prompt]]


def test_a_reply_ends_at_eos(student):
    tokenizer = transformers.Base(student).tokenizer
    said = tokenizer("It has 12 megawatts.", add_special_tokens=False)["input_ids"]
    reply = transformers.written_reply(tokenizer, 5, [*said, tokenizer.eos_token_id, *said], "tiny")
    assert (reply.text, reply.completion_tokens, reply.finish_reason) == ("It has 12 megawatts.", len(said), "stop")
    assert transformers.written_reply(tokenizer, 5, said, "tiny").finish_reason == "length"


def test_a_killed_arm_goes_on_batch_by_batch_and_ends_as_an_undisturbed_one(student, adapters, tmp_path):
    identity = transformers.engine_id(student, adapters[0], 2)
    base = transformers.Base(student, prepare=fuse)

    class Killed(transformers.Transformers):
        batches = 0

        def answer(self, requests, done):
            if type(self).batches == 1:
                raise KeyboardInterrupt
            type(self).batches += 1
            return super().answer(requests, done)

    def answers(store, engine):
        return [a.reply for a in ask.answer(REQUESTS, identity, lambda: engine, store, "test")]

    with pytest.raises(KeyboardInterrupt):
        answers(tmp_path / "killed", Killed(base, adapters[0], 2))
    assert len(Store(tmp_path / "killed", identity)) == 2, "one batch of two"
    undisturbed = answers(tmp_path / "whole", base.engine(adapters[0], 2))
    assert answers(tmp_path / "killed", base.engine(adapters[0], 2)) == undisturbed
    segments = [s.read_text().splitlines() for s in (tmp_path / "killed").glob("*/*.jsonl")]
    assert sorted(map(len, segments)) == [2, len(REQUESTS) - 2], "no call was asked twice"


# --- the scripts ---


@pytest.fixture
def arms(student, adapters, tmp_path):
    """Three arms on one data set: the base closed book, an adapter closed book and under the oracle."""
    rows = [example(n, text, "x", "test_new_pages") for n, text in enumerate(TEXTS)]
    write_rows(tmp_path / "tests.jsonl", rows)
    write_rows(tmp_path / "chunks.jsonl", [Chunk(r.chunk_id, "p", "u", "g", [], f"Text {r.id}.", 3) for r in rows])
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for file in adapters[0].iterdir():
        (adapter / file.name).write_bytes(file.read_bytes())
    common = {"dataset": "d", "student": student, "tests": [tmp_path / "tests.jsonl"], "retrieved": None}
    tuned = {**common, "run": "tiny/lora/d/seed1", "adapter": adapter / "adapter_model.safetensors"}
    return [
        Arm(**common, run="tiny/base", mode="closed", adapter=None, chunks=None),
        Arm(**tuned, mode="closed", chunks=None),
        Arm(**tuned, mode="oracle", chunks=tmp_path / "chunks.jsonl"),
    ]


DECODING = json.dumps({"max_new_tokens": 6, "batch_size": 2})


def as_json(arms):
    return [arm.model_dump_json() for arm in arms]


def test_arms_are_asked_together_and_written_apart_and_one_adapter_changed_asks_its_own_again(
    arms, adapters, tmp_path, run_script, root
):
    prompt = root / "prompts/answer_with_context.txt"
    shared = ("--decoding", DECODING, "--prompt", prompt, "--store", tmp_path / "store")
    engines = tmp_path / "load0.json"

    def asked():
        done = run_script("answer", "--arms", *as_json(arms), *shared, "--out", engines)
        assert done.returncode == 0, done.stderr
        return [line for line in done.stderr.splitlines() if "calls" in line and "from the store" in line]

    def write(arm):
        out, usage = tmp_path / f"{arm.mode}.jsonl", tmp_path / f"{arm.mode}.json"
        arguments = ("--engines", engines, "--out", out, "--usage", usage)
        done = run_script("write_answers", "--arm", *as_json([arm]), *shared, *arguments)
        return done, read_rows(out, Answer) if out.exists() else [], read_json(usage) if usage.exists() else {}

    assert [line.split(":")[1].split(",")[0].strip() for line in asked()] == ["5 calls answered"] * 3
    assert set(read_json(engines)["engines"]) == {"tiny/base", "tiny/lora/d/seed1"}
    done, answers, usage = write(arms[2])
    assert done.returncode == 0, done.stderr
    assert [a.context_ids for a in answers] == [[f"row00{n}"] for n in range(len(TEXTS))]
    assert {(a.run, a.mode) for a in answers} == {("tiny/lora/d/seed1", "oracle")}
    assert (usage["calls"], usage["unusable"]) == (5, 0)

    assert all("all 5 calls from the store" in line for line in asked())
    other = arms[1].adapter_folder
    for file in adapters[1].iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    base, closed, oracle = asked()
    assert "all 5 calls from the store" in base
    assert "5 calls answered" in closed and "5 calls answered" in oracle

    done, _, _ = write(arms[0].model_copy(update={"run": "tiny/other"}))
    assert "tiny/other is not among its runs, expected one of: tiny/base, tiny/lora/d/seed1" in done.stderr


# --- vLLM: the requests; tests/gpu asks it ---


class Recorder:
    """vllm.LLM as far as it is called: keeps what it is given, and says what it is told to."""

    def __init__(self, **options):
        self.options, self.calls, self.resets = options, [], 0
        self.said = [7, 8, 9]

    def reset_prefix_cache(self):
        self.resets += 1

    def generate(self, prompts, sampling, lora_request=None, use_tqdm=True):
        self.calls.append((prompts, sampling, lora_request))
        written = types.SimpleNamespace(token_ids=self.said)
        return [types.SimpleNamespace(outputs=[written]) for _ in prompts]


@pytest.fixture
def served(monkeypatch):
    """A vllm whose classes keep what they are given; returns the models that were made."""
    made = []
    module, lora, request = (types.ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request"))
    module.LLM = lambda **options: made.append(Recorder(**options)) or made[-1]
    module.SamplingParams = lambda **options: options
    request.LoRARequest = lambda *given: given
    for part in (module, lora, request):
        monkeypatch.setitem(sys.modules, part.__name__, part)
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.33.0" if name == "vllm" else version(name))
    return made


def test_vllm_is_loaded_once_with_room_for_every_adapter_and_asked_in_training_tokens(
    served, student, adapters, tmp_path
):
    common = {"dataset": "d", "student": student, "tests": [], "retrieved": None, "chunks": None, "mode": "closed"}
    files = [None, *(folder / "adapter_model.safetensors" for folder in adapters)]
    arms = [Arm(**common, run=f"tiny/{n}", adapter=file) for n, file in enumerate(files)]
    students = Students(Decoding(engine="vllm", batch_size=2), arms)
    row = example(1, TEXTS[0], "It has 12 megawatts.")
    requests = ask.requests([row], "closed", Decoding(), "", {}, {})
    for arm in arms:
        ask.answer(requests, students.id_of(arm), lambda arm=arm: students.engine(arm), tmp_path, "test")
    [model] = served
    # rank 9 needs room for 16
    assert (model.options["enable_lora"], model.options["max_lora_rank"]) == (True, 16)
    assert (model.options["max_cpu_loras"], model.options["max_num_seqs"]) == (2, 2)
    tokenizer = transformers.Base(student).tokenizer
    tokens, prompt = tokenise(row.messages, tokenizer)
    assert [prompts for prompts, _, _ in model.calls] == [[{"prompt_token_ids": tokens[:prompt]}]] * 3
    assert [lora for _, _, lora in model.calls] == [
        None,
        ("adapter1", 1, str(adapters[0])),
        ("adapter2", 2, str(adapters[1])),
    ]
    # a model's configuration may list other tokens to stop at
    ends = {"ignore_eos": True, "stop_token_ids": [tokenizer.eos_token_id]}
    greedy = {"temperature": 0, "max_tokens": 48, "detokenize": False, **ends}
    assert [sampling for _, sampling, _ in model.calls] == [[greedy]] * 3
    assert model.resets == 3, "no arm finds what another has cached"
    assert len({students.id_of(arm) for arm in arms}) == 3


def test_vllm_without_adapters_asks_for_no_room(served, student):
    vllm.Base(student, [], 4)
    [model] = served
    assert "enable_lora" not in model.options


def test_vllms_reply_ends_at_eos_and_is_decoded_as_that_of_transformers(served, student, tmp_path):
    base = vllm.Base(student, [], 4)
    [model] = served
    said = base.tokenizer("It has 12 megawatts.", add_special_tokens=False)["input_ids"]
    model.said = [*said, base.tokenizer.eos_token_id]
    [reply] = base.engine(None, 4).answer(REQUESTS[:1], lambda _: None)
    assert reply == transformers.written_reply(base.tokenizer, reply.prompt_tokens, model.said, "tiny")
    assert (reply.text, reply.finish_reason) == ("It has 12 megawatts.", "stop")


def test_a_prompt_that_does_not_fit_the_context_is_refused_alone(served, student):
    long = Request([{"role": "user", "content": TEXTS[0] * 20}], 6)
    short, refused = vllm.Base(student, [], 4).engine(None, 4).answer([REQUESTS[0], long], lambda _: None)
    assert (short.finish_reason, refused.finish_reason) == ("length", "refused")


@pytest.mark.parametrize(("ranks", "room"), [([], 0), ([4], 8), ([8], 8), ([9, 4], 16), ([64, 65], 128), ([512], 512)])
def test_vllm_keeps_room_for_the_widest_adapter(tmp_path, ranks, room):
    assert vllm.rank_of([adapter_of_rank(tmp_path, rank) for rank in ranks]) == room


def adapter_of_rank(folder: Path, rank: int) -> Path:
    path = folder / f"rank{rank}"
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return path


def test_a_rank_that_vllm_does_not_serve_is_named(tmp_path):
    with pytest.raises(InputError, match=r"rank513/adapter_config.json: r: 513, expected at most 512"):
        vllm.rank_of([adapter_of_rank(tmp_path, 513)])
    with pytest.raises(InputError, match=r"nowhere/adapter_config.json: no such file, expected an adapter"):
        vllm.rank_of([tmp_path / "nowhere"])


def test_arms_of_two_models_cannot_share_a_base(student, tmp_path):
    common = {"run": "r", "dataset": "d", "tests": [], "retrieved": None, "chunks": None, "mode": "closed"}
    arms = [Arm(**common, student=path, adapter=None) for path in (student, tmp_path / "lock.json")]
    with pytest.raises(InputError, match="--arms: they are of 2 models"):
        Students(Decoding(), arms)
