"""How good a labelling is: accuracy, macro-F1, calibration, confusion; with intervals, and against the classifier.

A labelling is given as the probability that each question is factual, at least 0.5 of which is the label factual.
For intervals whole clusters (pages) are resampled and percentiles are read (Efron 1981). One cluster has nothing to
resample and gives no interval: its ends are None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuneproof.types.annotate import TYPES

BINS = 10
_RESAMPLES = 2000
_LEVEL = 0.95


def evaluate(truth: Sequence[str], factual: Any, clusters: Sequence[str], classifier: Any = None) -> dict[str, Any]:
    """Return the measures of one labelling against the truth, as plain data.

    A macro-F1 is the plain mean of the two types' F1; an F1 of nothing over nothing is 0. `classifier` is another
    labelling of the same rows: `classifier_more` is its macro-F1 less this one's, over the same resamples.
    """
    import numpy as np

    cells = _cells(truth, factual)
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    count = int(cluster.max()) + 1
    weights = _weights(count)
    accuracy, f1 = _resampled(cells, cluster, weights)
    result = {
        "n": len(truth),
        "accuracy": _with_interval(accuracy, count),
        "macro_f1": _with_interval(f1, count),
        **_calibration(truth, factual),
        "confusion": {
            true: {given: int(cells[:, 2 * i + j].sum()) for j, given in enumerate(TYPES)}
            for i, true in enumerate(TYPES)
        },
    }
    if classifier is not None:
        more = _resampled(_cells(truth, classifier), cluster, weights)[1] - f1
        result["classifier_more"] = _with_interval(more, count)
    return result


def _cells(truth: Sequence[str], factual: Any) -> Any:
    """One row per question with a 1 in the confusion matrix's cell that it falls in: true type × given type."""
    import numpy as np

    true = np.array([TYPES.index(t) for t in truth])
    given = (np.asarray(factual) >= 0.5).astype(int)
    return np.eye(4)[2 * true + given]


def _weights(clusters: int) -> Any:
    """How often each cluster is in each resample, shape (1 + resamples, clusters); the first row is the data itself."""
    import numpy as np

    drawn = np.random.default_rng(0).multinomial(clusters, np.full(clusters, 1 / clusters), _RESAMPLES)
    return np.vstack([np.ones(clusters), drawn])


def _resampled(cells: Any, cluster: Any, weights: Any) -> tuple[Any, Any]:
    """Accuracy and macro-F1 of the data, and of each resample."""
    import numpy as np

    summed = np.zeros((weights.shape[1], 4))
    np.add.at(summed, cluster, cells)
    right0, wrong0, wrong1, right1 = (weights @ summed).T
    wrong = wrong0 + wrong1

    def f1(right: Any) -> Any:
        return np.divide(2 * right, 2 * right + wrong, out=np.zeros_like(right), where=2 * right + wrong > 0)

    return (right0 + right1) / (right0 + right1 + wrong), (f1(right0) + f1(right1)) / 2


def _with_interval(values: Any, clusters: int) -> dict[str, float | None]:
    import numpy as np

    if clusters == 1:
        return {"value": float(values[0]), "low": None, "high": None}
    low, high = np.quantile(values[1:], [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def _calibration(truth: Sequence[str], factual: Any) -> dict[str, Any]:
    """The expected calibration error over BINS bins of equal width of the given type's probability, and the bins.

    ECE = sum over bins of n_b / n * |accuracy_b - mean probability_b| (Guo et al. 2017).
    """
    import numpy as np

    factual = np.asarray(factual, dtype=float)
    sure = np.where(factual >= 0.5, factual, 1 - factual)
    right = (factual >= 0.5) == np.array([t == "factual" for t in truth])
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    reliability = [
        {
            "from": b / BINS,
            "to": (b + 1) / BINS,
            "n": int((bins == b).sum()),
            "probability": float(sure[bins == b].mean()),
            "accuracy": float(right[bins == b].mean()),
        }
        for b in range(BINS)
        if (bins == b).any()
    ]
    ece = sum(row["n"] * abs(row["accuracy"] - row["probability"]) for row in reliability) / len(sure)
    return {"ece": float(ece), "reliability": reliability}


def markdown(evaluation: dict[str, Any]) -> str:
    """Return the evaluation as a page: a table for each set of rows, then the classifier's calibration and errors."""
    lines = [f"# Conceptual or factual: {evaluation['dataset']}", ""]
    for part in evaluation["sets"]:
        lines += [f"## {part['title']}", "", part["text"], ""]
        lines += ["| | accuracy | macro-F1 | classifier's macro-F1 less this | ECE |", "|---|---:|---:|---:|---:|"]
        for name, row in part["methods"].items():
            cells = [_range(row["accuracy"]), _range(row["macro_f1"])]
            cells += [_range(row["classifier_more"], "+.2f") if "classifier_more" in row else "", f"{row['ece']:.2f}"]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        best = part["methods"]["classifier"]
        lines += ["", f"| classifier: true type | {' | '.join(TYPES)} |", "|---|---:|---:|"]
        lines += [f"| {t} | {' | '.join(str(best['confusion'][t][g]) for g in TYPES)} |" for t in TYPES]
        lines += ["", "| classifier's probability | n | mean | accuracy |", "|---|---:|---:|---:|"]
        lines += [
            f"| {b['from']:.1f} to {b['to']:.1f} | {b['n']} | {b['probability']:.2f} | {b['accuracy']:.2f} |"
            for b in best["reliability"]
        ]
        lines += ["", "Labelled wrongly, the surest first:", ""]
        lines += [f"- {e['given']} ({e['probability']:.2f}), is {e['true']}: {e['question']}" for e in part["errors"]]
        lines += [""]
    return "\n".join(lines).rstrip("\n") + "\n"


def errors(questions: Sequence[str], truth: Sequence[str], factual: Any, limit: int = 10) -> list[dict[str, Any]]:
    """Return the questions that were labelled wrongly, the surest first."""
    wrong: list[dict[str, Any]] = []
    for question, true, p in zip(questions, truth, map(float, factual), strict=True):
        given, sure = ("factual", p) if p >= 0.5 else ("conceptual", 1 - p)
        if given != true:
            wrong.append({"question": question, "true": true, "given": given, "probability": sure})
    return sorted(wrong, key=lambda e: -e["probability"])[:limit]


def _range(value: dict[str, float | None], form: str = ".2f") -> str:
    if value["low"] is None:
        return f"{value['value']:{form}}"
    return f"{value['value']:{form}} [{value['low']:{form}}, {value['high']:{form}}]"
