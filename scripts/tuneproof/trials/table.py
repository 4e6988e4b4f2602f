"""The verdict on judges: each beside the metrics, on the same answers, and marked where it beats none of them.

Thresholds, the best metric and the best judge are chosen on one half of the questions and reported on the other, so
that nothing printed was chosen by what it is printed of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tuneproof.errors import InputError
from tuneproof.records import Score, read_rows
from tuneproof.study import TrialSpec
from tuneproof.trials import evouna
from tuneproof.trials.evouna import JudgedAnswer
from tuneproof.trials.statistics import (
    Auc,
    Bin,
    Brier,
    CalibrationError,
    Interval,
    Kappa,
    best_threshold,
    draws,
    interval,
    reliability,
)


@dataclass(frozen=True)
class Tried:
    """One row of the table: a judge or a metric.

    `n` answers of the reporting half have a score, `missing` none; all figures are over those, but `worst` and `best`,
    the AUC were each missing score the wrongest or the rightest possible. `difference` is the AUC less that of the best
    metric, over the same answers, `worst_difference` that of `worst`, over all answers; only judges have them. Where
    hardly an answer has a score, there are no figures.
    """

    name: str
    kind: str
    n: int
    missing: int
    auc_chosen_by: float | None
    auc: Interval
    worst: float | None
    best: float | None
    threshold: float | None
    kappa: Interval
    brier: Interval
    calibration_error: Interval
    bins: list[Bin]
    difference: Interval | None = None
    worst_difference: float | None = None

    @property
    def marked(self) -> bool:
        """Whether it is a judge not surely above the best metric, or not above it with each missing score wrong."""
        surely = self.difference and self.difference.low is not None and self.difference.low > 0
        return self.kind == "judge" and not (surely and (self.worst_difference is None or self.worst_difference > 0))


@dataclass(frozen=True)
class Trial:
    """The table, best judge first; `questions` and `answers` by half, `correct` the reporting half's share."""

    rows: list[Tried]
    best_metric: str
    best_judge: str
    questions: dict[str, int]
    answers: dict[str, int]
    correct: float


def hold(spec: TrialSpec, scores: Mapping[str, Path], encoder: Path, resamples: int = 10_000) -> Trial:
    """Hold judges and metrics against people; `scores`: each judge's file, `encoder`: lock of cosine's and BERTScore's.

    Raises InputError where a judge's file lacks an answer, or a half has no correct or no wrong one.
    """
    from tuneproof.corpus.index import Encoder
    from tuneproof.trials import metrics

    rows = evouna.draw(spec.path, spec.questions, spec.seed)
    judges = {}
    for judge, path in scores.items():
        given = {score.answer_id: score.score for score in read_rows(path, Score)}
        if missing := [row for row in rows if row.id not in given]:
            raise InputError(f"{path}: {len(missing)} answers of the trial are not in it, expected one row for each")
        judges[judge] = [given[row.id] for row in rows]
    measured = {
        "string_match": [metrics.string_match(row.text, row.references) for row in rows],
        **metrics.rouge_l(rows),
        "cosine": metrics.cosine(rows, Encoder(encoder)),
    }
    if spec.layer is not None:
        measured[f"bertscore_layer{spec.layer}"] = metrics.bertscore(rows, encoder, spec.layer)
    return try_all(rows, judges, measured, resamples)


def try_all(
    rows: Sequence[JudgedAnswer],
    judges: Mapping[str, Sequence[float | None]],
    metrics: Mapping[str, Sequence[float]],
    resamples: int,
) -> Trial:
    """Hold judges (scores from 1 to 5, None where one gave none) and metrics against people, answer by answer.

    Raises InputError where a half has no correct or no wrong answer.
    """
    choose, report = _Half(rows, "choose"), _Half(rows, "report")
    drawn = draws(report.questions, resamples)
    methods: list[tuple[str, str, Sequence[float | None]]] = [
        # as probabilities of being correct
        *((name, "judge", [None if s is None else (s - 1) / 4 for s in scores]) for name, scores in judges.items()),
        *((name, "metric", [min(1.0, max(0.0, s)) for s in scores]) for name, scores in metrics.items()),
    ]
    tried = [_try(name, kind, scores, choose, report, drawn) for name, kind, scores in methods]

    def best(kind: str) -> str:
        return max((t for t in tried if t.kind == kind), key=lambda t: t.auc_chosen_by or 0.0).name

    best_metric, values = best("metric"), {name: scores for name, _, scores in methods}
    to_beat = next(t.auc.value for t in tried if (t.name, t.kind) == (best_metric, "metric")) or 0.0
    tried = [
        replace(
            t,
            difference=_difference(values[t.name], values[best_metric], report, drawn),
            worst_difference=None if t.worst is None else t.worst - to_beat,
        )
        if t.kind == "judge"
        else t
        for t in tried
    ]
    halves = {"choose": choose, "report": report}
    return Trial(
        sorted(tried, key=lambda t: (t.kind, -(t.auc.value or 0.0))),
        best_metric,
        best("judge"),
        {name: half.questions for name, half in halves.items()},
        {name: len(half.rows) for name, half in halves.items()},
        sum(row.correct for _, row in report.rows) / len(report.rows),
    )


class _Half:
    """The answers of one half, with their places among all, and its questions numbered."""

    def __init__(self, rows: Sequence[JudgedAnswer], half: str) -> None:
        self.rows = [(i, row) for i, row in enumerate(rows) if row.half == half]
        self._number = {name: n for n, name in enumerate(dict.fromkeys(row.question_id for _, row in self.rows))}
        self.questions = len(self._number)
        if len({row.correct for _, row in self.rows}) < 2:
            raise InputError(f"people call the {len(self.rows)} answers to {half} by all alike, expected a mixture")

    def scored(self, scores: Sequence[float | None]) -> tuple[list[float], list[bool], list[int], int]:
        """Return what Auc and Kappa take, of the answers that have a score."""
        held = [(s, row) for i, row in self.rows if (s := scores[i]) is not None]
        questions = [self._number[row.question_id] for _, row in held]
        return [s for s, _ in held], [row.correct for _, row in held], questions, self.questions

    def filled(self, scores: Sequence[float | None], if_correct: float, if_wrong: float) -> list[float | None]:
        """Return the scores with one for each answer that has none."""
        filled = list(scores)
        for i, row in self.rows:
            if filled[i] is None:
                filled[i] = if_correct if row.correct else if_wrong
        return filled


def _try(name: str, kind: str, scores: Sequence[float | None], choose: _Half, report: _Half, drawn: Any) -> Tried:
    by, of = choose.scored(scores), report.scored(scores)
    ones, missing = np.ones(report.questions), len(report.rows) - len(of[0])
    low, high = (
        (float(Auc(*report.scored(report.filled(scores, right, -right))).of(ones)) for right in (-np.inf, np.inf))
        if missing
        else (None, None)
    )
    if len(set(by[1])) < 2 or len(set(of[1])) < 2:
        none = Interval(None, None, None)
        return Tried(name, kind, len(of[0]), missing, None, none, low, high, None, none, none, none, [])
    threshold = best_threshold(by[0], by[1])
    auc, kappa, brier, error = Auc(*of), Kappa(*of, threshold), Brier(*of), CalibrationError(*of)
    return Tried(
        name=name,
        kind=kind,
        n=len(of[0]),
        missing=missing,
        auc_chosen_by=float(Auc(*by).of(np.ones(choose.questions))),
        auc=interval(auc.of(ones), auc.of(drawn)),
        worst=low,
        best=high,
        threshold=threshold,
        kappa=interval(kappa.of(ones), kappa.of(drawn)),
        brier=interval(brier.of(ones), brier.of(drawn)),
        calibration_error=error.interval(drawn),
        bins=reliability(of[0], of[1]),
    )


def _difference(ours: Sequence[float | None], theirs: Sequence[float | None], report: _Half, drawn: Any) -> Interval:
    """Return the difference of two AUCs over the answers that both score; resampled with the same draws."""
    both = [None if a is None or b is None else (a, b) for a, b in zip(ours, theirs, strict=True)]
    first, second = (Auc(*report.scored([pair and pair[i] for pair in both])) for i in (0, 1))
    ones = np.ones(report.questions)
    return interval(first.of(ones) - second.of(ones), first.of(drawn) - second.of(drawn))


def sentences(trial: Trial) -> list[str]:
    """Say which judge is best, whether it beats the metrics, and which judges are marked."""
    rows = {row.name: row for row in trial.rows}
    judge, metric = rows[trial.best_judge], rows[trial.best_metric]
    assert judge.difference
    said = [
        f"Chosen on the first half: judge {judge.name} (AUC {_number(judge.auc_chosen_by)}) and metric {metric.name} "
        f"({_number(metric.auc_chosen_by)}).",
        f"On the other half {judge.name} has AUC {_interval(judge.auc)} and {metric.name} {_interval(metric.auc)}; the "
        f"difference is {_interval(judge.difference, signed=True)}.",
    ]
    marked = [row.name for row in trial.rows if row.marked]
    if marked:
        said.append(f"Marked, because not surely above {metric.name}: {', '.join(marked)}.")
    other = [row.name for row in trial.rows if row.kind == "judge" and not row.marked]
    if other:
        said.append(f"Above {metric.name}: {', '.join(other)}.")
    if len(marked) + len(other) > 1:
        said.append(f"The intervals are not corrected for {len(marked) + len(other)} judges.")
    silent = [f"{row.name} {row.missing} of {row.n + row.missing}" for row in trial.rows if row.missing]
    if silent:
        said.append(
            f"Answers without a score: {', '.join(silent)}; figures are over the others, and a judge is marked, too, "
            f"where it would not be above {metric.name} with each of them the wrong way."
        )
    return said


def footnotes(trials: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return a sentence for each judge that a trial has marked, by the judge's id, from the trials' JSON documents.

    What every table that uses the judge says below itself; a judge that no trial has tried has none.
    """
    found: dict[str, list[str]] = {}
    for trial in trials:
        for row in trial["rows"]:
            if row["kind"] == "judge" and row["marked"]:
                found.setdefault(row["name"], []).append(f"{trial['trial']} ({trial['best_metric']})")
    return {
        judge: f"Judge {judge} does not surely tell correct answers from wrong ones better than a metric that needs no "
        f"judge, its missing scores taken for wrong, on answers that people have judged: {', '.join(where)}."
        for judge, where in found.items()
    }


def marked(trials: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Return for each judge that a trial has tried whether one has marked it, from the trials' JSON documents."""
    judges = [row for trial in trials for row in trial["rows"] if row["kind"] == "judge"]
    return {judge["name"]: any(row["marked"] for row in judges if row["name"] == judge["name"]) for judge in judges}


def to_rows(trial: Trial) -> list[dict[str, Any]]:
    """Return the table as flat rows for CSV."""
    return [
        {
            "name": row.name,
            "kind": row.kind,
            "n": row.n,
            "missing": row.missing,
            "auc_first_half": row.auc_chosen_by,
            **_flat("auc", row.auc),
            "auc_missing_wrong": row.worst,
            "auc_missing_right": row.best,
            **_flat("auc_less_best_metric", row.difference or Interval(None, None, None)),
            "threshold": row.threshold,
            **_flat("kappa", row.kappa),
            **_flat("brier", row.brier),
            **_flat("calibration_error", row.calibration_error),
            "marked": row.marked,
        }
        for row in trial.rows
    ]


def to_json(name: str, source: str, trial: Trial) -> dict[str, Any]:
    """Return the table with the bins of its reliability diagrams, as plain data."""
    rows = [{**asdict(row), "marked": row.marked} for row in trial.rows]
    return {"trial": name, "source": source, **vars(trial), "rows": rows, "sentences": sentences(trial)}


def to_markdown(name: str, source: str, trial: Trial) -> str:
    """Return the table and its sentences for people."""
    head = ["", "AUC", "less best metric", "kappa", "Brier", "ECE", "n", "missing"]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for row in trial.rows:
        label = f"judge {row.name}{' †' if row.marked else ''}" if row.kind == "judge" else row.name
        bounds = f"; {_number(row.worst)} to {_number(row.best)} with the missing" if row.missing else ""
        cells = [
            f"**{label}**" if row.name in (trial.best_judge, trial.best_metric) else label,
            _interval(row.auc) + bounds,
            _interval(row.difference, signed=True) if row.difference else "",
            _interval(row.kappa),
            _interval(row.brier),
            _interval(row.calibration_error),
            str(row.n),
            str(row.missing),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    about = (
        f"{source}: {sum(trial.answers.values())} answers to {sum(trial.questions.values())} questions, judged by "
        f"people. Figures are of the {trial.answers['report']} answers to {trial.questions['report']} questions that "
        f"nothing was chosen by, of which {trial.correct:.1%} are correct; 95 % intervals by question. Bold: the judge "
        "and the metric chosen on the other half, as was each threshold of kappa. Brier score and expected calibration "
        "error take (score - 1) / 4, or the metric, for the probability of being correct. † not surely better than the "
        "best metric, or no better were each missing score the wrong way."
    )
    return "\n".join([f"# Trial {name}", "", about, "", *lines, "", *(f"- {s}" for s in sentences(trial))]) + "\n"


def _flat(name: str, value: Interval) -> dict[str, float | None]:
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}


def _number(value: float | None, signed: bool = False) -> str:
    return "–" if value is None else f"{value:{'+' if signed else ''}.3f}".replace("-", "−")


def _interval(value: Interval, signed: bool = False) -> str:
    if value.low is None:
        return _number(value.value, signed)
    return f"{_number(value.value, signed)} ({_number(value.low, signed)} to {_number(value.high, signed)})"
