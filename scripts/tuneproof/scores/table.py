"""Join answers with their scores, and make the tables: split x arm x metric, and tune less tune, with intervals."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

from tuneproof.records import Answer, Chunk, Example, Measure, Score
from tuneproof.scores.measure import VALUES
from tuneproof.scores.statistics import FEWEST_SEEDS, Difference, compare, estimate, holm

Row = dict[str, Any]

# significant ones of a table's floats
DIGITS = 6
# metrics whose values lie between 0 and 1
_SHARES = ("rouge", "fact_recall", "trained_fact_recall", "accuracy", "refused", "stopped")
# what a study is about, and so the family of its tests; judges too. All else describes
_TESTED = ("fact_recall", "trained_fact_recall", "accuracy", "rouge_1", "rouge_2", "rouge_l", "rouge_lsum", "bertscore")
_SEED_IN_RUN = re.compile(r"/seed\d+$")
_SEED_IN_LABEL = re.compile(r" \(seed\d+\)")


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
                **measured.values,
                "named": measured.named,
                "encoder": measured.encoder,
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


@dataclass(frozen=True)
class _Arm:
    """What one row of the table is about: an arm's rows, a list for each seed."""

    label: str
    run: str
    mode: str
    seeds: list[list[Row]]
    tested: bool

    @property
    def seed_names(self) -> set[str]:
        return {_seed(rows) for rows in self.seeds}

    def of_seeds(self, names: set[str]) -> _Arm:
        """The arm with some of its seeds, in the order of their names, so that those of two arms are in one order."""
        return replace(self, seeds=sorted((rows for rows in self.seeds if _seed(rows) in names), key=_seed))

    @property
    def metrics(self) -> list[str]:
        return _metrics(row for seed in self.seeds for row in seed)

    def asked(self, metric: str) -> dict[str, str]:
        """The questions that a metric applies to, with their pages."""
        return {row["example_id"]: row["page_id"] for row in self.seeds[0] if _applies(row, metric)}

    def values(self, metric: str) -> list[dict[str, float]]:
        """Each seed's values by question."""
        return [
            {row["example_id"]: value for row in rows if (value := value_of(row, metric)) is not None}
            for rows in self.seeds
        ]


class Tables(NamedTuple):
    """scores.csv, a line an arm and metric; tunes.csv, a line two tunes and metric."""

    scores: list[Row]
    tunes: list[Row]


def summarise(rows: list[Row], flips: int, wished: float, marked: Mapping[str, bool]) -> Tables:
    """Return for each data set, split, arm and metric n, mean, sd and interval, and the comparisons.

    Every arm is compared with the same model's base, closed book (columns `diff…`), a tuned one with the same model's
    retrieval as well (`rag_…`), over the questions that both have a value for. So is every two tunes of a model that
    differ in their data set alone, or in their method alone: on which pairs to tune, and how; tested where neither has
    the advantage of its own pages. A run that was trained
    with three seeds or more has, after their rows, one over all of them, which is what is tested; its questions are
    those that every seed has a value for. All p of both tables are one family for Holm. `flips` is as in
    `statistics.compare`; `wished` is the difference that `questions_needed` is for, as a share of the metric's scale;
    `marked` says of each judge that was on trial whether it beat no metric there.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["split"]), []).append(row)
    tables = Tables([], [])
    for (dataset, split), members in groups.items():
        arms = _arms(members)
        where: Row = {"dataset": dataset, "split": split}
        for arm in arms:
            model = arm.run.split("/")[0]
            base, retrieval = (
                next((a for a in arms if (a.run, a.mode) == (f"{model}/base", mode) and a is not arm), None)
                for mode in ("closed", "rag")
            )
            if arm.run == f"{model}/base":
                retrieval = None
            for metric in arm.metrics:
                line = _line(arm, metric, base, retrieval, flips, wished)
                tables.scores.append(where | line | {"marked": _mark(metric, marked)})
        for one, other in _paired_tunes(arms):
            # on trained pages a tune has the advantage whose own pages are asked about
            fair = split == "test_new_pages" or _data_set(one) == _data_set(other)
            for metric in (m for m in one.metrics if _is_tested(m) and m in other.metrics):
                line = _tune_less_tune(one, other, metric, fair, flips, wished)
                tables.tunes.append(where | line | {"marked": _mark(metric, marked)})
    return _with_holm(tables)


def _arms(rows: list[Row]) -> list[_Arm]:
    """The arms of one test set, each with its seeds apart, then together where they are enough."""
    by_arm: dict[str, list[Row]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], []).append(row)
    by_run: dict[tuple[str, str], list[list[Row]]] = {}
    for members in by_arm.values():
        by_run.setdefault((_without_seed(members[0]["run"]), members[0]["mode"]), []).append(members)
    arms = []
    for (run, mode), seeds in by_run.items():
        several = len(seeds) >= FEWEST_SEEDS
        arms += [_Arm(s[0]["arm"], s[0]["run"], mode, [s], not several) for s in seeds]
        if several:
            label = _SEED_IN_LABEL.sub(f" ({len(seeds)} seeds)", seeds[0][0]["arm"])
            arms.append(_Arm(label, run, mode, seeds, True))
    return arms


def _seed(rows: list[Row]) -> str:
    found = _SEED_IN_RUN.search(rows[0]["run"])
    return found[0] if found else ""


def _without_seed(run: str) -> str:
    return _SEED_IN_RUN.sub("", run)


def _paired_tunes(arms: Sequence[_Arm]) -> Iterator[tuple[_Arm, _Arm]]:
    """Each two tunes of a model, asked alike, that differ in their method alone or in their data set alone.

    Of several seeds those that both have, where they are enough.
    """
    for one, other in combinations([arm for arm in arms if arm.tested], 2):
        (model, *how), (other_model, *other_how) = (_without_seed(arm.run).split("/") for arm in (one, other))
        alike = (model, one.mode, len(how)) == (other_model, other.mode, len(other_how)) and len(how) == 2
        if not alike or (how[0] == other_how[0]) == (how[1] == other_how[1]):
            continue
        shared = one.seed_names & other.seed_names
        if len(shared) >= (1 if len(one.seeds) == len(other.seeds) == 1 else FEWEST_SEEDS):
            yield one.of_seeds(shared), other.of_seeds(shared)


def _data_set(tune: _Arm) -> str:
    return tune.run.split("/")[2]


def _is_tested(metric: str) -> bool:
    return metric.startswith("judge:") or metric in _TESTED


def _mark(metric: str, marked: Mapping[str, bool]) -> bool | None:
    return marked.get(metric.removeprefix("judge:")) if metric.startswith("judge:") else None


def _line(arm: _Arm, metric: str, base: _Arm | None, retrieval: _Arm | None, flips: int, wished: float) -> Row:
    seeds, asked = arm.values(metric), arm.asked(metric)
    scored = _have(asked, seeds)
    own = estimate([[values[e] for e in scored] for values in seeds], [asked[e] for e in scored], scale_of(metric))
    worst, best = _bounds(seeds, None, list(asked), metric)
    tested = arm.tested and _is_tested(metric)
    return {
        "arm": arm.label,
        "run": arm.run,
        "mode": arm.mode,
        "seeds": len(seeds),
        "metric": metric,
        "n": own.n,
        "missing": len(asked) - own.n,
        "mean": own.mean,
        "sd": own.sd,
        "ci_low": own.low,
        "ci_high": own.high,
        "mean_worst": worst,
        "mean_best": best,
        "base_run": base.run if base else None,
        "base_mode": base.mode if base else None,
        **_compared("", arm, base, metric, tested, flips, wished),
        **_compared("rag_", arm, retrieval, metric, tested, flips, wished),
    }


def _tune_less_tune(one: _Arm, other: _Arm, metric: str, tested: bool, flips: int, wished: float) -> Row:
    return {
        "mode": one.mode,
        "metric": metric,
        "arm": one.label,
        "run": one.run,
        "other_arm": other.label,
        "other_run": other.run,
        "seeds": len(one.seeds),
        **_compared("", one, other, metric, tested, flips, wished),
    }


def _compared(prefix: str, arm: _Arm, other: _Arm | None, metric: str, tested: bool, flips: int, wished: float) -> Row:
    """The columns of a paired difference, over the questions that every seed of both arms has a value for."""
    found, worst, best = Difference(0), None, None
    if other:
        asked, ours, theirs = arm.asked(metric), arm.values(metric), other.values(metric)
        both, scale = _have(asked, [*ours, *theirs]), scale_of(metric)
        found = compare(
            [[values[e] for e in both] for values in ours],
            [[values[e] for e in both] for values in theirs],
            [asked[e] for e in both],
            flips,
            scale,
            wished * (scale[1] - scale[0]) if scale else None,
        )
        worst, best = _bounds(ours, theirs, list(asked), metric)
    return {
        f"{prefix}diff_n": found.n or None,
        f"{prefix}diff": found.mean,
        f"{prefix}diff_low": found.low,
        f"{prefix}diff_high": found.high,
        f"{prefix}diff_worst": worst,
        f"{prefix}diff_best": best,
        f"{prefix}p": found.p if tested else None,
        f"{prefix}p_permutation": found.p_permutation if tested else None,
        f"{prefix}p_holm": None,
        f"{prefix}d_z": found.d_z,
        f"{prefix}d_av": found.d_av,
        f"{prefix}design_effect": found.design_effect,
        f"{prefix}detectable": found.detectable,
        f"{prefix}questions_needed": found.questions_needed,
    }


def _have(asked: Iterable[str], seeds: Sequence[Mapping[str, float]]) -> list[str]:
    return [e for e in asked if all(e in values for values in seeds)]


def _bounds(
    ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]] | None, asked: list[str], metric: str
) -> tuple[float | None, float | None]:
    """A judge's mean, or its difference to another arm's, had every score that is missing been the worst or the best.

    In a difference one arm's missing scores are the worst where the other's are the best. Only judges leave scores out.
    """
    if not (metric.startswith("judge:") and asked):
        return None, None
    low, high = scale_of(metric) or (1.0, 5.0)

    def mean(seeds: Sequence[Mapping[str, float]], missing: float) -> float:
        return sum(values.get(e, missing) for values in seeds for e in asked) / (len(seeds) * len(asked))

    if theirs is None:
        return mean(ours, low), mean(ours, high)
    return mean(ours, low) - mean(theirs, high), mean(ours, high) - mean(theirs, low)


def _with_holm(tables: Tables) -> Tables:
    """Adjust all p of both tables, of all comparisons, as one family."""
    cells = [(line, prefix) for line in tables.scores for prefix in ("", "rag_")]
    cells += [(line, "") for line in tables.tunes]
    for (line, prefix), adjusted in zip(cells, holm([line[f"{p}p"] for line, p in cells]), strict=True):
        line[f"{prefix}p_holm"] = adjusted
    return tables


def scale_of(metric: str) -> tuple[float, float] | None:
    """Return the least and the greatest value that a metric can have; None for one that has no such ends."""
    if metric.startswith("judge:"):
        return 1.0, 5.0
    return (0.0, 1.0) if metric.startswith(_SHARES) else None


def value_of(row: Row, metric: str) -> float | None:
    """Return an answer's value of a metric; None where it has none (no fact is asked for, the judge gave no score)."""
    if metric.startswith("judge:"):
        score = row["scores"].get(metric.removeprefix("judge:"))
        return None if score is None else float(score)
    if metric == "fact_recall":
        return row["facts_recalled"] / row["facts"] if row["facts"] else None
    if metric == "trained_fact_recall":
        return row["trained_facts_recalled"] / row["trained_facts"] if row["trained_facts"] else None
    return float(row[metric]) if metric in row else None


def _applies(row: Row, metric: str) -> bool:
    if metric == "fact_recall":
        return bool(row["facts"])
    if metric == "trained_fact_recall":
        return bool(row["trained_facts"])
    return metric.startswith("judge:") or metric in row


def _metrics(rows: Iterable[Row]) -> list[str]:
    rows = list(rows)
    judges = sorted({judge for row in rows for judge in row["scores"]})
    metrics = [f"judge:{judge}" for judge in judges]
    if any(row["facts"] for row in rows):
        metrics.append("fact_recall")
    if any(row["trained_facts"] for row in rows):
        metrics.append("trained_fact_recall")
    return metrics + [name for name in (*VALUES, "stopped") if any(name in row for row in rows)]
