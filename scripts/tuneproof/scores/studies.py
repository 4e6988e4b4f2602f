"""The two studies' tables, ours beside the published numbers: judged scores, texts, recommendations, outputs.

Each has its numbers, a line a number, for whoever computes on; and its cells, as the studies print them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneproof.errors import InputError
from tuneproof.records import content_id
from tuneproof.scores.choices import AMONG, NONE, SEVERAL
from tuneproof.tables import to_csv

Row = Mapping[str, Any]

SHOWN = 10  # questions of each data set in the table of outputs
_TEXTS = {
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "rouge_lsum": "ROUGE-Lsum",
    "bertscore_p": "BERTScore P",
    "bertscore_r": "BERTScore R",
    "bertscore": "BERTScore F",
}
_LATEX = re.compile(r"[&%$#_{}]")
_OURS = "this study"
_NUMBERS = ("source", "dataset", "arm", "split", "metric", "n", "mean", "sd", "ci_low", "ci_high")
_OF_JUDGES = ("missing", "mean_worst", "mean_best", "marked")
_NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """A table of a study; `numbers` and `cells` are lines with the same keys throughout.

    `columns`: LaTeX's columns, where not all are short.
    """

    caption: str
    numbers: list[dict[str, Any]]
    cells: list[dict[str, str]]
    columns: str | None = None


def make(
    scores: Sequence[Row], rows: Sequence[Row], published: Sequence[Row], of: Mapping[str, str]
) -> dict[str, Table]:
    """Return the tables of a study by name, those that it has rows for; `of`: see `beside`.

    `scores` and `published` are lines of CSV files, all of them text; `rows` are those of `scores.table.join`.
    """
    known = {line["dataset"] for line in published}
    if unknown := [name for name in of.values() if name not in known]:
        raise InputError(
            f"study.published: {unknown[0]!r} is not published, expected one of: {', '.join(sorted(known))}"
        )
    tables = {"judged": judged(scores, published, of)} if any(_judged([s["metric"]]) for s in scores) else {}
    tables["texts"] = texts(scores, published, of, {row["encoder"] for row in rows if row["encoder"]})
    if any(row["named"] is not None for row in rows):
        tables["recommended"], tables["named"] = recommended(rows, published, of)
    return {**tables, "outputs": side_by_side(rows)}


def judged(scores: Sequence[Row], published: Sequence[Row], of: Mapping[str, str]) -> Table:
    """Return each arm's mean ± standard deviation by judge, as the paper's table 1; `of`: see `beside`."""
    lines = beside([s for s in scores if s["metric"].startswith("judge:")], published, of)
    judges = list(dict.fromkeys(line["metric"] for line in lines))
    caption = (
        "Scores from 1 to 5: mean ± standard deviation, in brackets the 95 % interval. Published scores are other "
        "judges' of other questions."
    )
    marked = {line["metric"] for line in lines if line["marked"] == "True"}
    if marked:
        caption += " † on trial, not surely better than a metric that needs no judge."
    titles = {judge: judge.removeprefix("judge:") + " †" * (judge in marked) for judge in judges}
    return Table(caption, lines, _wide(lines, titles, _mean_and_deviation))


def texts(scores: Sequence[Row], published: Sequence[Row], of: Mapping[str, str], encoders: Iterable[str]) -> Table:
    """Return each arm's ROUGE (F) and BERTScore (P, R, F), as the dissertation's tables; `of`: see `beside`.

    Against the first reference; where questions have several, against the best of them in lines of their own.
    """
    lines = []
    for suffix, against in (("", "first reference"), ("_best", "best of all references")):
        names = {_with_best(name, suffix): name for name in _TEXTS}
        mine = [{**s, "metric": names[s["metric"]]} for s in scores if s["metric"] in names]
        lines += [
            {**line, "against": against} for line in beside(mine, [] if suffix else published, of) if mine or not suffix
        ]
    caption = (
        "ROUGE (F, sentences split before Lsum) and BERTScore, means with 95 % intervals. "
        f"BERTScore's encoder: {', '.join(sorted(encoders)) or 'none'}; the published one is not known."
    )
    return Table(caption, lines, _wide(lines, _TEXTS, _mean_and_interval))


def recommended(rows: Sequence[Row], published: Sequence[Row], of: Mapping[str, str]) -> tuple[Table, Table]:
    """Return how often each arm names the right product, with Wilson's interval, and which product it names for which.

    The first table is the paper's "70 against 30" with what the wrong answers are: another product of the list, several
    of them, or none. Where it is one of several, `accuracy` counts it as wrong and `accuracy_several` as right. The
    second is the confusion of products, a line a pair that occurs, the commonest first.
    """
    numbers, confusion = [], []
    for (dataset, split, arm), members in _by_arm([row for row in rows if row["named"] is not None]).items():
        named = Counter((row["reference"], row["named"]) for row in members)
        right = sum(count for (product, choice), count in named.items() if product == choice)
        how = Counter(row["named"] for row in members)
        several, none = how[SEVERAL] + how[AMONG], how[NONE]
        kinds = {
            "distractor": len(members) - right - several - none,
            "several": several,
            "none": none,
            "accuracy_several": (right + how[AMONG]) / len(members),
        }
        numbers.append(_accuracy(_OURS, dataset, arm, split, right, len(members)) | kinds)
        confusion += [
            {"dataset": dataset, "arm": arm, "split": split, "right": product, "named": choice, "count": count}
            for (product, choice), count in sorted(named.items(), key=lambda item: (-item[1], item[0]))
        ]
    for dataset, theirs in of.items():
        for row in published:
            if row["dataset"] == theirs and row["metric"] == "accuracy" and numbers:
                right, n = round(float(row["mean"]) * int(row["n"])), int(row["n"])
                line = _accuracy(row["source"], dataset, row["arm"], "", right, n)
                numbers.append(line | dict.fromkeys(("distractor", "several", "none", "accuracy_several")))
    cells = [
        {
            "data set": line["dataset"],
            "arm": line["arm"],
            "test set": line["split"] or _NOTHING,
            "source": line["source"],
            "right": f"{line['right']} of {line['n']}",
            "accuracy": f"{line['accuracy']:.2f} [{line['ci_low']:.2f}, {line['ci_high']:.2f}]",
            "bounds": _NOTHING
            if line["accuracy_several"] is None
            else f"{line['accuracy']:.2f} to {line['accuracy_several']:.2f}",
            **{k: _NOTHING if line[k] is None else str(line[k]) for k in ("distractor", "several", "none")},
        }
        for line in numbers
    ]
    confused = [{key: str(value) for key, value in line.items()} for line in confusion]
    caption = (
        "The right product is named, and no other. In brackets Wilson's 95 % interval. Bounds: the right one among "
        "several counts as wrong, and as right."
    )
    return (
        Table(caption, numbers, cells),
        Table("Which product is named for which, and how often.", confusion, confused),
    )


def side_by_side(rows: Sequence[Row], shown: int = SHOWN) -> Table:
    """Return questions with the reference and every arm's answer; which ones, the hash of their ids decides."""
    questions: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        questions.setdefault((row["dataset"], row["split"], row["example_id"]), []).append(row)
    drawn: Counter[str] = Counter()
    cells = []
    for (dataset, split, _), answers in sorted(questions.items(), key=lambda q: (q[0][0], content_id("show", *q[0]))):
        drawn[dataset] += 1
        if drawn[dataset] <= shown:
            first = answers[0]
            texts = [("question", first["question"]), ("reference", first["reference"])]
            texts += [(row["arm"], row["answer"]) for row in answers]
            about = {"data set": dataset, "test set": split, "question's id": first["example_id"]}
            cells += [{**about, "who": who, "text": text} for who, text in texts]
    caption = f"Outputs side by side: {shown} questions of each data set, drawn by hash."
    return Table(caption, list(cells), cells, r"lllp{0.15\linewidth}p{0.45\linewidth}")


def beside(scores: Sequence[Row], published: Sequence[Row], of: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return our lines and the published ones of the same metrics, data set by data set.

    `of` maps our data sets to those of the published numbers. Of published judges, which are none of ours, all are
    taken.
    """
    metrics = {line["metric"] for line in scores}
    lines = []
    for dataset in dict.fromkeys(line["dataset"] for line in scores):
        lines += [_line(_OURS, s) for s in scores if s["dataset"] == dataset]
        lines += [
            _line(p["source"], {**p, "dataset": dataset})
            for p in published
            if p["dataset"] == of.get(dataset)
            and (p["metric"] in metrics or (p["metric"].startswith("judge:") and _judged(metrics)))
        ]
    return lines


def as_csv(table: Table) -> str:
    """Return a table's numbers; an interval's end that there is not is an empty cell."""
    return to_csv(table.numbers)


def as_markdown(table: Table) -> str:
    """Return a table with its caption as GitHub's Markdown reads it."""
    from tabulate import tabulate

    escaped = [{k: v.replace("|", "\\|").replace("\n", "<br>") for k, v in line.items()} for line in table.cells]
    return f"{table.caption}\n\n{tabulate(escaped, headers='keys', tablefmt='github', disable_numparse=True)}\n"


def as_latex(table: Table, label: str) -> str:
    """Return a table for lualatex with the packages booktabs and longtable; pdflatex stops at an answer's emoji."""
    from pandas import DataFrame

    latex: str = DataFrame(table.cells).to_latex(
        index=False,
        escape=True,
        longtable=True,
        column_format=table.columns,
        caption=_LATEX.sub(r"\\\g<0>", table.caption),
        label=f"tab:{label}",
    )
    return latex


def _judged(metrics: Iterable[str]) -> bool:
    return any(metric.startswith("judge:") for metric in metrics)


def _with_best(name: str, suffix: str) -> str:
    """`bertscore_p` against the best reference is `bertscore_best_p`."""
    stem, part = (name[:-2], name[-2:]) if name.endswith(("_p", "_r")) else (name, "")
    return f"{stem}{suffix}{part}"


def _line(source: str, row: Row) -> dict[str, Any]:
    keys = (*_NUMBERS, *_OF_JUDGES) if _judged([row["metric"]]) else _NUMBERS
    numbers = {key: row.get(key) or "" for key in keys}
    return {**numbers, "source": source}


def _wide(lines: Sequence[Row], columns: Mapping[str, str], cell: Any) -> list[dict[str, str]]:
    """Return a line an arm and test set, with a column a metric."""
    grouped: dict[tuple[str, ...], dict[str, Row]] = {}
    for line in lines:
        key = (*(line[k] for k in ("dataset", "arm", "split", "source")), line.get("against", ""))
        grouped.setdefault(key, {})[line["metric"]] = line
    against = any(key[-1] for key in grouped)
    return [
        {
            "data set": dataset,
            "arm": arm,
            "test set": split or _NOTHING,
            "source": source,
            **({"against": reference} if against else {}),
            "n": str(max((int(float(line["n"] or 0)) for line in of.values()), default=0) or _NOTHING),
            **{title: cell(of[name]) if name in of else _NOTHING for name, title in columns.items()},
        }
        for (dataset, arm, split, source, reference), of in grouped.items()
    ]


def _mean_and_deviation(line: Row) -> str:
    if line["mean"] == "":
        return _NOTHING
    text = f"{float(line['mean']):.2f}"
    text += f" ± {float(line['sd']):.2f}" if line["sd"] != "" else ""
    text += _interval(line, 2)
    if float(line["missing"] or 0) and line["mean_worst"] != "":
        text += (
            f"; {float(line['mean_worst']):.2f} to {float(line['mean_best']):.2f} with the {line['missing']} missing"
        )
    return text


def _mean_and_interval(line: Row) -> str:
    return _NOTHING if line["mean"] == "" else f"{float(line['mean']):.4f}{_interval(line, 3)}"


def _interval(line: Row, digits: int) -> str:
    if line["ci_low"] == "":
        return ""
    return f" [{float(line['ci_low']):.{digits}f}, {float(line['ci_high']):.{digits}f}]"


def _accuracy(source: str, dataset: str, arm: str, split: str, right: int, n: int) -> dict[str, Any]:
    from scipy.stats import binomtest

    interval = binomtest(right, n).proportion_ci(method="wilson")
    return {
        "source": source,
        "dataset": dataset,
        "arm": arm,
        "split": split,
        "n": n,
        "right": right,
        "accuracy": right / n,
        "ci_low": float(interval.low),
        "ci_high": float(interval.high),
    }


def _by_arm(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    arms: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        arms.setdefault((row["dataset"], row["split"], row["arm"]), []).append(row)
    return arms
