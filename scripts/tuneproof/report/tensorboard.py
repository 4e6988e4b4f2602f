"""Training logs as TensorBoard's scalars: of finished runs, and of those under way.

The files of a run under way lie beside its checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Scalar = tuple[str, float, int]

_TRAIN = {"loss": "train/loss", "eval_loss": "validation/loss"}
_SILENT = ("step", "seconds", "minutes", "attempt")


def scalars(log: Iterable[Mapping[str, Any]], telemetry: Iterable[Mapping[str, Any]]) -> list[Scalar]:
    """Return (tag, value, step) of every number of a run; what is null is left out."""
    found = []
    for prefix, rows in (("train", log), ("speed and memory", telemetry)):
        for row in rows:
            found += [
                (_TRAIN.get(key, f"{prefix}/{key}"), float(value), int(row["step"]))
                for key, value in row.items()
                if key not in _SILENT and isinstance(value, int | float) and not isinstance(value, bool)
            ]
    return found


def folders(runs: Path, checkpoints: Path) -> dict[str, Path]:
    """Return {name: folder} of all runs with a log: finished ones by id, those under way by their folder's name."""
    finished = {log.parent.relative_to(runs).as_posix(): log.parent for log in runs.glob("*/*/*/*/train_log.jsonl")}
    # model.method.dataset.seedN.hash: a hash, so that two recipes of one run are two curves
    under_way = {f"under-way/{log.parent.name}": log.parent for log in checkpoints.glob("*/train_log.jsonl")}
    return {**finished, **under_way}


def is_event_file(name: str) -> bool:
    """Whether a file is one of TensorBoard's."""
    return re.match(r"events\.out\.tfevents\.", name) is not None
