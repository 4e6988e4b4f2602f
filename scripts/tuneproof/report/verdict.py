"""From the table of scores to the answer in a sentence: tune, retrieve, or the data cannot tell.

The words follow fixed rules (`RULES`, printed in the report), so that nobody reads a hope into a table. Every
comparison is a paired difference on the same questions: tune and retrieval to the untuned model without retrieval, and
the tune to retrieval. A difference counts where its p, after Holm's correction for all that the table tests, is at most
5 %; without a p, where its 95 % interval excludes zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tuneproof.errors import InputError
from tuneproof.study import TEST_SPLITS

Effect = Literal["above", "below", "unclear", "unmeasured"]
Word = Literal["tune", "retrieval", "either", "neither", "cannot tell"]

# fewer questions than this and one of them moves a mean by more than 3 %
FEW_QUESTIONS = 30

# a difference that counts has at most this p
LEVEL = 0.05

RULES: tuple[tuple[str, str], ...] = (
    ("Tune and retrieval both better than the base, the tune better than retrieval", "tune"),
    ("Tune and retrieval both better than the base, retrieval better than the tune", "retrieval"),
    ("Tune and retrieval both better than the base, no telling which is better", "either"),
    ("Only the tune better than the base", "tune"),
    ("Only retrieval better than the base", "retrieval"),
    ("Neither better than the base, all that was measured worse", "neither"),
    ("Neither better than the base, one cannot be told from it, or nothing was measured", "cannot tell"),
)


@dataclass(frozen=True)
class ScoreRow:
    """One row of scores.csv: an arm's mean by one metric on one split, and its paired differences.

    `diff…` is to the base, `rag_diff…` to the same model's retrieval; `detectable` is the smallest difference to the
    base that the study could have seen. `seeds` counts the trainings behind the row; `marked` is a judge's that beat no
    metric on trial.
    """

    split: str
    arm: str
    run: str
    mode: str
    dataset: str
    metric: str
    n: int
    missing: int
    mean: float | None
    sd: float | None
    ci_low: float | None
    ci_high: float | None
    base_run: str
    base_mode: str
    diff: float | None
    diff_low: float | None
    diff_high: float | None
    seeds: int = 1
    mean_worst: float | None = None
    mean_best: float | None = None
    diff_worst: float | None = None
    diff_best: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    rag_diff: float | None = None
    rag_diff_low: float | None = None
    rag_diff_high: float | None = None
    rag_p_holm: float | None = None
    marked: bool = False

    @property
    def model(self) -> str:
        """The student's id, the first part of the run's path."""
        return self.run.partition("/")[0]

    @property
    def tuned(self) -> bool:
        """Whether the run is a tune rather than an untuned model."""
        return self.run != f"{self.model}/base"

    @property
    def trained_on(self) -> str:
        """The data set of a tune (`model/method/dataset`, then `seedN` for one seed), empty for a base model."""
        return self.run.split("/")[2] if self.tuned and self.run.count("/") >= 2 else ""

    @property
    def effect(self) -> Effect:
        """What the difference to the base shows."""
        return effect_of(self.diff_low, self.diff_high, self.p_holm)

    @property
    def against_retrieval(self) -> Effect:
        """What the difference to retrieval shows."""
        return effect_of(self.rag_diff_low, self.rag_diff_high, self.rag_p_holm)


def effect_of(low: float | None, high: float | None, p: float | None) -> Effect:
    """Say what a difference shows, from its interval and its p after Holm, None where it was not tested."""
    if low is None or high is None:
        return "unmeasured"
    if p is not None and p > LEVEL:
        return "unclear"
    if low > 0:
        return "above"
    return "below" if high < 0 else "unclear"


@dataclass(frozen=True)
class Finding:
    """What one tuned arm shows: the word per split that the rules give, and the sentences with the numbers."""

    arm: str
    words: dict[str, Word]
    reasons: dict[str, str]
    sentences: dict[str, str]


@dataclass(frozen=True)
class SplitAnswer:
    """The answer on one test set, over all tuned runs."""

    split: str
    word: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """The answer per split, the evidence per tuned run, and what the numbers do not cover."""

    tunes: int
    answers: list[SplitAnswer]
    evidence: list[str]
    caveats: list[str]


def parse_scores(rows: Iterable[Mapping[str, str]], name: str) -> list[ScoreRow]:
    """Type the rows of a CSV reader; an empty cell is None. Raise InputError that names file, line and column."""
    return [_parse_row(row, f"{name} line {number}") for number, row in enumerate(rows, 2)]


def _parse_row(row: Mapping[str, str], where: str) -> ScoreRow:
    def text(column: str) -> str:
        if row.get(column) is None:
            raise InputError(f"{where}: no column {column!r}, expected the table of scores")
        return row[column]

    def number(column: str) -> float | None:
        try:
            return float(text(column)) if text(column) else None
        except ValueError:
            raise InputError(f"{where}: {column} is {text(column)!r}, expected a number or nothing") from None

    return ScoreRow(
        split=text("split"),
        arm=text("arm"),
        run=text("run"),
        mode=text("mode"),
        dataset=text("dataset"),
        metric=text("metric"),
        n=int(number("n") or 0),
        missing=int(number("missing") or 0),
        mean=number("mean"),
        sd=number("sd"),
        ci_low=number("ci_low"),
        ci_high=number("ci_high"),
        base_run=text("base_run"),
        base_mode=text("base_mode"),
        diff=number("diff"),
        diff_low=number("diff_low"),
        diff_high=number("diff_high"),
        seeds=int(number("seeds") or 1),
        mean_worst=number("mean_worst"),
        mean_best=number("mean_best"),
        diff_worst=number("diff_worst"),
        diff_best=number("diff_best"),
        p_holm=number("p_holm"),
        detectable=number("detectable"),
        rag_diff=number("rag_diff"),
        rag_diff_low=number("rag_diff_low"),
        rag_diff_high=number("rag_diff_high"),
        rag_p_holm=number("rag_p_holm"),
        marked=text("marked") == "True",
    )


def judge(scores: Sequence[ScoreRow]) -> Verdict:
    """Derive the answer, the evidence (one sentence a tuned run; for a single one, one a test set) and the caveats."""
    arms = _tuned_arms(scores)
    if not arms:
        return Verdict(0, [], [], ["No tuned run has a score, so there is nothing to compare."])
    metrics = {dataset: choose_metric(scores, dataset) for dataset in {r.dataset for r in arms}}
    findings = [_finding(scores, arm, metrics[arm.dataset], alone=len(arms) == 1) for arm in arms]
    evidence = [sentence for f in findings for sentence in f.sentences.values()]
    return Verdict(len(arms), _answers(findings), evidence, _caveats(scores, arms, metrics))


def choose_metric(scores: Sequence[ScoreRow], dataset: str) -> str:
    """Fact recall, else the right product, else the first judge, else ROUGE-L.

    The first of them that has a mean for every tuned arm on every test set; where none has, the first that has any.
    """
    rows = [r for r in scores if r.dataset == dataset and r.tuned]
    wanted = {(r.run, r.mode, r.split) for r in rows}
    judges = list(dict.fromkeys(r.metric for r in rows if r.metric.startswith("judge:")))
    candidates = ("fact_recall", "accuracy", *judges, "rouge_l")
    measured = {m: {(r.run, r.mode, r.split) for r in rows if r.metric == m and r.mean is not None} for m in candidates}
    whole = [m for m in candidates if measured[m] == wanted]
    partly = [m for m in candidates if measured[m]]
    return (whole or partly or ["rouge_l"])[0]


def recommend(tuned: ScoreRow, retrieval: ScoreRow | None) -> Word:
    """Apply RULES to the paired differences on one test set."""
    one, two = tuned.effect, retrieval.effect if retrieval else "unmeasured"
    if one == two == "above":
        return _BETTER.get(tuned.against_retrieval, "either")
    if "above" in (one, two):
        return "tune" if one == "above" else "retrieval"
    measured = {one, two} - {"unmeasured"}
    return "neither" if measured == {"below"} else "cannot tell"


_BETTER: dict[Effect, Word] = {"above": "tune", "below": "retrieval"}
_EFFECTS: dict[Effect, str] = {
    "above": "does better than the base model",
    "below": "does worse than the base model",
    "unclear": "cannot be told from the base model",
    "unmeasured": "was not compared",
}
_AGAINST: dict[Effect, str] = {
    "above": "the tune does better than retrieval",
    "below": "retrieval does better than the tune",
    "unclear": "the two cannot be told apart",
    "unmeasured": "the two were not compared with each other",
}


def explain(tuned: ScoreRow, retrieval: ScoreRow | None) -> str:
    """Say why `recommend` gives its word."""
    if retrieval and tuned.effect == retrieval.effect == "above":
        both = "tune and retrieval both do better than the base model"
        return f"{both}, and {_AGAINST[tuned.against_retrieval]}"
    return f"the tune {_EFFECTS[tuned.effect]}; retrieval {_EFFECTS[retrieval.effect if retrieval else 'unmeasured']}"


def signed(value: float) -> str:
    """Two decimals with a sign, none for zero; a true minus, since a hyphen breaks off at a line's end."""
    text = f"{value:+.2f}".replace("-", "−")
    return "0.00" if text[1:] == "0.00" else text


def interval(low: float | None, high: float | None) -> str:
    """`+0.47 to +0.71`."""
    return "not available" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def _tuned_arms(scores: Sequence[ScoreRow]) -> list[ScoreRow]:
    """One row per tuned arm that the verdict speaks of: asked closed book, about the data set it was tuned on.

    A study may also ask a tune with retrieval, or about another data set; those stand in the tables only, unless
    there is nothing else. Where several seeds were trained, the row over all of them speaks for them.
    """
    tuned = [r for r in scores if r.tuned and r.split in TEST_SPLITS]
    tuned = [r for r in tuned if r.mode == "closed"] or tuned
    tuned = [r for r in tuned if r.dataset == r.trained_on] or tuned
    pooled = {(r.run, r.mode, r.dataset) for r in tuned if r.seeds > 1}
    tuned = [r for r in tuned if r.seeds > 1 or (r.run.rpartition("/")[0], r.mode, r.dataset) not in pooled]
    return list({(r.run, r.mode, r.dataset): r for r in reversed(tuned)}.values())[::-1]


def _find(
    scores: Sequence[ScoreRow], arm: ScoreRow, metric: str, split: str
) -> tuple[ScoreRow | None, ScoreRow | None, ScoreRow | None]:
    """Return the rows of the tune, of the base model it is compared with, and of retrieval with that model."""
    rows = {
        (r.run, r.mode): r
        for r in scores
        if (r.dataset, r.metric, r.split) == (arm.dataset, metric, split) and r.mean is not None
    }
    base = f"{arm.model}/base"
    return rows.get((arm.run, arm.mode)), rows.get((base, "closed")), rows.get((base, "rag"))


def _finding(scores: Sequence[ScoreRow], arm: ScoreRow, metric: str, alone: bool) -> Finding:
    words: dict[str, Word] = {}
    reasons: dict[str, str] = {}
    sentences: dict[str, str] = {}
    for split in TEST_SPLITS:
        tuned, base, retrieval = _find(scores, arm, metric, split)
        if tuned is None:
            continue
        words[split] = recommend(tuned, retrieval)
        reasons[split] = explain(tuned, retrieval)
        sentences[split] = (_full_sentence if alone else _short_clause)(tuned, base, retrieval)
    if not alone:
        body = "; ".join(sentences.values()) or "no score"
        sentences = {"all": f"{arm.arm} ({_metric_name(metric)}): {body}."}
    return Finding(arm.arm, words, reasons, sentences)


def _full_sentence(tuned: ScoreRow, base: ScoreRow | None, retrieval: ScoreRow | None) -> str:
    lead = {"test_trained_pages": "On pages it was trained on", "test_new_pages": "On pages it never saw"}[tuned.split]
    text = f"{lead}, the tune {_reaches(tuned)}"
    if base is not None:
        text += f" against {base.mean:.2f} for the base model"
    text += f" ({_difference(tuned)})"
    if retrieval is not None:
        text += f"; retrieval {_reaches(retrieval)} ({_difference(retrieval, lead='')})"
    text += "."
    if retrieval is not None and tuned.rag_diff is not None:
        text += f" Tune less retrieval: {_against(tuned)}."
    return text


def _short_clause(tuned: ScoreRow, base: ScoreRow | None, retrieval: ScoreRow | None) -> str:
    pages = {"test_trained_pages": "trained pages", "test_new_pages": "new pages"}[tuned.split]
    text = f"{pages} {tuned.mean:.2f}"
    if base is not None:
        text += f" against {base.mean:.2f}"
    text += f" ({_difference(tuned, lead='')})"
    if retrieval is not None:
        text += f", retrieval {retrieval.mean:.2f} ({_difference(retrieval, lead='')})"
        if tuned.rag_diff is not None:
            text += f", tune less retrieval {_against(tuned)}"
    return text


def _difference(row: ScoreRow, lead: str = "difference ") -> str:
    if row.diff is None or row.effect == "unmeasured":
        return "difference not available"
    return lead + _measured(row.diff, row.diff_low, row.diff_high, row.p_holm, row.effect)


def _against(row: ScoreRow) -> str:
    if row.rag_diff is None or row.against_retrieval == "unmeasured":
        return "difference not available"
    return _measured(row.rag_diff, row.rag_diff_low, row.rag_diff_high, row.rag_p_holm, row.against_retrieval)


def _measured(difference: float, low: float | None, high: float | None, p: float | None, effect: Effect) -> str:
    text = f"{signed(difference)}, 95 % interval {interval(low, high)}"
    if p is not None:
        text += f", p {p_value(p)} after Holm"
    return text + (": the data cannot tell" if effect == "unclear" else "")


def p_value(p: float) -> str:
    """`0.034`; `< 0.001` for what is smaller."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _reaches(row: ScoreRow) -> str:
    if row.metric == "fact_recall":
        return f"recalls {row.mean:.2f} of the facts"
    if row.metric == "accuracy":
        return f"names the right product in {row.mean:.2f} of the cases"
    if row.metric.startswith("judge:"):
        return f"scores {row.mean:.2f} of 5"
    return f"reaches a ROUGE-L of {row.mean:.2f}"


def _metric_name(metric: str) -> str:
    if metric.startswith("judge:"):
        return f"score by judge {metric.removeprefix('judge:')}, 1 to 5"
    return {"fact_recall": "share of facts recalled", "accuracy": "share of right products", "rouge_l": "ROUGE-L"}.get(
        metric, metric
    )


def _answers(findings: Sequence[Finding]) -> list[SplitAnswer]:
    answers = []
    for split in TEST_SPLITS:
        words = Counter(f.words[split] for f in findings if split in f.words)
        if not words:
            continue
        total = words.total()
        if len(words) == 1:
            (word,) = words
            reasons = list(dict.fromkeys(f.reasons[split] for f in findings if split in f.words))
            runs = f"for all {total} tuned runs, " if total > 1 else ""
            # runs may share a word for different reasons; those stand in the evidence
            answers.append(SplitAnswer(split, word, runs + (reasons[0] if len(reasons) == 1 else "by the rules below")))
        else:
            shares = ", ".join(f"{word} for {count} of {total}" for word, count in words.most_common())
            answers.append(SplitAnswer(split, "depends on the run", f"the rules say: {shares}"))
    return answers


def _missing(rows: Sequence[ScoreRow]) -> str:
    text = f"Up to {max(r.missing for r in rows)} answers of an arm have no value and are left out."
    # a mean over seeds is of the questions that all of them have, and need not lie between its bounds
    changes = [
        max(abs(r.mean_best - r.mean), abs(r.mean - r.mean_worst))
        for r in rows
        if r.mean is not None and r.mean_best is not None and r.mean_worst is not None
    ]
    if changes:
        text += f" Whatever they were worth, no mean would change by more than {max(changes):.2f}."
    return text


def _caveats(scores: Sequence[ScoreRow], arms: Sequence[ScoreRow], metrics: Mapping[str, str]) -> list[str]:
    used = [r for r in scores if r.split in TEST_SPLITS and metrics.get(r.dataset) == r.metric]
    caveats = [f"Measured by: {' and '.join(dict.fromkeys(_metric_name(m) for m in metrics.values()))}."]
    fewest = min((r.n for r in used), default=0)
    if fewest < FEW_QUESTIONS:
        caveats.append(f"The smallest comparison rests on {fewest} questions: the intervals are wide for that reason.")
    if any(r.seeds == 1 for r in arms):
        caveats.append(
            "The interval of a single training covers which questions were asked, "
            "not how another training run would turn out."
        )
    if any(r.missing for r in used):
        caveats.append(_missing([r for r in used if r.missing]))
    if any(not _find(scores, arm, metrics[arm.dataset], s)[2] for arm in arms for s in TEST_SPLITS):
        caveats.append("Retrieval was not measured everywhere; where it is missing, the tune is compared alone.")
    return caveats
