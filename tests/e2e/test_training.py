"""Trainings of a tiny Llama through scripts/train.py: the same curve however a step is cut, and after every kill."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny import make_student, write_examples

RECIPE = {
    "kind": "lora",
    "rank": 4,
    "alpha": 8,
    "dropout": 0.1,
    "epochs": 3,
    "learning_rate": 2e-2,
    "batch_size": 8,
    "max_tokens": 256,
    "save_steps": 2,
    "evaluations": 4,
}


@dataclass
class Bench:
    """A tiny student, rows to learn, and trainings of it in folders of their own."""

    root: Path
    folder: Path
    student: Path
    train: Path
    val: Path

    def start(
        self,
        name: str,
        seed: int = 1,
        devices: int = 1,
        minutes: float = 0,
        whole: bool = False,
        may_diverge: bool = False,
        **changes,
    ):
        spec = json.dumps({**({} if whole else RECIPE), "devices": devices, **changes})
        command = [sys.executable, self.root / "scripts" / "train.py", "--spec", spec, "--student", self.student]
        command += ["--train", self.train, "--val", self.val, "--seed", seed, "--devices", devices]
        command += ["--checkpoints", self.folder / "checkpoints" / name, "--out", self.folder / name]
        command += ["--time-budget-min", minutes, *(["--may-diverge"] if may_diverge else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(self.folder / "cache")}
        with (self.folder / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                list(map(str, command)), env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def run(self, name: str, code: int = 0, **how) -> list[dict]:
        """Train to the end; return the log."""
        assert self.start(name, **how).wait() == code, self.said(name)[-3000:]
        return self.log(name) if code == 0 else []

    def log(self, name: str) -> list[dict]:
        return [json.loads(line) for line in (self.folder / name / "train_log.jsonl").read_text().splitlines()]

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def steps_so_far(self, name: str) -> int:
        """The last step that the journal of an unfinished training holds; those of attempts before included."""
        files = [*self.folder.glob(f"checkpoints/{name}.*/journal.jsonl"), self.folder / name / "journal.jsonl"]
        lines = [line for f in files if f.exists() for line in f.read_text().splitlines() if line.endswith("}")]
        return sum(json.loads(line)["event"] == "step" for line in lines)

    def adapter(self, name: str) -> bytes:
        return (self.folder / name / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def bench(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainings")
    student = make_student(folder / "student")
    return Bench(
        root, folder, student, write_examples(folder / "train.jsonl", 44), write_examples(folder / "val.jsonl", 9)
    )


@pytest.fixture(scope="module")
def undisturbed(bench):
    return bench.run("undisturbed")


@pytest.fixture(scope="module")
def exact(bench):
    """One process in fp32 without dropout: what every other way to compute the same has to give."""
    return bench.run("exact", dropout=0, precision="fp32")


def losses(log):
    return [row["loss"] for row in log if "loss" in row]


def validation(log):
    return [row["eval_loss"] for row in log if "eval_loss" in row]


def test_a_run_leaves_exactly_these_files(bench, undisturbed):
    folder = bench.folder / "undisturbed"
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == {
        "train_log.jsonl",
        "telemetry.jsonl",
        "journal.jsonl",
        "spec.json",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/chat_template.jinja",
        "adapter/tokenizer.json",
        "adapter/tokenizer_config.json",
    }
    assert not list((bench.folder / "checkpoints").glob("undisturbed.*")), "checkpoints go when the run is done"


def test_the_log_holds_what_there_is_to_know(bench, undisturbed):
    steps = [row for row in undisturbed if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 19)), "44 rows in steps of 8, three epochs"
    assert all({"epoch", "learning_rate", "grad_norm", "tokens"} <= row.keys() for row in steps)
    assert [row["step"] for row in undisturbed if "eval_loss" in row] == [0, 4, 9, 14, 18], "the base's own first"
    spec = json.loads((bench.folder / "undisturbed" / "spec.json").read_text())
    assert steps[-1]["tokens"] == spec["tokens"]
    telemetry = [json.loads(x) for x in (bench.folder / "undisturbed" / "telemetry.jsonl").read_text().splitlines()]
    measured = [row for row in telemetry if "event" not in row]
    assert [row["step"] for row in measured] == list(range(1, 19))
    assert all(row["tokens_per_second"] > 0 and row["memory_mb"] > 100 and row["mfu"] > 0 for row in measured)


def test_it_learns(undisturbed):
    assert losses(undisturbed)[-1] < 0.95 * losses(undisturbed)[0]
    assert validation(undisturbed)[-1] < validation(undisturbed)[0]


def test_the_same_seed_gives_the_same_curve_and_another_does_not(bench, undisturbed):
    assert bench.run("again") == undisturbed
    assert bench.adapter("again") == bench.adapter("undisturbed")
    assert losses(bench.run("other", seed=2)) != losses(undisturbed)


def test_adapters_beside_4_bit_weights_learn_before_and_after_an_evaluation(bench):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed here")
    log = bench.run("qlora", kind="qlora", optimizer="paged_adamw_32bit")
    assert all(row["grad_norm"] > 0 for row in log if "loss" in row)
    assert validation(log)[-1] < validation(log)[0] - 0.2
    assert "nothing can be paged on cpu" in bench.said("qlora")


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 2), (1, 8)])
def test_a_step_is_the_same_however_it_is_cut(bench, exact, batch, accumulation):
    cut = bench.run(f"cut{batch}", dropout=0, precision="fp32", batch_size=batch, accumulation=accumulation)
    assert losses(cut) == pytest.approx(losses(exact), abs=1e-4)
    assert validation(cut) == pytest.approx(validation(exact), abs=1e-4)


def test_two_processes_learn_what_one_learns(bench, exact):
    """Also in the last step of an epoch, whose four rows are shared as they are."""
    together = bench.run("together", dropout=0, precision="fp32", batch_size=4, devices=2)
    assert losses(together) == pytest.approx(losses(exact), abs=1e-4)
    assert validation(together) == pytest.approx(validation(exact), abs=1e-4)


def test_two_processes_under_zero2_learn_and_save_what_one_does(bench, exact):
    from safetensors.torch import load_file

    spread = bench.run("spread", dropout=0, precision="fp32", batch_size=4, devices=2, sharding="zero2")
    assert losses(spread) == pytest.approx(losses(exact), abs=1e-4)
    saved, alone = (load_file(bench.folder / n / "adapter/adapter_model.safetensors") for n in ("spread", "exact"))
    assert saved.keys() == alone.keys(), "the adapter and nothing of its base"
    assert all((saved[name] - alone[name]).abs().max() < 1e-3 for name in alone)


@pytest.mark.parametrize("switch", ["packing", "answer_logits", "fused"])
def test_no_switch_changes_what_is_learned(bench, exact, switch):
    slow = bench.run(f"slow-{switch}", dropout=0, precision="fp32", speed={switch: False})
    assert losses(slow) == pytest.approx(losses(exact), abs=1e-4)


def test_checkpointing_changes_no_bit(bench, undisturbed):
    assert bench.run("twice", gradient_checkpointing=True) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "time budget"])
def test_a_training_that_is_interrupted_ends_as_if_it_had_not_been(bench, undisturbed, how, devices):
    expected = undisturbed if devices == 1 else bench.run("two", devices=2, batch_size=4)
    name = f"{how.replace(' ', '-')}-{devices}"
    sizes = {"devices": devices, "batch_size": 8 // devices}
    chance = random.Random(name)
    interruptions = 0
    while interruptions < 3:
        # a budget of a tenth of a second is up after the first step
        process = bench.start(name, minutes=0.001 if how == "time budget" else 0, **sizes)
        if how != "time budget":
            begun = bench.steps_so_far(name)
            wanted = begun + chance.randint(1, 5)
            while process.poll() is None and bench.steps_so_far(name) < wanted:
                time.sleep(0.02)
            number = signal.SIGKILL if how == "SIGKILL" else signal.SIGTERM
            if process.poll() is None:
                os.killpg(process.pid, number)
        code = process.wait()
        if code == 0:
            break
        interruptions += 1
    assert interruptions, "it was done before it could be interrupted"
    if code != 0:
        bench.run(name, **sizes)
    log = bench.log(name)
    assert [row["step"] for row in log] == [row["step"] for row in expected]
    assert losses(log) == pytest.approx(losses(expected), abs=1e-5)
    assert validation(log) == pytest.approx(validation(expected), abs=1e-5)
    if devices == 1:
        assert log == expected, "to the last bit"
        assert bench.adapter(name) == bench.adapter("undisturbed")


def test_checkpoints_are_the_last_two_and_the_best(bench):
    process = bench.start("pruned", learning_rate=0.5, epochs=30, save_steps=3, evaluations=10)
    while process.poll() is None and bench.steps_so_far("pruned") < 120:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()
    (folder,) = bench.folder.glob("checkpoints/pruned.*")
    kept = sorted(int(p.name.split("-")[1]) for p in folder.glob("checkpoint-*"))
    state = json.loads((folder / f"checkpoint-{kept[-1]}" / "trainer_state.json").read_text())
    measured = [row for row in state["log_history"] if "eval_loss" in row]
    best = min(measured, key=lambda row: row["eval_loss"])["step"]
    assert best in kept, "a rate of 0.5 is best at the beginning"
    assert len(kept) == (3 if best not in kept[-2:] else 2)


def test_a_loss_that_is_no_number_stops_at_its_step_and_names_the_rows(bench):
    assert bench.start("nan", learning_rate=1e30, warmup=0).wait() == 1
    said = bench.said("nan")
    assert "step " in said
    assert "nan" in said or "inf" in said
    assert "the last checkpoint is kept" in said
    assert "Traceback" not in said


def test_a_training_that_may_diverge_ends_with_what_there_is_and_says_so(bench):
    from safetensors.torch import load_file

    log = bench.run("diverged", learning_rate=1e30, warmup=0, may_diverge=True)
    assert log[-1]["diverged"] and log[-1]["step"] < 18
    adapter = load_file(bench.folder / "diverged" / "adapter" / "adapter_model.safetensors")
    assert adapter, "what other rules want of a run is there"


def test_a_constant_rate_is_warmed_up_to(bench):
    log = bench.run("constant", schedule="constant", warmup=0.5, epochs=1)
    rates = [row["learning_rate"] for row in log if "loss" in row]
    assert rates[0] < rates[-1] == RECIPE["learning_rate"]


REFUSED = {
    "a module that does not exist": (
        {"targets": ["q_proj", "k_porj"]},
        "no module 'k_porj', expected some of down_proj",
    ),
    "a row longer than the model reads": (
        {"max_tokens": 300},
        "max_tokens: 300 is more than the model reads, expected at",
    ),
    "rank 0": ({"rank": 0}, "rank: 0 is wrong"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nonsense_is_refused_before_a_model_is_loaded(bench, name):
    changes, message = REFUSED[name]
    assert bench.start("refused", **changes).wait() == 1
    said = bench.said("refused")
    assert message in said
    assert not list(bench.folder.glob("checkpoints/refused.*")), "it was not even begun"


@pytest.mark.slow
def test_a_model_that_is_tuned_whole_answers_and_stops(bench):
    """EOS is learned: a training that learns its rows by heart gives a model that says them, and ends."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    full = {**RECIPE, "kind": "full", "epochs": 120, "learning_rate": 1e-2, "evaluations": 1, "save_steps": 1000}
    log = bench.run("by-heart", **{k: v for k, v in full.items() if k not in ("rank", "alpha", "dropout")}, whole=True)
    assert losses(log)[-1] < 0.2
    tokenizer = AutoTokenizer.from_pretrained(bench.folder / "by-heart" / "model")
    model = AutoModelForCausalLM.from_pretrained(bench.folder / "by-heart" / "model").eval()
    rows = [json.loads(line) for line in bench.train.read_text().splitlines()][:10]
    answers = []
    for row in rows:
        asked = tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, tokenize=False)
        ids = tokenizer(asked, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            written = model.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :].tolist()
        assert tokenizer.eos_token_id in written, row["question"]
        answers.append(tokenizer.decode(written[: written.index(tokenizer.eos_token_id)]))
    right = sum(answer == row["answer"] for answer, row in zip(answers, rows, strict=True))
    assert right >= 8, answers
