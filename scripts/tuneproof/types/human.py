"""Questions that people have sorted: NF-CATS (Bolotova et al. 2022), github.com/Lurunchik/NF-CATS, MIT.

Its folder has train.csv and test.csv with the columns annotated_by, category and question. A FACTOID is
factual; what is EVIDENCE-BASED, a REASON, a COMPARISON or an INSTRUCTION is conceptual; other categories are neither.
`annotated_by` is authors or mturk where people have looked at the question, else unsupervised: the category is then
that of the site which the question was taken from.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tuneproof.errors import InputError
from tuneproof.records import content_id

CATEGORIES = {
    "FACTOID": "factual",
    "EVIDENCE-BASED": "conceptual",
    "REASON": "conceptual",
    "COMPARISON": "conceptual",
    "INSTRUCTION": "conceptual",
}
_BY = ("authors", "mturk", "unsupervised")
# Hardly any of the questions that people have looked at is factual (11 of the test's 435): more by the site's word.
_SITE_QUESTIONS = 100
_TRAIN_QUESTIONS = 800


@dataclass(frozen=True)
class HumanRow:
    """A question with its type; `part` is train (its type is not used), people or site: who has sorted it."""

    id: str
    question: str
    type: str
    part: str


def read_human(folder: Path) -> tuple[list[HumanRow], Counter[str]]:
    """Return questions of train.csv and test.csv, and how many that people have looked at in the latter are neither.

    A question that the test has too is not in train.
    """
    left_out: Counter[str] = Counter()
    tested: dict[str, HumanRow] = {}
    for by, category, question in sorted(_read(folder / "test.csv")):  # authors, mturk, unsupervised: people first
        part = "site" if by == "unsupervised" else "people"
        if category in CATEGORIES:
            row = _row(category, question, part)
            tested.setdefault(row.id, row)
        elif part == "people":
            left_out[category] += 1
    train = {
        row.id: row
        for _, category, question in _read(folder / "train.csv")
        if category in CATEGORIES and (row := _row(category, question, "train")).id not in tested
    }
    people = [row for row in tested.values() if row.part == "people"]
    site = [row for row in tested.values() if row.part == "site"]
    return [*_draw(list(train.values()), _TRAIN_QUESTIONS), *people, *_draw(site, _SITE_QUESTIONS)], left_out


def _row(category: str, question: str, part: str) -> HumanRow:
    plain = " ".join(question.casefold().rstrip("?. ").split())
    return HumanRow(content_id(plain), question, CATEGORIES[category], part)


def _draw(rows: list[HumanRow], limit: int) -> list[HumanRow]:
    return sorted(rows, key=lambda row: content_id("draw", row.id))[:limit]


def _read(path: Path) -> list[tuple[str, str, str]]:
    columns = ("annotated_by", "category", "question")
    if not path.exists():
        raise InputError(f"{path}: no such file, expected a table with the columns {', '.join(columns)}")
    with path.open(encoding="utf-8", newline="") as stream:
        table = csv.DictReader(stream)
        if missing := set(columns) - set(table.fieldnames or []):
            raise InputError(f"{path}: no column {sorted(missing)[0]!r}, expected {', '.join(columns)}")
        rows = [(row["annotated_by"], row["category"], row["question"].strip()) for row in table]
    for number, (by, _, _) in enumerate(rows, 2):
        if by not in _BY:
            raise InputError(f"{path} row {number}: annotated_by: {by!r}, expected one of {', '.join(_BY)}")
    return rows
