"""Training that is interrupted and goes on: complete checkpoints, a time budget, SIGTERM, attempts that get nowhere.

An attempt that is told to stop (its time is up, or SIGTERM came) saves a checkpoint and leaves with `OUT_OF_TIME`;
the next attempt goes on from there. Checkpoints lie outside the outputs, because Snakemake deletes the outputs of a
failed attempt.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError
from tuneproof.records import append_row, whole_rows, write_json

OUT_OF_TIME = 75  # sysexits.h: a temporary failure, try again
_SEAL = "complete.json"
_RESERVE_SHARE = 0.1
_RESERVE_LIMIT_S = 300.0


class Diverged(InputError):
    """A step's loss or gradient is no number. `step` is its number."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class Interrupted(Exception):
    """The attempt was told to stop and has saved a checkpoint. `reason` says what told it."""

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.step = step


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint: one whose seal names every file with the size it has."""
    complete = [path for path in folder.glob("checkpoint-*") if _is_complete(path)]
    return max(complete, key=step_of, default=None)


def remove_incomplete(folder: Path) -> None:
    """Remove what an attempt that died while saving has left: it is of no use and takes the next one's room."""
    for path in folder.glob("checkpoint-*"):
        if not _is_complete(path):
            shutil.rmtree(path)


def prune(folder: Path, best: int | None) -> None:
    """Remove complete checkpoints but the last two and the one of step `best`."""
    complete = sorted((path for path in folder.glob("checkpoint-*") if _is_complete(path)), key=step_of)
    for path in complete[:-2]:
        if step_of(path) != best:
            shutil.rmtree(path)


def seal(checkpoint: Path) -> None:
    """Flush a checkpoint's files to the disk and mark it as complete."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != _SEAL]
    for path in files:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    write_json(checkpoint / _SEAL, {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files})


class Journal:
    """What happened to one training, a line at a time, over all its attempts: each begin, each step, each end.

    It lies beside the checkpoints, so that a training can be watched, and goes to the run's folder at the end. `run` is
    what the attempts of one run of Snakemake have in common; None where a person starts every attempt.
    """

    def __init__(self, folder: Path, run: str | None) -> None:
        self.file = folder / "journal.jsonl"
        self._run = run

    def begin(self, step: int) -> None:
        """Note an attempt's begin; raise InputError where another is of no use.

        Where the one before it, in this run, diverged: it would again. Where two before it got no step further.
        """
        rows = self.rows()
        if self._run and rows and rows[-1]["event"] == "diverged" and rows[-1]["run"] == self._run:
            raise InputError(rows[-1]["said"])
        starts = [row["step"] for row in rows if row["event"] == "begin" and row["run"] == self._run]
        if self._run and starts[-2:] == [step, step]:
            raise InputError(
                f"{self.file.parent}: two attempts in a row got no step further than step {step}; raise the rule's "
                "runtime or its memory, or lower save_steps, and start Snakemake again"
            )
        self.add(
            "begin",
            step,
            run=self._run,
            job=os.environ.get("SLURM_JOB_ID"),
            gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
            container=os.environ.get("APPTAINER_CONTAINER"),
            processes=int(os.environ.get("WORLD_SIZE", "1")),
        )

    def add(self, event: str, step: int, **more: Any) -> None:
        """Append a line. An attempt that is killed leaves no end."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        append_row(self.file, {"event": event, "step": step, "at": round(time.time(), 1), **more})

    def diverged(self, diverged: Diverged) -> None:
        """Note an attempt's end at a step whose loss or gradient is no number."""
        self.add("diverged", diverged.step, run=self._run, said=str(diverged))

    def withdraw(self) -> None:
        """Take an attempt's begin back: one whose input was refused is none, and leaves nothing behind."""
        lines = self.file.read_text().splitlines(keepends=True)[:-1]
        if lines:
            self.file.write_text("".join(lines))
        else:
            self.file.unlink()
            with suppress(OSError):  # there are checkpoints of before
                self.file.parent.rmdir()

    def rows(self) -> list[dict[str, Any]]:
        """Return what was noted; a line that a full disk has torn is left out."""
        return [row for row in whole_rows(self.file) if "event" in row]


def full_disk(folder: Path) -> bool:
    """Tell whether there is no room for a further checkpoint as large as the last one.

    torch reports a full disk as an assertion about positions in a file: only the disk itself tells.
    """
    last = last_checkpoint(folder)
    needed = sum(path.stat().st_size for path in last.rglob("*") if path.is_file()) if last else 1 << 20
    return shutil.disk_usage(folder if folder.exists() else ".").free < needed


class Stop:
    """Decides when an attempt has to leave. `began` is the attempt's start on the monotonic clock, in seconds.

    With a budget, a tenth of it (at most five minutes) is kept to save and to leave, and besides as much as the
    longest step so far took, with the evaluation and the checkpoint that belong to it.
    """

    def __init__(self, budget_min: float, began: float) -> None:
        self._deadline = began + budget_min * 60 - min(_RESERVE_LIMIT_S, _RESERVE_SHARE * budget_min * 60)
        self._limited = budget_min > 0
        self._previous = time.monotonic()
        self._longest = 0.0
        self._training = False
        self._terminated = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def training_begins(self) -> None:
        """From now on a signal is answered at the end of the step, with a checkpoint."""
        self._training = True
        self._previous = time.monotonic()

    def reason(self) -> str | None:
        """Ask at the end of a step: why the attempt has to leave now, or None."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._previous)
        self._previous = now
        if self._terminated:
            return "told to stop"
        if self._limited and now + self._longest > self._deadline:
            return "out of time"
        return None

    def _on_signal(self, number: int, _: object) -> None:
        name = signal.Signals(number).name
        if not self._training:
            print(f"train: {name} before the first step: nothing to save", file=sys.stderr, flush=True)
            os._exit(OUT_OF_TIME)  # the libraries that are being loaded may swallow an exception
        print(f"train: {name}: the checkpoint is saved at the end of this step", file=sys.stderr, flush=True)
        self._terminated = True


def _is_complete(checkpoint: Path) -> bool:
    try:
        sizes: dict[str, int] = json.loads((checkpoint / _SEAL).read_text())
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def step_of(checkpoint: Path | None) -> int:
    """Return the step a checkpoint was saved after; 0 for none."""
    return int(checkpoint.name.split("-")[1]) if checkpoint else 0


def best_step(history: Sequence[dict[str, Any]]) -> int | None:
    """Return the step with the lowest validation loss so far, the base's own left out; the first of equal ones."""
    measured = [row for row in history if "eval_loss" in row and row["step"]]
    return int(min(measured, key=lambda row: (row["eval_loss"], row["step"]))["step"]) if measured else None


def stop_callback(stop: Stop, journal: Journal | None) -> Any:
    """Return the trainer's callback: notes each step, seals each checkpoint, raises `Interrupted` after the last one.

    `journal` is None in all processes but the first.
    """
    import torch
    from torch import distributed
    from transformers import TrainerCallback

    class Interruption(TrainerCallback):
        reason: str | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            stop.training_begins()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if journal:
                journal.add("step", state.global_step)
            reason = stop.reason()
            if distributed.is_initialized():
                # one process alone must not leave: the others would wait for it for ever
                asked = torch.tensor([int(reason is not None)], device=args.device)
                distributed.all_reduce(asked, op=distributed.ReduceOp.MAX)
                reason = (reason or "another process has to stop") if asked.item() else None
            if reason and state.global_step < state.max_steps:
                self.reason = reason
                control.should_save = True

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if distributed.is_initialized():
                distributed.barrier()  # every process has written its part
            if state.is_world_process_zero:
                folder = Path(args.output_dir)
                seal(folder / f"checkpoint-{state.global_step}")
                prune(folder, best_step(state.log_history))  # not before: a disk may be full
            if self.reason:
                if distributed.is_initialized():
                    distributed.barrier()  # when one process has left, torchrun ends the others: not before the seal
                raise Interrupted(self.reason, state.global_step)

    return Interruption()
