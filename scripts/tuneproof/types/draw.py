"""Draw the conceptual or the factual rows of a data set: as many of the one type as of the other, evenly over groups.

The parent's splits are kept, so that what is tested here was trained on in no set that is drawn from the same parent.
"""

from __future__ import annotations

from typing import Any

from tuneproof.errors import InputError
from tuneproof.pairs.draw import evenly
from tuneproof.records import Example
from tuneproof.study import TEST_SPLITS, Split, TypedSpec
from tuneproof.types.annotate import TYPES

Rows = dict[Split, list[Example]]


def draw(parent: Rows, types: dict[str, str], spec: TypedSpec) -> tuple[Rows, list[dict[str, Any]]]:
    """Return the rows of each split and the steps of the funnel. `types` maps pair ids to their type.

    A pair that is drawn brings all its wordings; test_trained_pages asks about drawn pairs only, because only these
    are trained on. Raises InputError where a pair has no type, a page of val or test_new_pages is trained on, or a
    split is empty.
    """
    for rows in parent.values():
        if unknown := [row for row in rows if row.pair_id not in types]:
            raise InputError(f"row {unknown[0].id}: its pair {unknown[0].pair_id!r} has no type, expected one for each")
    _check_pages(parent)
    of_type = {t: [row for row in parent["train"] if types[row.pair_id] == t] for t in TYPES}
    pairs = {t: len({row.pair_id for row in rows}) for t, rows in of_type.items()}
    drawn = _evenly(of_type[spec.type], min(*pairs.values(), spec.rows))
    trained = {row.pair_id for row in drawn}
    mine = {split: [row for row in rows if types[row.pair_id] == spec.type] for split, rows in parent.items()}
    again = [row for row in mine["test_trained_pages"] if row.pair_id in trained]
    splits: Rows = {
        "train": drawn,
        "val": mine["val"],
        "test_trained_pages": _evenly(again, spec.tests),
        "test_new_pages": _evenly(mine["test_new_pages"], spec.tests),
    }
    for split in ("train", "val", *TEST_SPLITS):
        if not splits[split]:
            raise InputError(
                f"split {split} is empty: of {len({r.pair_id for r in parent[split]})} pairs of {spec.of} there "
                f"{len({r.pair_id for r in mine[split]})} are {spec.type}; give {spec.of} more pairs, or other shares "
                "(datasets: splits)"
            )
    steps: list[dict[str, Any]] = [
        {"step": f"pairs of {spec.of}", "count": len({r.pair_id for rows in parent.values() for r in rows})},
        {"step": spec.type, "count": len({r.pair_id for rows in mine.values() for r in rows})},
        {"step": f"{spec.type}, to train on", "count": pairs[spec.type]},
        {"step": "drawn, as many of both types", "count": len(trained)},
        *(
            {"step": f"pairs of {name}, of {wanted} wanted", "count": count}
            for name, count, wanted in fewer(splits, spec)
        ),
        {"step": "training rows (all wordings)", "count": len(drawn)},
    ]
    return splits, steps


def fewer(splits: Rows, spec: TypedSpec) -> list[tuple[Split, int, int]]:
    """Return the splits with fewer pairs than the section asks for: split, pairs, pairs wanted."""
    wanted: dict[Split, int] = {"train": spec.rows, **dict.fromkeys(TEST_SPLITS, spec.tests)}
    pairs = {split: len({row.pair_id for row in splits[split]}) for split in wanted}
    return [(split, pairs[split], count) for split, count in wanted.items() if pairs[split] < count]


def _check_pages(parent: Rows) -> None:
    trained = {row.page_id for row in parent["train"]}
    for split in ("val", "test_new_pages"):
        if leak := [row for row in parent[split] if row.page_id in trained]:
            raise InputError(
                f"{split} row {leak[0].id}: its page {leak[0].page_id} ({leak[0].url}) is trained on, expected pages "
                "that are not"
            )


def _evenly(rows: list[Example], pairs: int) -> list[Example]:
    """The rows of at most so many pairs; order is kept."""
    drawn = evenly({row.pair_id: row.group for row in rows}, pairs)
    return [row for row in rows if row.pair_id in drawn]
