"""Rows of a task on chunks: which chunks the LLM is asked about, what it wrote, and the rows of each split.

A task is a module: `calls` (next-steps) or `pitch`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel

from tuneproof.errors import InputError
from tuneproof.instructions import calls, pitch
from tuneproof.instructions.draw import SPARE, Unit, assign, in_turns, quotas, take
from tuneproof.instructions.products import of_group
from tuneproof.llm.calls import Request
from tuneproof.llm.client import Answered, failures
from tuneproof.llm.prompts import fill
from tuneproof.records import Chunk, Example, Pair, content_id
from tuneproof.study import InstructionsSpec, PitchSpec, Split


class Task(Protocol):
    """What a task's module has."""

    @property
    def SHAPE(self) -> type[BaseModel]:
        """What a reply must be. Its name and fields are part of the address of every stored call."""

    @property
    def GAPS(self) -> set[str]:
        """The gaps of the prompt that has the LLM write."""

    @property
    def NEEDS(self) -> str:
        """What makes a chunk usable, in words."""

    @property
    def VARIANTS(self) -> int:
        """In how many ways a chunk can be asked about."""

    @property
    def usable(self) -> Callable[[Chunk, Sequence[Pair]], bool]:
        """Whether a chunk, with the pairs that were written from it, has what the task is about."""

    @property
    def request(self) -> Callable[[Unit, str], Request]:
        """The request for a unit, from the template."""

    @property
    def parts(self) -> Callable[[Unit, str], tuple[str, str]]:
        """What the student is given and what it shall answer, from the LLM's reply about a unit."""

    @property
    def fault(self) -> Callable[[Chunk, str, str], str | None]:
        """Why the two cannot be kept, or None."""


TASKS: dict[str, Task] = {"next-steps": calls, "pitch": pitch}


@dataclass(frozen=True)
class Written:
    """What was written about a chunk: the student's material and its answer."""

    id: str
    chunk_id: str
    split: Split
    material: str
    answer: str
    call_id: str


def draw_units(
    chunks: list[Chunk],
    spec: InstructionsSpec,
    pairs: Sequence[Pair] = (),
    splits: Mapping[str, Split] | None = None,
) -> list[Unit]:
    """Return what the LLM is asked about: pages take turns, and some more than the rows wanted, for drops.

    `pairs` are those that calls are made of, `splits` the pages that their data set holds out of training; without it
    pages are dealt to splits here.
    """
    task = TASKS[spec.kind]
    told: dict[str, list[Pair]] = {}
    for pair in pairs:
        told.setdefault(pair.chunk_id, []).append(pair)
    chosen = of_group(chunks, spec.group) if isinstance(spec, PitchSpec) else chunks
    usable = [chunk for chunk in chosen if task.usable(chunk, told.get(chunk.id, []))]
    if not usable:
        raise InputError(f"{spec.kind}: none of {len(chosen)} chunks has {task.NEEDS}, expected some")
    if splits is None:
        splits = assign({chunk.page_id: chunk.group for chunk in usable}, spec)
    units = [
        Unit(chunk, splits.get(chunk.page_id, "train"), variant, tuple(told.get(chunk.id, [])))
        for variant in range(task.VARIANTS)
        for chunk in usable
    ]
    return take(in_turns(units, lambda u: u.chunk.page_id), lambda u: u.split, quotas(spec), SPARE)


def written_from(units: list[Unit], task: Task, answered: list[Answered]) -> tuple[list[Written], list[dict[str, str]]]:
    """Return what was written, and the calls whose reply came to nothing."""
    written: list[Written] = []
    failed: list[dict[str, str]] = []
    for unit, answer in zip(units, answered, strict=True):
        if answer.fault:
            [failure] = failures([answer])
            failed.append({"chunk_id": unit.chunk.id, **failure})
            continue
        material, text = task.parts(unit, answer.reply.text)
        identity = content_id(unit.chunk.id, material, text)
        written.append(Written(identity, unit.chunk.id, unit.split, material, text, answer.call_id))
    return written, failed


def screen(
    written: list[Written], task: Task, chunks: dict[str, Chunk]
) -> tuple[list[Written], list[tuple[Written, str]]]:
    """Return what is kept, and what is dropped with its reason; `chunks` by id."""
    kept: list[Written] = []
    dropped: list[tuple[Written, str]] = []
    seen: set[str] = set()
    for item in written:
        reason = task.fault(chunks[item.chunk_id], item.material, item.answer)
        if reason is None and item.material in seen:
            reason = "written twice"
        if reason is None:
            seen.add(item.material)
            kept.append(item)
        else:
            dropped.append((item, reason))
    return kept, dropped


def make_rows(
    kept: list[Written], chunks: dict[str, Chunk], template: str, spec: InstructionsSpec
) -> dict[Split, list[Example]]:
    """Return the rows of each split; raise InputError where one is empty."""
    splits: dict[Split, list[Example]] = {"train": [], "val": [], "test_trained_pages": [], "test_new_pages": []}
    for item in take(kept, lambda w: w.split, quotas(spec)):
        splits[item.split].append(_example(item, chunks[item.chunk_id], template))
    for split in quotas(spec):
        if not splits[split]:
            raise InputError(f"split {split} is empty: none of what was written for it can be kept; ask for more rows")
    return splits


def _example(item: Written, chunk: Chunk, template: str) -> Example:
    prompt = fill(template, material=item.material)
    return Example(
        id=content_id(item.id, prompt, item.split),
        pair_id=item.id,
        chunk_id=chunk.id,
        page_id=chunk.page_id,
        url=chunk.url,
        group=chunk.group,
        split=item.split,
        question=prompt,
        answer=item.answer,
        messages=[{"role": "user", "content": prompt}, {"role": "assistant", "content": item.answer}],
    )
