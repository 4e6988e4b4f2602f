"""Learn the types from annotated pairs, and hold the classifier against baselines on questions it has not seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuneproof.corpus.index import Encoder
from tuneproof.errors import InputError
from tuneproof.pairs.split import split_pages
from tuneproof.records import Annotation, Pair
from tuneproof.study import Splits, Types
from tuneproof.types import baselines, classifier
from tuneproof.types.annotate import TYPES
from tuneproof.types.evaluate import errors, evaluate
from tuneproof.types.human import HumanRow, read_human


def learn(
    pairs: list[Pair],
    groups: dict[str, str],
    annotated: list[Annotation],
    spec: Types,
    encoder: Path,
    human_annotated: list[Annotation],
) -> tuple[classifier.Classifier, list[dict[str, Any]]]:
    """Return the classifier, and its evaluation on each set of rows.

    `groups` maps chunk ids to groups, `encoder` is the lock of a BERT. The classifier is trained on the annotated
    pairs of seven pages in ten and tested on the others'. Raises InputError where the former are all of one type, or
    where people have sorted no question to train on or none to test on.
    """
    human = _read_human(spec.human, {a.id for a in human_annotated}) if spec.human else None
    by_id = {pair.id: pair for pair in pairs}
    rows = [by_id[a.id] for a in annotated]
    labels = {a.id: a.type for a in annotated}
    split = split_pages({p.page_id: groups[p.chunk_id] for p in rows}, Splits())
    train = [p for p in rows if split[p.page_id] == "train"]
    test = [p for p in rows if split[p.page_id] != "train"]
    given = [labels[p.id] for p in train]
    count = Counter(given)
    if len(count) < len(TYPES) or not test:
        raise InputError(
            f"train types: {len(train)} annotated pairs to train on, {count['conceptual']} of them conceptual and "
            f"{count['factual']} factual, {len(test)} to test on; expected some of each (datasets: types: annotated)"
        )
    study = _Taught(spec, encoder, [p.question for p in train], given)
    sets = [
        _set(
            "The study's pairs",
            f"Trained on {len(train)} pairs that the LLM has annotated ({_counts(given)}), tested against its "
            f"annotation of {len(test)} pairs of other pages ({_counts(labels[p.id] for p in test)}).",
            [p.question for p in test],
            [labels[p.id] for p in test],
            [p.page_id for p in test],
            study.labellings([p.question for p in test]),
        )
    ]
    if human:
        sets += _human_sets(*human, {a.id: a for a in human_annotated}, spec, encoder, study)
    return study.classifier, sets


class _Taught:
    """A classifier and the baselines that are trained on the same questions."""

    def __init__(self, spec: Types, encoder: Path, questions: Sequence[str], types: Sequence[str]) -> None:
        self.classifier = classifier.train(encoder.parent, questions, types, spec)
        self._types = types
        self._spec = spec
        self._encoder = Encoder(encoder)
        self._embedded = self._encoder.embed(list(questions), "embed questions")

    def labellings(self, questions: Sequence[str], name: str = "") -> dict[str, Any]:
        """Each method's probabilities that the questions are factual."""
        embedded = self._encoder.embed(list(questions), "embed questions")
        line = baselines.embedding_line(self._embedded, self._types, embedded, self._spec.seed)
        return {
            f"classifier{name}": self.classifier.probabilities(questions),
            f"commoner type{name}": baselines.majority(self._types, len(questions)),
            "question words": baselines.question_words(questions),
            f"logistic regression on embeddings{name}": line,
        }


def _read_human(folder: Path, annotated: set[str]) -> tuple[str, list[HumanRow], Counter[str]]:
    """The folder's name, its questions that the LLM has annotated, and how many are neither."""
    rows, left_out = read_human(folder)
    rows = [row for row in rows if row.id in annotated]
    for part, where in (("train", "train.csv"), ("people", "test.csv, by authors or mturk")):
        if not any(row.part == part for row in rows):
            raise InputError(
                f"{folder}: none of {len(rows)} annotated questions is of {where}, expected some "
                "(datasets: types: human_labels)"
            )
    return folder.name, rows, left_out


def _human_sets(
    name: str,
    rows: list[HumanRow],
    left_out: Counter[str],
    annotated: dict[str, Annotation],
    spec: Types,
    encoder: Path,
    study: _Taught,
) -> list[dict[str, Any]]:
    train = [row for row in rows if row.part == "train"]
    public = _Taught(spec, encoder, [r.question for r in train], [annotated[r.id].type for r in train])
    people = [row for row in rows if row.part == "people"]
    none = ", ".join(f"{category} {n}" for category, n in sorted(left_out.items()))
    sets = []
    for title, test, more in (
        ("Questions that people have sorted", people, ""),
        (
            "The same, and factual ones by the site they come from",
            [r for r in rows if r.part != "train"],
            f" People have sorted {sum(r.type == 'factual' for r in people)} factual questions only, so here are "
            f"{len(rows) - len(train) - len(people)} more that nobody but their site calls so.",
        ),
    ):
        questions = [row.question for row in test]
        labellings = study.labellings(questions) | public.labellings(questions, ", trained on public questions")
        labellings["the LLM that annotates"] = [annotated[r.id].distribution["factual"] for r in test]
        sets.append(
            _set(
                title,
                f"{len(test)} questions of {name} ({_counts(r.type for r in test)}); left out, as neither: "
                f"{none}.{more} `Trained on public questions`: on the LLM's annotation of {len(train)} questions of "
                f"its train.csv ({_counts(annotated[r.id].type for r in train)}), none of them in this test.",
                questions,
                [row.type for row in test],
                [row.id for row in test],
                labellings,
            )
        )
    return sets


def _set(
    title: str,
    text: str,
    questions: Sequence[str],
    truth: Sequence[str],
    clusters: Sequence[str],
    labellings: dict[str, Any],
) -> dict[str, Any]:
    best = labellings["classifier"]
    return {
        "title": title,
        "text": text,
        "methods": {
            name: evaluate(truth, factual, clusters, None if name == "classifier" else best)
            for name, factual in labellings.items()
        },
        "errors": errors(questions, truth, best),
    }


def _counts(types: Any) -> str:
    count = Counter(types)
    return ", ".join(f"{count[t]} {t}" for t in TYPES)
