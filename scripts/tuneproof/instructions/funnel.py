"""The funnel of an instruction set: what was asked for, what was dropped and why, what came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tuneproof.records import Example
from tuneproof.study import Split


def funnel(
    dataset: str,
    steps: Mapping[str, int],
    unusable: int,
    reasons: list[str],
    splits: Mapping[Split, list[Example]],
) -> dict[str, Any]:
    """Count every step from the source to the rows, and every reason for a drop."""
    return {
        "dataset": dataset,
        "steps": [{"step": step, "count": count} for step, count in steps.items()],
        "unusable_replies": unusable,
        "dropped": dict(Counter(reasons).most_common()),
        "splits": {split: len(rows) for split, rows in splits.items()},
    }
