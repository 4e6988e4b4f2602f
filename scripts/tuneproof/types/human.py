"""Questions that people have sorted: NF-CATS (Bolotova et al. 2022), github.com/Lurunchik/NF-CATS, MIT.

Its folder has train.csv, valid.csv and test.csv with the columns annotated_by, category and question. A FACTOID is
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
FILES = ("train.csv", "valid.csv", "test.csv")
# Hardly any of the questions that people have looked at is factual (14 in the test's 682), so as many of the site's.
_SITE_QUESTIONS = 300
_TRAIN_QUESTIONS = 400


@dataclass(frozen=True)
class HumanRow:
    """A question with its type; `part` is train (its type is not used), people or site: who has sorted it."""

    id: str
    question: str
    type: str
    part: str


def read_human(folder: Path) -> tuple[list[HumanRow], Counter[str]]:
    """Return questions of train.csv, and of valid.csv and test.csv as the test; and how many are left out, and why.

    A question that the test has too is not in train.
    """
    left_out: Counter[str] = Counter()
    people: dict[str, HumanRow] = {}
    site: dict[str, HumanRow] = {}
    train: dict[str, HumanRow] = {}
    for name in reversed(FILES):
        for number, (by, category, question) in enumerate(_read(folder / name), 2):
            key = " ".join(question.casefold().rstrip("?. ").split())
            if by not in ("authors", "mturk", "unsupervised"):
                raise InputError(f"{folder / name} row {number}: annotated_by: {by!r}, expected authors, mturk, …")
            if category not in CATEGORIES:
                if name != "train.csv" and by != "unsupervised":
                    left_out[category] += 1
                continue
            row_id, kind = content_id(key), CATEGORIES[category]
            if name == "train.csv":
                if key not in people and key not in site:
                    train.setdefault(key, HumanRow(row_id, question, kind, "train"))
            elif by == "unsupervised":
                site.setdefault(key, HumanRow(row_id, question, kind, "site"))
            else:
                people.setdefault(key, HumanRow(row_id, question, kind, "people"))
    others = [row for key, row in site.items() if key not in people]
    return [
        *_draw(list(train.values()), _TRAIN_QUESTIONS),
        *people.values(),
        *_draw(others, _SITE_QUESTIONS),
    ], left_out


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
        return [(row["annotated_by"], row["category"], row["question"].strip()) for row in table]
