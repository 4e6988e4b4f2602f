"""A training that is interrupted: what a checkpoint is, when an attempt leaves, and when trying again is in vain."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tuneproof.errors import InputError
from tuneproof.study import LoRA
from tuneproof.training.interruption import (
    Diverged,
    Journal,
    Stop,
    full_disk,
    last_checkpoint,
    remove_incomplete,
    seal,
    step_of,
)
from tuneproof.training.tune import batches_per_step


def checkpoint(folder, step, sealed=True):
    path = folder / f"checkpoint-{step}"
    (path / "parts").mkdir(parents=True)
    (path / "adapter_model.safetensors").write_bytes(b"weights")
    (path / "parts" / "optimizer.pt").write_bytes(b"moments")
    if sealed:
        seal(path)
    return path


def test_the_newest_sealed_checkpoint_is_resumed(tmp_path):
    assert last_checkpoint(tmp_path) is None
    checkpoint(tmp_path, 9)
    checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 11, sealed=False)
    assert step_of(last_checkpoint(tmp_path)) == 10


@pytest.mark.parametrize("damage", ["truncated", "missing", "torn seal"])
def test_a_damaged_checkpoint_is_not_resumed(tmp_path, damage):
    checkpoint(tmp_path, 3)
    damaged = checkpoint(tmp_path, 6)
    if damage == "truncated":
        (damaged / "parts" / "optimizer.pt").write_bytes(b"mom")
    elif damage == "missing":
        (damaged / "adapter_model.safetensors").unlink()
    else:
        (damaged / "complete.json").write_text('{"adapter_model.safetensors": 7, "par')
    assert step_of(last_checkpoint(tmp_path)) == 3
    remove_incomplete(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_two_attempts_that_get_no_further_are_enough(tmp_path):
    for _ in range(2):
        Journal(tmp_path, "run").begin(12)
    with pytest.raises(InputError, match="two attempts in a row got no step further than step 12"):
        Journal(tmp_path, "run").begin(12)
    Journal(tmp_path, "a run that a person started later").begin(12)


def test_an_attempt_after_one_that_diverged_is_refused_with_its_words(tmp_path):
    journal = Journal(tmp_path, "run")
    journal.begin(0)
    journal.diverged(Diverged("step 7: the loss is nan", 7))
    with pytest.raises(InputError, match="step 7: the loss is nan"):
        Journal(tmp_path, "run").begin(6)
    Journal(tmp_path, "a run that a person started later").begin(6)


def test_an_attempt_whose_input_was_refused_is_none(tmp_path):
    journal = Journal(tmp_path / "run.abc", "run")
    for _ in range(5):
        journal.begin(0)
        journal.withdraw()
    assert not journal.file.parent.exists()


def test_attempts_that_get_further_go_on(tmp_path):
    for step in (0, 0, 3, 3, 6):
        Journal(tmp_path, "run").begin(step)


def test_a_person_may_try_as_often_as_they_like(tmp_path):
    for _ in range(5):
        Journal(tmp_path, None).begin(0)


def test_a_line_that_a_full_disk_has_torn_is_left_out(tmp_path):
    journal = Journal(tmp_path, "run")
    journal.add("step", 1)
    with journal.file.open("a") as stream:
        stream.write('{"event": "st')
    assert [row["step"] for row in journal.rows()] == [1]
    journal.add("step", 2)
    assert [row["step"] for row in journal.rows()] == [1, 2], "the next has a line of its own"


@pytest.fixture
def handlers():
    """Keep the test's own signal handlers."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_an_attempt_leaves_before_its_time_is_up():
    assert Stop(0, began=0).reason() is None, "no limit"
    now = time.monotonic()
    assert Stop(10, began=now).reason() is None
    assert Stop(10, began=now - 8 * 60).reason() is None
    assert Stop(10, began=now - 9.1 * 60).reason() == "out of time", "a tenth is kept for saving"
    assert Stop(600, began=now - 594 * 60).reason() is None, "but never more than five minutes"
    assert Stop(600, began=now - 596 * 60).reason() == "out of time"


@pytest.mark.usefixtures("handlers")
def test_the_longest_step_has_to_fit_as_well():
    stop = Stop(1, began=time.monotonic() - 53.2)
    stop.training_begins()
    time.sleep(0.3)
    assert stop.reason() is None
    time.sleep(0.3)
    assert stop.reason() == "out of time", "54 s are over with the next step"


@pytest.mark.usefixtures("handlers")
def test_sigterm_is_answered_at_the_end_of_the_step():
    stop = Stop(0, began=0)
    stop.training_begins()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.reason() == "told to stop"


def test_sigterm_before_the_first_step_leaves_at_once():
    program = (
        "import os, signal, time; from tuneproof.training.interruption import Stop; Stop(0, 0);"
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd="scripts", capture_output=True, text=True)
    assert done.returncode == 75
    assert "SIGTERM before the first step: nothing to save" in done.stderr


def test_a_full_disk_is_told_from_other_failures(tmp_path):
    assert not full_disk(tmp_path)
    path = checkpoint(tmp_path, 3)
    # a checkpoint larger than what is free, without its blocks
    with (path / "adapter_model.safetensors").open("wb") as stream:
        stream.truncate(1 << 42)
    (path / "complete.json").unlink()
    seal(path)
    assert full_disk(tmp_path)


RECIPE = {"kind": "lora", "rank": 1, "alpha": 1, "epochs": 1, "learning_rate": 1, "batch_size": 8, "accumulation": 4}


@pytest.mark.parametrize(("devices", "processes", "batches"), [(4, 4, 4), (4, 1, 16), (4, 2, 8), (1, 2, 2), (1, 4, 1)])
def test_a_step_sees_as_many_examples_whatever_the_number_of_processes(devices, processes, batches):
    assert batches_per_step(LoRA.parse(json.dumps({**RECIPE, "devices": devices})), processes) == batches


def test_a_step_that_cannot_be_shared_is_refused():
    with pytest.raises(InputError, match=r"3 processes cannot share a step of 32 examples .* a divisor of 4"):
        batches_per_step(LoRA.parse(json.dumps(RECIPE)), 3)
