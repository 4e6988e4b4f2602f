"""The data set's card: how many were asked for, what was dropped and why, how the rest was split."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tuneproof.records import Chunk, Example, Pair


def funnel(
    dataset: str,
    page_counts: dict[str, int],
    chunks: list[Chunk],
    written: list[Pair],
    unusable: int,
    dropped: list[dict[str, Any]],
    splits: dict[str, list[Example]],
) -> dict[str, Any]:
    """Count every step from documents to training rows, and every reason for a drop."""
    reasons = Counter(row["reason"] for row in dropped)
    return {
        "dataset": dataset,
        "steps": [
            {"step": "documents", "count": page_counts["documents"]},
            {"step": "pages with text, copies dropped", "count": page_counts["pages"]},
            {"step": "chunks", "count": len(chunks)},
            {"step": "chunks asked about", "count": len({p.chunk_id for p in written}) + unusable},
            {"step": "pairs written", "count": len(written)},
            {"step": "pairs kept", "count": len(written) - len(dropped)},
            {"step": "training rows (all wordings)", "count": len(splits["train"])},
        ],
        "unusable_replies": unusable,
        "dropped": dict(reasons.most_common()),
        "splits": {split: len(rows) for split, rows in splits.items()},
    }


def card(counts: dict[str, Any], splits: dict[str, list[Example]], spec: dict[str, Any]) -> str:
    """Return the card as Markdown."""
    lines = [
        f"# Data set {counts['dataset']}",
        "",
        f"Question-answer pairs written by `{spec['llm']}` from the corpus `{spec['corpus']}`, split by page.",
        "",
        "## From documents to rows",
        "",
        "| step | count |",
        "|---|---:|",
        *[f"| {s['step']} | {s['count']} |" for s in counts["steps"]],
        "",
        f"Replies that were no usable JSON: {counts['unusable_replies']}.",
        "",
        "## Dropped pairs",
        "",
        "| reason | count |",
        "|---|---:|",
        *[f"| {reason} | {n} |" for reason, n in counts["dropped"].items()],
        "",
        "## Splits",
        "",
        "| split | rows | pairs | pages | groups |",
        "|---|---:|---:|---:|---|",
        *[_split_row(split, rows) for split, rows in splits.items()],
        "",
        "`test_new_pages` asks about pages that were never trained on; `test_trained_pages` asks in new wordings about",
        "pages that were. No page is in train and in val or test_new_pages.",
        "",
        "## Examples",
        "",
    ]
    for split, rows in splits.items():
        lines += [f"- *{split}* [{row.url}] **{row.question}** {row.answer}" for row in rows[:5]]
    return "\n".join(lines) + "\n"


def _split_row(split: str, rows: list[Example]) -> str:
    groups = Counter(row.group for row in rows)
    by_group = ", ".join(f"{group} {n}" for group, n in sorted(groups.items()))
    pairs, pages = len({r.pair_id for r in rows}), len({r.page_id for r in rows})
    return f"| {split} | {len(rows)} | {pairs} | {pages} | {by_group} |"
