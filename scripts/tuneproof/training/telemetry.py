"""What a training says while it runs: a row a step of speed and memory, the loss so far, a bar or a line a minute.

train_log.jsonl holds what is a function of the run: losses, learning rate, gradient norm, tokens. What differs from
machine to machine and from attempt to attempt (seconds, memory) stands in telemetry.jsonl, so that a run that was
killed has the same train_log.jsonl as one that was not.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneproof.arithmetic import Wanted
from tuneproof.progress import progress
from tuneproof.records import append_row, write_rows
from tuneproof.training.compute import peak_flops, resident_bytes

LOG, TELEMETRY = "train_log.jsonl", "telemetry.jsonl"
_LOGGED = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "diverged")


@dataclass(frozen=True)
class Work:
    """What there is to do in one step, over all processes."""

    rows: int
    tokens: int
    flops: float


def log_rows(history: list[dict[str, Any]], steps: Sequence[Work]) -> list[dict[str, Any]]:
    """Return the rows of train_log.jsonl from a trainer's history; `tokens` counts all that were read by then."""
    read = list(itertools.accumulate(step.tokens for step in steps))
    rows = [row for row in history if row.keys() & {"loss", "eval_loss", "diverged"}]
    return [
        {key: row[key] for key in _LOGGED if key in row} | ({"tokens": read[row["step"] - 1]} if "loss" in row else {})
        for row in rows
    ]


def telemetry_callback(folder: Path, device: str, precision: Wanted, steps: Sequence[Work]) -> Any:
    """Return the first process's callback: telemetry.jsonl and train_log.jsonl in `folder`, and the progress.

    `steps` is the work of each step of the training, from its first.
    """
    import torch
    from transformers import TrainerCallback

    class Telemetry(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.peak, self.source = peak_flops(device, precision)
            self.bar = progress(state.max_steps, "step", "train", initial=state.global_step)
            self.start = self.previous = time.monotonic()
            self.devices = args.world_size
            folder.mkdir(parents=True, exist_ok=True)

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.previous = time.monotonic()  # evaluations and checkpoints are no part of a step

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if device == "cuda":
                torch.cuda.synchronize()
            now = time.monotonic()
            seconds = now - self.previous
            work = steps[state.global_step - 1]
            row: dict[str, Any] = {
                "step": state.global_step,
                "seconds": round(now - self.start, 3),
                "step_seconds": round(seconds, 4),
                "tokens_per_second": round(work.tokens / seconds, 2),
                "samples_per_second": round(work.rows / seconds, 3),
                "peak_flops": round(self.peak),
                "peak_source": self.source,
                "mfu": round(work.flops / seconds / (self.peak * self.devices), 4),
                "memory_mb": round(resident_bytes() / 2**20),
                "gpu_allocated_mb": None,
                "gpu_reserved_mb": None,
            }
            if device == "cuda":
                row["gpu_allocated_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
                row["gpu_reserved_mb"] = round(torch.cuda.max_memory_reserved() / 2**20)
                torch.cuda.reset_peak_memory_stats()
            self._write(row)
            self.bar.set_postfix({**self._losses(state), "tok/s": f"{row['tokens_per_second']:.0f}"}, refresh=False)
            self.bar.update()

        def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            write_rows(folder / LOG, log_rows(state.log_history, steps))

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            write_rows(folder / LOG, log_rows(state.log_history, steps))

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.close()

        def _write(self, row: dict[str, Any]) -> None:
            append_row(folder / TELEMETRY, row)

        def _losses(self, state: Any) -> dict[str, str]:
            latest: dict[str, float] = {}
            for row in state.log_history[-8:]:
                latest |= {key: row[key] for key in ("loss", "eval_loss") if key in row}
            return {key: f"{value:.3f}" for key, value in latest.items()}

    return Telemetry()
