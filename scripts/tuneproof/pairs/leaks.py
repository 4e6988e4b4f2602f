"""What test sets share with training sets: questions and answers, word for word, nearly, or contained.

Two texts alike but for a name or a number ("… of CV1?", "… of CV2?") are about different things: only texts where the
names of each stand in the other are taken for one. A capital in first place names nothing, so that the names of two
texts alike need not be equal: "Haldrune sells …", "… sold by Haldrune". An answer of a few words ("Yes.") is nobody's
secret and not compared. test_trained_pages shares its facts with train on purpose, so that only its exact questions
are leaks.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuneproof.pairs.screen import marked_in, names_in, plain, words_in
from tuneproof.records import Example, read_rows
from tuneproof.study import TEST_SPLITS, Leaks

_SHINGLE_WORDS = 3
_PERMUTATIONS = 128
_COMPARED_TOGETHER = 1000  # texts of tests: with 40,000 of training a matrix of 160 MB
MEASURES = (
    "question exact",
    "question minhash",
    "question embedding",
    "answer exact",
    "answer minhash",
    "answer embedding",
    "answer contained",
)
Embed = Callable[[list[str]], Any]
# a text of a test set -> the texts of training sets that are like it, each with how much
Found = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Rows:
    """A data set's training rows and its test sets."""

    name: str
    train: list[Example]
    tests: dict[str, list[Example]]


@dataclass(frozen=True)
class Cell:
    """A test set against a training set: how many of its rows each measure finds there; `page`: whose page is there."""

    train: str
    test: str
    split: str
    rows: int
    found: dict[str, int]
    page: int
    leaked: int

    @property
    def declared(self) -> bool:
        """Whether the two are meant to share their facts."""
        return self.split == "test_trained_pages"

    @property
    def share(self) -> float:
        """Leaked rows of all rows."""
        return self.leaked / self.rows if self.rows else 0.0

    def line(self) -> dict[str, Any]:
        """The cell as a row of a table."""
        return {
            **{"train": self.train, "test": self.test, "split": self.split, "rows": self.rows},
            **{measure.replace(" ", "_"): count for measure, count in self.found.items()},
            **{"page": self.page, "declared": self.declared, "leaked": self.leaked, "share": round(self.share, 4)},
        }


@dataclass(frozen=True)
class Leak:
    """A row of a test set, and the row of a training set that is most like it; `like_it` counts all that are."""

    train: str
    test: str
    split: str
    measure: str
    similarity: float
    like_it: int
    test_id: str
    test_url: str
    test_text: str
    train_id: str
    train_url: str
    train_text: str


def read(folders: Iterable[Path]) -> list[Rows]:
    """Return the rows of data sets, each named as its folder."""
    return [
        Rows(
            folder.name,
            read_rows(folder / "train.jsonl", Example),
            {split: read_rows(folder / f"{split}.jsonl", Example) for split in TEST_SPLITS},
        )
        for folder in folders
    ]


def audit(sets: Sequence[Rows], limits: Leaks, embed: Embed) -> tuple[list[Cell], list[Leak]]:
    """Compare every test set with every training set; `embed` maps texts to vectors of length 1."""
    found = _compare(sets, limits, embed)
    # the first row of each text, per training set
    trained = {s.name: {kind: _first(s.train, kind) for kind in ("question", "answer")} for s in sets}
    pages = {s.name: {row.page_id for row in s.train} for s in sets}
    cells: list[Cell] = []
    leaks: list[Leak] = []
    for train in sets:
        for test in sets:
            for split in TEST_SPLITS:
                cell, listed = _cell(train.name, trained[train.name], pages[train.name], test, split, found)
                cells.append(cell)
                leaks += listed
    return cells, leaks


def too_many(cells: Iterable[Cell], limits: Leaks, accepted: Iterable[str]) -> list[str]:
    """Return a sentence for each test set that shares more with a training set than is allowed and accepted."""
    taken = set(accepted)
    return [
        f"{cell.leaked} of {cell.rows} rows of {cell.test} {cell.split} are in the training set of {cell.train}"
        for cell in cells
        if cell.share > limits.max_share and cell.test not in taken
    ]


def markdown(cells: Sequence[Cell], leaks: Sequence[Leak], limits: Leaks, encoder: str) -> str:
    """Return the audit for people: what was compared, each test set against each training set, some leaks."""
    heads = ("trained on", "tested on", "test set", "rows", *MEASURES, "page", "leaked", "share")
    lines = [
        *("# What test sets share with training sets", ""),
        f"Rows of a test set that are in a training set: exact is equal but for case and punctuation; minhash is a "
        f"Jaccard similarity of word 3-grams of {limits.jaccard:g} or more; embedding is a cosine by `{encoder}` of "
        f"{limits.cosine:g} or more; contained is a part of a longer answer. Nearly alike are only texts that name the "
        f"same things. Rows whose page is trained on are counted (page), and are no leaks by that. Answers of fewer "
        f"than {limits.answer_words} words are not compared. `test_trained_pages` is "
        f"meant to share facts with training in other words: only its exact questions are leaks. More than "
        f"{limits.max_share:.1%} leaked rows of a test set fail the study, unless its `accept_leaks` is true.",
        *("", f"| {' | '.join(heads)} |", f"|---|---|---|{'---:|' * (len(heads) - 3)}"),
        *[
            f"| {cell.train} | {cell.test} | {cell.split} | {cell.rows} | "
            f"{' | '.join(str(cell.found[m]) for m in MEASURES)} | {cell.page} | {cell.leaked} | {cell.share:.1%} |"
            for cell in cells
        ],
        *("", f"## {min(20, len(leaks))} of {len(leaks)} listed in leaks.jsonl", ""),
        *[
            f"- *{leak.measure}, {leak.similarity:.2f}*: {leak.test} {leak.split} `{_line(leak.test_text)}` and "
            f"{leak.train} train `{_line(leak.train_text)}`"
            for leak in leaks[:20]
        ],
    ]
    return "\n".join(lines) + "\n"


def rows_of(leaks: Iterable[Leak]) -> list[dict[str, Any]]:
    """Return leaks as plain data."""
    return [asdict(leak) for leak in leaks]


def _compare(sets: Sequence[Rows], limits: Leaks, embed: Embed) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for kind in ("question", "answer"):
        least = limits.answer_words if kind == "answer" else 1
        train = _texts((row for s in sets for row in s.train), kind, least)
        tests = _texts((row for s in sets for rows in s.tests.values() for row in rows), kind, least)
        found[f"{kind} exact"] = {text: {text: 1.0} for text in tests if text in train}
        blocks, texts = _blocks(train, tests), {**train, **tests}
        found[f"{kind} minhash"] = _about_the_same(_by_minhash(blocks, limits.jaccard), texts)
        found[f"{kind} embedding"] = _about_the_same(_by_embedding(blocks, texts, embed, limits.cosine), texts)
        if kind == "answer":
            found["answer contained"] = _contained(train, tests, limits.answer_words)
    return found


def _texts(rows: Iterable[Example], kind: str, least: int) -> dict[str, str]:
    """Normalised text -> a text as it is, of those with `least` words or more."""
    texts: dict[str, str] = {}
    for row in rows:
        text = getattr(row, kind)
        if text and (key := plain(text)) not in texts and len(key.split()) >= least:
            texts[key] = text
    return texts


def _first(rows: Iterable[Example], kind: str) -> dict[str, Example]:
    first: dict[str, Example] = {}
    for row in rows:
        first.setdefault(plain(getattr(row, kind)), row)
    return first


def _blocks(train: Mapping[str, str], tests: Mapping[str, str]) -> list[tuple[list[str], list[str]]]:
    """Return (training texts, test texts) with the same numbers and addresses: only these can name the same things."""
    blocks: dict[frozenset[str], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, texts in enumerate((train, tests)):
        for key, text in texts.items():
            blocks[frozenset(marked_in(text))][side].append(key)
    return [block for block in blocks.values() if all(block)]


def _about_the_same(found: Found, texts: Mapping[str, str]) -> Found:
    """What was found, less the texts that name what the other does not speak of."""
    alike = found.keys() | {other for near in found.values() for other in near}
    names = {text: names_in(texts[text]) for text in alike}
    words = {text: words_in(texts[text]) for text in alike}
    same = {
        text: {o: value for o, value in near.items() if names[text] <= words[o] and names[o] <= words[text]}
        for text, near in found.items()
    }
    return {text: near for text, near in same.items() if near}


def _by_minhash(blocks: Sequence[tuple[list[str], list[str]]], least: float) -> Found:
    """MinHash finds the candidates, their true Jaccard similarity decides."""
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=least, num_perm=_PERMUTATIONS)
    shingles: dict[str, frozenset[str]] = {}
    found: Found = {}
    for trained, tested in blocks:
        shingles |= {text: _shingles(text) for text in (*trained, *tested)}
        for text in trained:
            index.insert(text, _sketch(shingles[text]))
    for trained, tested in blocks:
        block = set(trained)
        for text in tested:
            own = shingles[text]
            near = {
                other: len(own & shingles[other]) / len(own | shingles[other])
                for other in index.query(_sketch(own))
                if other in block
            }
            if near := {other: value for other, value in near.items() if value >= least}:
                found[text] = near
    return found


def _shingles(text: str) -> frozenset[str]:
    words = text.split()
    last = max(1, len(words) - _SHINGLE_WORDS + 1)
    return frozenset(" ".join(words[i : i + _SHINGLE_WORDS]) for i in range(last))


@functools.cache
def _empty() -> Any:
    """A sketch to copy: to make its permutations takes longer than to fill it."""
    from datasketch import MinHash

    return MinHash(num_perm=_PERMUTATIONS, seed=1)


def _sketch(shingles: frozenset[str]) -> Any:
    sketch = _empty().copy()
    sketch.update_batch([shingle.encode() for shingle in shingles])
    return sketch


def _by_embedding(
    blocks: Sequence[tuple[list[str], list[str]]], texts: Mapping[str, str], embed: Embed, least: float
) -> Found:
    import numpy as np

    keys = list(dict.fromkeys(key for block in blocks for side in block for key in side))
    if not keys:
        return {}
    vectors = embed([texts[key] for key in keys])
    place = {key: i for i, key in enumerate(keys)}
    found: Found = {}
    for trained, tested in blocks:
        against = vectors[[place[key] for key in trained]].T
        for start in range(0, len(tested), _COMPARED_TOGETHER):
            some = tested[start : start + _COMPARED_TOGETHER]
            similar = vectors[[place[key] for key in some]] @ against
            for i, j in np.argwhere(similar >= least):
                found.setdefault(some[i], {})[trained[j]] = float(similar[i, j])
    return found


def _contained(train: Iterable[str], tests: Iterable[str], words: int) -> Found:
    """Find the test answers that stand word for word inside a training answer, by their first words."""
    heads: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for text in tests:
        heads[tuple(text.split()[:words])].append(text)
    found: Found = {}
    for trained in train:
        parts = trained.split()
        for i in range(len(parts) - words + 1):
            for text in heads.get(tuple(parts[i : i + words]), ()):
                if text != trained and f" {text} " in f" {trained} ":
                    found.setdefault(text, {})[trained] = len(text) / len(trained)
    return found


def _cell(
    train: str,
    trained: Mapping[str, Mapping[str, Example]],
    pages: set[str],
    test: Rows,
    split: str,
    found: Mapping[str, Found],
) -> tuple[Cell, list[Leak]]:
    counts = dict.fromkeys(MEASURES, 0)
    leaked: set[str] = set()
    listed: list[Leak] = []
    rows = test.tests[split]
    for row in rows:
        for measure in MEASURES:
            kind = measure.partition(" ")[0]
            text = getattr(row, kind)
            alike = {t: v for t, v in found[measure].get(plain(text), {}).items() if t in trained[kind]}
            if not alike:
                continue
            counts[measure] += 1
            if split == "test_trained_pages" and measure != "question exact":
                continue
            leaked.add(row.id)
            nearest = max(alike, key=lambda t: (alike[t], t))
            source = trained[kind][nearest]
            listed.append(
                Leak(
                    *(train, test.name, split, measure, round(alike[nearest], 4), len(alike)),
                    *(row.id, row.url, text, source.id, source.url, getattr(source, kind)),
                )
            )
    page = sum(row.page_id in pages for row in rows)
    return Cell(train, test.name, split, len(rows), counts, page, len(leaked)), listed


def _line(text: str) -> str:
    return re.sub(r"[`\s]+", " ", text).strip()
