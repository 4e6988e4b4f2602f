"""Which pages get which split, what is asked about, and which rows are taken: owners (pages, products) take turns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from tuneproof.errors import InputError
from tuneproof.pairs.split import split_pages
from tuneproof.records import Chunk, Pair, content_id
from tuneproof.study import InstructionsSpec, RecommendationSpec, Split, Splits

# So many times the wanted rows are asked for, because checks drop some.
SPARE = 1.6

T = TypeVar("T")


@dataclass(frozen=True)
class Unit:
    """What the LLM is asked about once: a chunk, in one variant; for a call, with pairs that were written from it."""

    chunk: Chunk
    split: Split
    variant: int = 0
    pairs: tuple[Pair, ...] = ()


def quotas(spec: RecommendationSpec | InstructionsSpec) -> dict[Split, int]:
    """Return the rows wanted in each split."""
    trained = spec.rows - spec.validation - spec.tests
    return {"train": trained, "val": spec.validation, "test_new_pages": spec.tests}


def assign(groups: Mapping[str, str], spec: RecommendationSpec | InstructionsSpec) -> dict[str, Split]:
    """Assign each page or product (id -> group) to a split, in the shares of the rows, the same within each group.

    Raises InputError where a split gets none.
    """
    shares = Splits(val_pages=spec.validation / spec.rows, test_pages=spec.tests / spec.rows)
    assigned = split_pages(dict(groups), shares)
    for split in quotas(spec):
        if split not in assigned.values():
            raise InputError(
                f"split {split}: none of {len(groups)} pages or products, expected more of them, or other shares of "
                f"rows {spec.rows}, validation {spec.validation}, tests {spec.tests}"
            )
    return assigned


def in_turns(rows: Iterable[T], owner: Callable[[T], str]) -> list[T]:
    """Order rows so that owners take turns: the first row of each, the second of each, and so on."""
    seen: Counter[str] = Counter()
    placed = []
    for row in rows:
        name = owner(row)
        placed.append((seen[name], content_id("turn", name), row))
        seen[name] += 1
    return [row for *_, row in sorted(placed, key=lambda place: place[:2])]


def take(rows: Iterable[T], split_of: Callable[[T], Split], wanted: Mapping[Split, int], spare: float = 1) -> list[T]:
    """Return the first rows of each split, as many as are wanted, `spare` times."""
    taken: Counter[Split] = Counter()
    chosen = []
    for row in rows:
        split = split_of(row)
        if taken[split] < math.ceil(spare * wanted[split]):
            taken[split] += 1
            chosen.append(row)
    return chosen
