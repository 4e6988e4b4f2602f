"""The card of an instruction set: what was asked for, what was dropped and why, what came out."""

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


def card(counts: dict[str, Any], about: list[str], splits: Mapping[Split, list[Example]]) -> str:
    """Return the card as Markdown; `about` are the sentences that only this kind needs."""
    lines = [
        f"# Data set {counts['dataset']}",
        "",
        *about,
        "",
        "## From the source to rows",
        "",
        "| step | count |",
        "|---|---:|",
        *[f"| {s['step']} | {s['count']} |" for s in counts["steps"]],
        "",
        f"Replies that were no usable JSON: {counts['unusable_replies']}.",
        "",
        "## Dropped",
        "",
        "| reason | count |",
        "|---|---:|",
        *[f"| {reason} | {n} |" for reason, n in counts["dropped"].items()],
        "",
        "## Splits",
        "",
        "| split | rows | pages or products |",
        "|---|---:|---:|",
        *[f"| {split} | {len(rows)} | {len({r.page_id for r in rows})} |" for split, rows in splits.items()],
        "",
        "No page or product of val or test_new_pages is in train. test_trained_pages is empty: the task is a skill,",
        "and a test about trained pages would measure memory.",
        "",
        "## Examples",
        "",
    ]
    for split, rows in splits.items():
        for row in rows[:2]:
            lines += [f"*{split}* {row.url}", "", "```text", row.question, "```", "", "```text", row.answer, "```", ""]
    return "\n".join(lines)
