"""Review by people: pairs to look at, their decisions as files, what follows from them, and whether two agree.

A reviewer's decisions are one file, reviews/DATASET/REVIEWER.jsonl or .csv, under version control: accept, reject or
mend for each pair, and for mend a new question or answer. Where two reviewers differ, the stricter decision counts:
reject before mend before accept; of two that mend differently, the first by name.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError
from tuneproof.pairs.screen import plain
from tuneproof.records import Chunk, Pair, content_id, iter_json_lines

STRICTEST_FIRST = ("reject", "mend", "accept")
COLUMNS = ("pair_id", "decision", "question", "answer", "note", "quote", "url")
REJECTED = "rejected by review"
_ID = "pair-"  # before an id in a table: a spreadsheet takes 0123 and 12e3 for numbers
_FORMULA = ("=", "+", "-", "@")


@dataclass(frozen=True)
class Decision:
    """What one reviewer says of one pair; question and answer are empty where they stay. `place` is file and line."""

    pair_id: str
    decision: str
    reviewer: str
    question: str
    answer: str
    note: str
    place: str


@dataclass(frozen=True)
class Agreement:
    """How far two reviewers agree on the pairs that both decided; kappa is None where it is not defined."""

    first: str
    second: str
    pairs: int
    agreed: float
    kappa: float | None
    low: float | None
    high: float | None


def read_decisions(path: Path) -> list[Decision]:
    """Read a reviewer's file; a pair without a decision is left out, a wrong row raises InputError."""
    decisions: dict[str, Decision] = {}
    for number, row in iter_json_lines(path) if path.suffix == ".jsonl" else _csv_rows(path):
        place = f"{path} line {number}"
        values = {key: str(row.get(key) or "").strip() for key in ("pair_id", "decision", "question", "answer", "note")}
        if not values["decision"]:
            continue
        values["pair_id"] = values["pair_id"].removeprefix(_ID)
        if values["decision"] not in STRICTEST_FIRST:
            raise InputError(f"{place}: decision {values['decision']!r}, expected accept, reject or mend")
        if (name := row.get("reviewer") or path.stem) != path.stem:
            raise InputError(f"{place}: reviewer {name!r}, expected {path.stem!r} as the file is named")
        if values["pair_id"] in decisions:
            raise InputError(f"{place}: pair_id {values['pair_id']!r} is decided twice, expected once")
        decisions[values["pair_id"]] = Decision(**values, reviewer=path.stem, place=place)
    return list(decisions.values())


def settle(decisions: Iterable[Decision]) -> dict[str, list[Decision]]:
    """Return the decisions of each pair, the one that counts first."""
    by_pair: dict[str, list[Decision]] = defaultdict(list)
    for decision in decisions:
        by_pair[decision.pair_id].append(decision)
    return {i: sorted(d, key=lambda x: (STRICTEST_FIRST.index(x.decision), x.reviewer)) for i, d in by_pair.items()}


def follow(
    screened: Sequence[Pair], known: Mapping[str, Pair], decisions: Sequence[Decision]
) -> tuple[list[Pair], list[tuple[Pair, str]], list[dict[str, Any]]]:
    """Return the pairs that are left, those dropped with their reason, and a row for each decision that counted.

    `known` are all pairs that were written: a decision about one that screening has dropped changes nothing. A mended
    pair gets a new id and keeps its chunk, quote and call.
    """
    for decision in decisions:
        _check(decision, known)
    settled = settle(decisions)
    kept: list[Pair] = []
    dropped: list[tuple[Pair, str]] = []
    record: list[dict[str, Any]] = []
    rejected = {pair_id for pair_id, said in settled.items() if said[0].decision == "reject"}
    asked = {plain(pair.question) for pair in screened if pair.id not in rejected}
    for pair in screened:
        if pair.id not in settled:
            kept.append(pair)
            continue
        said = settled[pair.id]
        new = _mended(pair, said[0]) if said[0].decision == "mend" else pair
        again = plain(new.question) != plain(pair.question) and plain(new.question) in asked
        if said[0].decision == "reject":
            dropped.append((pair, REJECTED))
        elif again:
            dropped.append((pair, "duplicate question"))
        else:
            asked.add(plain(new.question))
            kept.append(new)
        record.append(
            {
                **{"pair_id": pair.id, "decision": said[0].decision, "new_id": new.id},
                "said": {d.reviewer: d.decision for d in said},
                **{"question": pair.question, "answer": pair.answer},
                **{"new_question": new.question, "new_answer": new.answer},
                "notes": {d.reviewer: d.note for d in said if d.note},
            }
        )
    return kept, dropped, record


def agreements(decisions: Iterable[Decision]) -> list[Agreement]:
    """Return the agreement of every two reviewers who decided the same pairs."""
    said: dict[str, dict[str, str]] = defaultdict(dict)
    for d in decisions:
        said[d.reviewer][d.pair_id] = d.decision
    found = []
    for first, second in itertools.combinations(sorted(said), 2):
        both = [(said[first][i], said[second][i]) for i in said[first] if i in said[second]]
        if both:
            agreed = sum(a == b for a, b in both) / len(both)
            found.append(Agreement(first, second, len(both), agreed, *cohens_kappa(both)))
    return found


def cohens_kappa(both: Sequence[tuple[str, str]]) -> tuple[float | None, float | None, float | None]:
    """Return Cohen's kappa with its 95 % interval; None where chance alone would agree on everything.

    Cohen 1960; standard error of Fleiss, Cohen and Everitt 1969, Psychological Bulletin 72, eq. 13.
    """
    n = len(both)
    cells = {cell: count / n for cell, count in Counter(both).items()}
    rows: Counter[str] = Counter()
    columns: Counter[str] = Counter()
    for (a, b), share in cells.items():
        rows[a] += share  # type: ignore[assignment]
        columns[b] += share  # type: ignore[assignment]
    kinds = rows.keys() | columns.keys()
    observed = sum(cells.get((k, k), 0.0) for k in kinds)
    chance = sum(rows[k] * columns[k] for k in kinds)
    if chance == 1:
        return None, None, None
    kappa = (observed - chance) / (1 - chance)
    agreeing = sum(cells.get((k, k), 0.0) * (1 - (rows[k] + columns[k]) * (1 - kappa)) ** 2 for k in kinds)
    differing = (1 - kappa) ** 2 * sum(p * (columns[a] + rows[b]) ** 2 for (a, b), p in cells.items() if a != b)
    variance = (agreeing + differing - (kappa - chance * (1 - kappa)) ** 2) / (n * (1 - chance) ** 2)
    half = 1.959964 * max(0.0, variance) ** 0.5
    return kappa, max(-1.0, kappa - half), min(1.0, kappa + half)


def summary(decisions: Sequence[Decision]) -> list[str]:
    """Return what there is to say of the reviews, in sentences: who decided what, who agrees, where they differ."""
    lines = []
    for reviewer in sorted({d.reviewer for d in decisions}):
        counts = Counter(d.decision for d in decisions if d.reviewer == reviewer)
        lines.append(f"{reviewer}: " + ", ".join(f"{counts[kind]} {kind}" for kind in reversed(STRICTEST_FIRST)))
    for a in agreements(decisions):
        interval = f"{a.kappa:.2f} ({a.low:.2f} to {a.high:.2f})" if a.kappa is not None else "not defined"
        lines.append(
            f"{a.first} and {a.second}: {a.pairs} pairs by both, agreement {a.agreed:.0%}, Cohen's kappa {interval}"
        )
    for pair_id, said in settle(decisions).items():
        if len({(d.decision, d.question, d.answer) for d in said}) > 1:
            words = ", ".join(f"{d.reviewer} {d.decision}" for d in said)
            lines.append(f"{pair_id}: {words}; {said[0].decision} by {said[0].reviewer} counts, the stricter")
    return lines or ["no decisions yet"]


def table(pairs: Sequence[Pair], chunks: Mapping[str, Chunk]) -> str:
    """Return the pairs as CSV, with a column for the decision, that a spreadsheet can fill."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for p in pairs:
        cells = (_ID + p.id, "", p.question, p.answer, "", p.quote, chunks[p.chunk_id].url)
        writer.writerow(_guarded(cell) for cell in cells)
    return stream.getvalue()


def page(
    template: str, dataset: str, pairs: Sequence[Pair], chunks: Mapping[str, Chunk], decisions: Iterable[Decision] = ()
) -> str:
    """Return the review as one HTML page. What pages say is data in it: nothing of it is parsed as HTML.

    A reviewer finds in it what the own file says, so that a review goes on in any browser.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    rows = [
        {
            **{"id": p.id, "question": p.question, "answer": p.answer, "quote": p.quote},
            **{"url": chunks[p.chunk_id].url, "group": chunks[p.chunk_id].group},
            **{"headings": chunks[p.chunk_id].headings, "text": chunks[p.chunk_id].text},
        }
        for p in pairs
    ]
    given: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    for d in decisions:
        said = {"decision": d.decision, "question": d.question, "answer": d.answer, "note": d.note}
        given[d.reviewer][d.pair_id] = said
    data = json.dumps({"dataset": dataset, "pairs": rows, "given": given}, ensure_ascii=False).replace("<", "\\u003c")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(template).render(dataset=dataset, data=Markup(data))


def _check(decision: Decision, known: Mapping[str, Pair]) -> None:
    if decision.pair_id not in known:
        raise InputError(
            f"{decision.place}: pair_id {decision.pair_id!r} is none of the {len(known)} pairs that were written"
        )
    pair = known[decision.pair_id]
    changed = _mended(pair, decision) != pair
    if decision.decision == "mend" and not changed:
        raise InputError(f"{decision.place}: mend without a change, expected another question or answer")
    if decision.decision == "accept" and changed:
        raise InputError(f"{decision.place}: accept with another question or answer, expected mend")


def _mended(pair: Pair, decision: Decision) -> Pair:
    question, answer = decision.question or pair.question, decision.answer or pair.answer
    if (question, answer) == (pair.question.strip(), pair.answer.strip()):
        return pair
    return replace(pair, id=content_id(pair.chunk_id, question, answer), question=question, answer=answer)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            if missing := {"pair_id", "decision"} - set(reader.fieldnames or ()):
                raise InputError(f"{path}: no column {sorted(missing)[0]!r}, expected {', '.join(COLUMNS)}")
            for row in reader:
                yield reader.line_num, {key: _unguarded(value or "") for key, value in row.items() if key}
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8, expected UTF-8 text") from None


def _guarded(cell: str) -> str:
    """A spreadsheet would compute a cell that begins like a formula, and cells are other people's text."""
    return f"'{cell}" if cell.startswith(("'", *_FORMULA)) else cell


def _unguarded(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and cell[1:2] in ("'", *_FORMULA) else cell
