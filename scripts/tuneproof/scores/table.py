"""Join answers with their scores, and make the table: split x arm x metric, with intervals and paired differences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tuneproof.records import Answer, Chunk, Example, Measure, Score
from tuneproof.scores.statistics import Estimate, estimate

Row = dict[str, Any]


def join(
    examples: list[Example],
    dataset: str,
    arm: str,
    answers: list[Answer],
    measures: list[Measure],
    scores: list[Score],
    chunks: dict[str, Chunk],
) -> list[Row]:
    """Return one row per answer of an arm: question, reference, answer, and everything that was measured of it."""
    by_answer = {m.answer_id: m for m in measures}
    by_example = {a.example_id: a for a in answers}
    judged: dict[str, list[Score]] = {}
    for score in scores:
        judged.setdefault(score.answer_id, []).append(score)
    rows = []
    for example in examples:
        answer = by_example[example.id]
        measured = by_answer[answer.id]
        context = [chunks[c] for c in answer.context_ids]
        rows.append(
            {
                "dataset": dataset,
                "split": example.split,
                "example_id": example.id,
                "page_id": example.page_id,
                "question": example.question,
                "reference": example.answer,
                "url": example.url,
                "group": example.group,
                "arm": arm,
                "run": answer.run,
                "mode": answer.mode,
                "answer_id": answer.id,
                "answer": answer.text,
                "stopped": answer.stopped,
                "rouge_l": measured.rouge_l,
                "facts": measured.facts,
                "facts_recalled": measured.facts_recalled,
                "trained_facts": measured.trained_facts,
                "trained_facts_recalled": measured.trained_facts_recalled,
                "scores": {s.judge: s.score for s in judged.get(answer.id, [])},
                "distributions": {s.judge: s.distribution for s in judged.get(answer.id, [])},
                "context_urls": [c.url for c in context],
                "context_hit": example.chunk_id in answer.context_ids if context else None,
            }
        )
    return rows


def summarise(rows: list[Row], resamples: int) -> list[Row]:
    """Return the table's rows: for each data set, split, arm and metric n, mean, sd, interval, and the paired
    difference to the same model's base, closed book, over the questions that both arms have a value for."""
    groups: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["split"]), {}).setdefault(row["arm"], []).append(row)
    table = []
    for (dataset, split), arms in groups.items():
        for arm, members in arms.items():
            base = next((a for a in arms.values() if _is_base_of(a[0], members[0]) and a is not members), None)
            for metric in _metrics(members):
                table.append(_line(dataset, split, arm, metric, members, base, resamples))
    return table


def _line(
    dataset: str, split: str, arm: str, metric: str, members: list[Row], base: list[Row] | None, resamples: int
) -> Row:
    values = _values(members, metric)
    pages = {row["example_id"]: row["page_id"] for row in members}
    own = estimate(list(values.values()), [pages[e] for e in values], resamples)
    asked = sum(_applies(row, metric) for row in members)
    line = {
        "dataset": dataset,
        "split": split,
        "arm": arm,
        "run": members[0]["run"],
        "mode": members[0]["mode"],
        "metric": metric,
        "n": own.n,
        "missing": asked - own.n,
        "mean": own.mean,
        "sd": own.sd,
        "ci_low": own.low,
        "ci_high": own.high,
    }
    difference = Estimate(0, None, None, None, None)
    if base:
        theirs = _values(base, metric)
        both = [e for e in values if e in theirs]
        difference = estimate([values[e] - theirs[e] for e in both], [pages[e] for e in both], resamples)
    return {
        **line,
        "base_run": base[0]["run"] if base else None,
        "base_mode": base[0]["mode"] if base else None,
        "diff_n": difference.n if difference.n else None,
        "diff": difference.mean,
        "diff_low": difference.low,
        "diff_high": difference.high,
    }


def _values(rows: list[Row], metric: str) -> dict[str, float]:
    return {row["example_id"]: value for row in rows if (value := value_of(row, metric)) is not None}


def value_of(row: Row, metric: str) -> float | None:
    """Return an answer's value of a metric; None where it has none (no fact is asked for, the judge gave no score)."""
    if metric.startswith("judge:"):
        score = row["scores"].get(metric.removeprefix("judge:"))
        return None if score is None else float(score)
    if metric == "fact_recall":
        return row["facts_recalled"] / row["facts"] if row["facts"] else None
    if metric == "trained_fact_recall":
        return row["trained_facts_recalled"] / row["trained_facts"] if row["trained_facts"] else None
    return float(row[metric])


def _applies(row: Row, metric: str) -> bool:
    if metric == "fact_recall":
        return bool(row["facts"])
    if metric == "trained_fact_recall":
        return bool(row["trained_facts"])
    return True


def _metrics(rows: Iterable[Row]) -> list[str]:
    rows = list(rows)
    judges = sorted({judge for row in rows for judge in row["scores"]})
    metrics = [f"judge:{judge}" for judge in judges] + ["rouge_l"]
    if any(row["facts"] for row in rows):
        metrics.append("fact_recall")
    if any(row["trained_facts"] for row in rows):
        metrics.append("trained_fact_recall")
    return metrics


def _is_base_of(candidate: Row, row: Row) -> bool:
    """The base of an arm is its model untuned, closed book."""
    return bool(candidate["run"] == f"{row['run'].split('/')[0]}/base" and candidate["mode"] == "closed")
