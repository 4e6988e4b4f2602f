"""How far judges agree: Krippendorff's alpha over all of them, weighted kappa of each pair, with intervals by page.

Alpha takes scores as they are and uses their order alone. Kappa knows five categories, so that an expected score counts
as the nearest whole one; distances between categories are squared. Both are computed here for all weights of a
jackknife at once; the library for alpha is under the GPL besides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import special

from tuneproof.errors import InputError
from tuneproof.scores.statistics import LEVEL

Row = dict[str, Any]

ALL_ARMS = "all arms"
# answers by pages whose ranks are held in memory at once
_CELLS = 5_000_000


def agree(rows: Sequence[Row], marked: Mapping[str, bool]) -> list[Row]:
    """Return the agreement's rows for each data set and split: of all arms together, then of each arm.

    `rows` are the joined answers of `table.join`. The first row of each is alpha over all judges, then come the pairs'
    kappas. n counts the answers that at least two of the judges have scored, missing the others. The column `marked`
    names those of the judges that beat no metric on trial. Raises InputError where fewer than two judges have scored.
    """
    judges = sorted({judge for row in rows for judge in row["scores"]})
    if len(judges) < 2:
        raise InputError(f"scores by {len(judges)} judge(s) ({', '.join(judges)}): expected two or more to compare")
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for arm in (ALL_ARMS, None):
        for row in rows:
            groups.setdefault((row["dataset"], row["split"], arm or row["arm"]), []).append(row)
    table = []
    for (dataset, split, arm), members in groups.items():
        scores = np.array([[row["scores"].get(judge) for judge in judges] for row in members], dtype=float)
        pages = np.array([row["page_id"] for row in members])
        pairs = [(quadratic_kappa, "weighted_kappa", pair) for pair in combinations(range(len(judges)), 2)]
        for measure, name, who in ((ordinal_alpha, "krippendorff_alpha", tuple(range(len(judges)))), *pairs):
            chosen = scores[:, who]
            rated = (~np.isnan(chosen)).sum(1) >= 2
            value, low, high = by_page(measure, chosen[rated], pages[rated])
            table.append(
                {
                    "dataset": dataset,
                    "split": split,
                    "arm": arm,
                    "judges": ", ".join(judges[i] for i in who),
                    "measure": name,
                    "n": int(rated.sum()),
                    "missing": int((~rated).sum()),
                    "value": value,
                    "ci_low": low,
                    "ci_high": high,
                    "marked": ", ".join(judges[i] for i in who if marked.get(judges[i])),
                }
            )
    return sorted(table, key=lambda line: (line["dataset"], line["split"]))  # sorting is stable


def by_page(
    measure: Callable[[Any, Any], Any], scores: Any, pages: Sequence[str]
) -> tuple[float | None, float | None, float | None]:
    """Return a measure of agreement and its 95 % interval.

    `scores` has the shape (answers, judges), NaN where a judge gave none, two or more on each answer; `pages` names
    each answer's page. The interval is Student's t over the pseudo-values of a jackknife that leaves out one page after
    the other, on the scale of Fisher's z, which keeps it within -1 and 1 (Tukey 1958). With few pages a percentile
    bootstrap is too narrow (docs/statistics.md). None where the measure is not defined: no answers, or all scores the
    same. No interval for one page, where leaving out a page leaves nothing to compare, or where agreement is perfect.
    """
    names, page = np.unique(np.asarray(pages), return_inverse=True)
    if not len(names):
        return None, None, None
    everything = float(measure(scores, np.ones((1, len(page))))[0])
    if np.isnan(everything):
        return None, None, None
    if len(names) < 2 or everything >= 1:
        return everything, None, None
    block = max(1, _CELLS // scores.size)
    without = np.concatenate(
        [
            measure(scores, (page != np.arange(start, min(start + block, len(names)))[:, None]).astype(float))
            for start in range(0, len(names), block)
        ]
    )
    if np.isnan(without).any() or (without >= 1).any():
        return everything, None, None
    z = np.arctanh(everything)
    pseudo = len(names) * z - (len(names) - 1) * np.arctanh(without)
    half = special.stdtrit(len(names) - 1, (1 + LEVEL) / 2) * pseudo.std(ddof=1) / np.sqrt(len(names))
    return everything, float(np.tanh(z - half)), float(np.tanh(z + half))


def ordinal_alpha(scores: Any, weights: Any) -> Any:
    """Return Krippendorff's ordinal alpha for each row of weights.

    `scores` is as for `by_page`; `weights`, of the shape (rows, answers), says how often an answer counts. alpha =
    1 - D_o / D_e: the mean squared distance between the scores of one answer over that between all scores
    (Krippendorff 2004, ch. 11). The ordinal distance of two values is the number of scores between them, half of their
    own included: the difference of their mid-ranks among all scores. So scores are ranked, for every row anew, and the
    formula for intervals serves. NaN where all scores are the same.
    """
    answer, judge = np.nonzero(~np.isnan(scores))
    given = scores[answer, judge]
    order = np.argsort(given)
    _, value = np.unique(given, return_inverse=True)
    raters = np.bincount(answer)

    share = weights[:, answer]
    counts = _grouped(share[:, order], value[order])
    ranks = (np.cumsum(counts, axis=1) - counts / 2)[:, value]
    n = share.sum(1)
    between = raters * _grouped(ranks**2, answer) - _grouped(ranks, answer) ** 2
    observed = (weights * between / (raters - 1)).sum(1) / n
    expected = (n * (share * ranks**2).sum(1) - (share * ranks).sum(1) ** 2) / (n * (n - 1))
    return 1 - _ratio(observed, expected)


def quadratic_kappa(scores: Any, weights: Any) -> Any:
    """Return Cohen's kappa with quadratic weights of two judges for each row of weights; shapes as for alpha.

    kappa = 1 - the mean of (a - b)^2 over what it would be were the judges independent (Cohen 1968), both from the
    moments of a and b. NaN where both judges give one and the same score to all answers.
    """
    a, b = np.floor(scores + 0.5).T
    n = weights.sum(1)
    mean_a, mean_b, squares, product = (weights @ v / n for v in (a, b, a * a + b * b, a * b))
    return 1 - _ratio(squares - 2 * product, squares - 2 * mean_a * mean_b)


def _grouped(columns: Any, group: Any) -> Any:
    """Sums over the columns of each group, which stand together."""
    return np.add.reduceat(columns, np.flatnonzero(np.diff(group, prepend=-1)), axis=1)


def _ratio(observed: Any, expected: Any) -> Any:
    return np.divide(observed, expected, out=np.full(len(expected), np.nan), where=expected > 1e-9)
