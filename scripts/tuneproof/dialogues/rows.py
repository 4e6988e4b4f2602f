"""From dialogues to rows: what is said is cleaned, the first summary is the answer, all summaries are references."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tuneproof.dialogues.layouts import Dialogue, Turn
from tuneproof.errors import InputError
from tuneproof.llm.prompts import inert
from tuneproof.records import Example, Message, content_id
from tuneproof.study import SPLITS, Split

GROUP = "dialogues"
NO_SUMMARY = "no summary"
NOTHING_LEFT = "nothing is left of it when it is cleaned"
# What is taken out, in this order: web addresses, @names, ^initials of agents; then runs of white space are one space.
_NOISE = (re.compile(r"http\S+"), re.compile(r"@[^\s]+"), re.compile(r"\^[^ ]+"))
_SPACE = re.compile(r"\s+")


def clean(text: str) -> str:
    """Return what is said without web addresses, @names, ^initials and runs of white space."""
    for pattern in _NOISE:
        text = pattern.sub("", text)
    return _SPACE.sub(" ", text).strip()


def dialogue_text(turns: Sequence[Turn], cleaned: bool) -> str:
    """Return a dialogue as lines `user: …` and `agent: …`; a turn of which nothing is left has none."""
    said = [(turn.role, clean(turn.text) if cleaned else turn.text.strip()) for turn in turns]
    return "\n".join(f"{role}: {inert(text)}" for role, text in said if text)


def make_rows(
    dialogues: Mapping[Split, Sequence[Dialogue]], system: str | None, cleaned: bool
) -> tuple[dict[Split, list[Example]], list[tuple[Dialogue, str]]]:
    """Return the rows of each split, and the dialogues that make none with the reason.

    Raises InputError where a dialogue is there twice, or a split has no row.
    """
    splits: dict[Split, list[Example]] = {split: [] for split in SPLITS}
    dropped: list[tuple[Dialogue, str]] = []
    seen: dict[str, str] = {}
    for split, of_split in dialogues.items():
        for dialogue in of_split:
            if dialogue.id in seen:
                raise InputError(
                    f"{dialogue.where}: dialogue {dialogue.id} is also in {seen[dialogue.id]}, expected once"
                )
            seen[dialogue.id] = dialogue.where
            text = dialogue_text(dialogue.turns, cleaned)
            if not dialogue.summaries or not text:
                dropped.append((dialogue, NOTHING_LEFT if dialogue.summaries else NO_SUMMARY))
            else:
                splits[split].append(_example(dialogue, text, split, system))
        if not splits[split]:
            raise InputError(
                f"split {split}: none of {len(of_split)} dialogues makes a row, expected some with summaries"
            )
    return splits, dropped


def funnel(
    dataset: str,
    dialogues: Mapping[Split, Sequence[Dialogue]],
    dropped: Sequence[tuple[Dialogue, str]],
    splits: Mapping[Split, Sequence[Example]],
) -> dict[str, Any]:
    """Count dialogues, their summaries, the null ones, and what became of them."""
    everything = [dialogue for of_split in dialogues.values() for dialogue in of_split]
    steps = {
        "dialogues": len(everything),
        "with a summary": sum(bool(dialogue.summaries) for dialogue in everything),
        "rows": sum(map(len, splits.values())),
        "training rows": len(splits["train"]),
    }
    return {
        "dataset": dataset,
        "steps": [{"step": step, "count": count} for step, count in steps.items()],
        "summaries": sum(len(dialogue.summaries) for dialogue in everything),
        "with_a_null_summary": sum(dialogue.null_summaries > 0 for dialogue in everything),
        "dropped": dict(Counter(reason for _, reason in dropped).most_common()),
        "splits": {split: len(rows) for split, rows in splits.items()},
    }


def _example(dialogue: Dialogue, text: str, split: Split, system: str | None) -> Example:
    references = [inert(summary) for summary in dialogue.summaries]
    before: list[Message] = [{"role": "system", "content": system}] if system else []
    return Example(
        id=content_id(dialogue.id, text, references[0], split),
        pair_id=content_id(dialogue.id, references[0]),
        # a dialogue is its own source: page, chunk and address
        chunk_id=dialogue.id,
        page_id=dialogue.id,
        url=dialogue.id,
        group=GROUP,
        split=split,
        question=text,
        answer=references[0],
        messages=[*before, {"role": "user", "content": text}, {"role": "assistant", "content": references[0]}],
        references=references,
    )
