"""Means and paired differences over questions clustered by page and, where there are several, over seeds.

Questions about one page share its facts and its difficulty, so what counts is the number of pages, and that is often
small. Intervals are Student's t with the cluster-robust variance CR2 and the degrees of freedom that fit it: with 8 to
60 pages they cover 95 times in 100 where the percentile bootstrap by page covers 87 to 95 (docs/statistics.md has the
simulation). Interval and p are of one distribution, so that the interval excludes zero exactly where p < 0.05.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy import optimize, special, stats

LEVEL = 0.95
POWER = 0.8
# two know so little of a third that an interval over them misses (docs/statistics.md)
FEWEST_SEEDS = 3
_BLOCK = 1000
# more pages than this many times those of the study, and a wished-for difference is out of reach
_REACH = 1e4


@dataclass(frozen=True)
class Estimate:
    """A mean over n values with its 95 % interval; sd is the sample's standard deviation. None where n is 0."""

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """A mean paired difference over n questions, in the metric's own unit; None where it cannot be told.

    `p` is of the t-test behind the interval, `p_permutation` of sign flips by page (of one seed only). `d_z` is the
    difference over the standard deviation of the differences, `d_av` over the two arms' root mean square standard
    deviation, which does not grow with their correlation (Lakens 2013). `design_effect` is the variance of the mean
    over what it would be were the questions independent. `detectable` is the smallest true difference that this many
    pages and this variance show in 80 % of studies, `questions_needed` the number of questions, as many a page as here,
    that show the wished-for one so often.
    """

    n: int
    pages: int = 0
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_permutation: float | None = None
    d_z: float | None = None
    d_av: float | None = None
    design_effect: float | None = None
    detectable: float | None = None
    questions_needed: int | None = None


@dataclass(frozen=True)
class Mean:
    """A mean with the two parts of its variance and their degrees of freedom: pages, and seeds (0 for one seed)."""

    value: float
    by_page: float
    page_dof: float
    by_seed: float = 0.0
    seed_dof: float = 1.0

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(self.by_page + self.by_seed)

    @property
    def dof(self) -> float:
        """Degrees of freedom of the sum of both parts (Welch 1947, Satterthwaite 1946)."""
        return float(satterthwaite(self.by_page, self.page_dof, self.by_seed, self.seed_dof))

    def with_pages(self, times: float) -> Mean:
        """Return what the mean of a study with so many times the pages, and the same seeds, could be."""
        return Mean(self.value, self.by_page / times, (self.page_dof + 1) * times - 1, self.by_seed, self.seed_dof)


def satterthwaite(a: Any, dof_a: Any, b: Any, dof_b: Any) -> Any:
    """Return the degrees of freedom of the sum of two independent estimates of variance; arrays broadcast."""
    total = np.asarray(a + b)
    return np.divide(total**2, a**2 / dof_a + b**2 / dof_b, out=np.ones_like(total), where=total > 0)


def cluster_variance(sums: Any, counts: Any, squares: Any) -> tuple[Any, Any, Any]:
    """Return the mean, the CR2 variance of the mean, and its degrees of freedom.

    All three arguments have the shape (..., clusters): the sum of each cluster's values, their number (0 for a cluster
    that is not there) and the sum of their squares; studies are vectorised over the leading axes. Two clusters with
    values are the least.

    CR2 (Bell and McCaffrey 2002) divides each cluster's residual by sqrt(1 - its share of the values), which makes the
    variance unbiased for independent values. The degrees of freedom are Satterthwaite's under a random effect of the
    cluster, with the correlation within clusters estimated by analysis of variance (Imbens and Kolesár 2016):
    tr(M)^2 / tr(M^2), where M is the covariance of the clusters' adjusted residuals; for a mean a diagonal plus a
    matrix of rank two, so that M itself is never made.
    """
    n = counts.sum(-1, keepdims=True)
    mean = sums.sum(-1, keepdims=True) / n
    share = counts / n
    c = 1 / np.sqrt(1 - share)
    variance = ((c * (sums - mean * counts)) ** 2).sum(-1) / n[..., 0] ** 2

    d = counts * (1 + (counts - 1) * _correlation(sums, counts, squares)[..., None])
    total = d.sum(-1)
    b, e = c * d, c * share
    ee, bb, eb = (e * e).sum(-1), (b * b).sum(-1), (e * b).sum(-1)
    diagonal = c * b
    k = -2 * e * b + total[..., None] * e * e
    trace = (diagonal + k).sum(-1)
    of_k = 2 * ee * bb + 2 * eb**2 - 4 * total * eb * ee + (total * ee) ** 2
    return mean[..., 0], variance, trace**2 / ((diagonal**2 + 2 * diagonal * k).sum(-1) + of_k)


def _correlation(sums: Any, counts: Any, squares: Any) -> Any:
    """The correlation within clusters by one-way analysis of variance, 0 to 1; 0 where no cluster has two values."""
    n = counts.sum(-1)
    clusters = (counts > 0).sum(-1)
    per_cluster = np.divide(sums**2, counts, out=np.zeros_like(sums, dtype=float), where=counts > 0).sum(-1)
    between = (per_cluster - sums.sum(-1) ** 2 / n) / (clusters - 1)
    inside = n - clusters
    within = np.divide(squares.sum(-1) - per_cluster, inside, out=np.zeros_like(between), where=inside > 0)
    size = (n - (counts**2).sum(-1) / n) / (clusters - 1)
    spread = between + (size - 1) * within
    found = np.divide(between - within, spread, out=np.zeros_like(between), where=spread > 0)
    return np.clip(np.where(inside > 0, found, 0.0), 0, 1)


def mean_of(values: Any, pages: Sequence[str]) -> Mean | None:
    """Return the mean of values of the shape (seeds, questions) with its variance by page and by seed.

    The values are averaged over the seeds question by question; to the variance by page of that average comes the
    variance of the seeds' means over the number of seeds. Both contain what a page and a seed do together, so the sum
    is a little too large rather than too small. None for fewer than two pages.
    """
    data = np.atleast_2d(np.asarray(values, dtype=float))
    average = data.mean(0)
    sums, counts, squares = _by_page(average, pages)
    if len(counts) < 2:
        return None
    # what is left of equal values is rounding, and no variance
    mean, by_page, dof = (float(v) for v in cluster_variance(sums, counts, squares))
    by_page = 0.0 if by_page < (1e-12 * np.abs(average).max()) ** 2 else by_page
    if len(data) == 1:
        return Mean(mean, by_page, dof)
    return Mean(mean, by_page, dof, float(data.mean(1).var(ddof=1)) / len(data), len(data) - 1)


def _by_page(values: Any, pages: Sequence[str]) -> tuple[Any, Any, Any]:
    _, page = np.unique(np.asarray(pages), return_inverse=True)
    return np.bincount(page, values), np.bincount(page).astype(float), np.bincount(page, values**2)


def estimate(values: Any, pages: Sequence[str], scale: tuple[float, float] | None = None) -> Estimate:
    """Return mean, sd and interval of values of the shape (questions) or (seeds, questions).

    `pages` names each question's page; one page gives no interval. `scale` holds the least and the greatest value that
    the metric can have; without one, equal values give an interval without width.
    """
    data = np.atleast_2d(np.asarray(values, dtype=float))
    n = data.shape[1]
    if not n:
        return Estimate(0, None, None, None, None)
    sd = float(data.std(axis=1, ddof=1).mean()) if n > 1 else None
    found = mean_of(data, pages)
    low, high = _interval(found, scale, scale, len(set(pages))) if found else (None, None)
    return Estimate(n, float(data.mean()), sd, low, high)


def _interval(
    mean: Mean, scale: tuple[float, float] | None, ends: tuple[float, float] | None, pages: int
) -> tuple[float, float]:
    """The t-interval, on the logit scale where there is a `scale`; where nothing varies, by the values' `ends`."""
    if mean.error == 0 and ends:
        low, high = unvarying_interval(mean.value, pages, ends)
    else:
        low, high = t_interval(mean.value, mean.error, mean.dof, scale)
    return float(low), float(high)


def compare(
    ours: Any,
    theirs: Any,
    pages: Sequence[str],
    flips: int,
    scale: tuple[float, float] | None = None,
    wished: float | None = None,
    seed: int = 0,
) -> Difference:
    """Compare two arms on the same questions.

    `ours` and `theirs` have the shape (questions) or (seeds, questions), as many seeds where both have several; `pages`
    names each question's page. `flips` is the number of sign flips behind `p_permutation`, `scale` as for `estimate`,
    `wished` the true difference that `questions_needed` is for, in the metric's unit. One page gives a mean and nothing
    else.
    """
    ours = np.atleast_2d(np.asarray(ours, dtype=float))
    theirs = np.atleast_2d(np.asarray(theirs, dtype=float))
    n = ours.shape[1]
    if not n:
        return Difference(0)
    each = ours - theirs
    average = each.mean(0)
    found = mean_of(each, pages)
    sums, counts, _ = _by_page(average, pages)
    if found is None:
        return Difference(n, len(counts), float(average.mean()))
    width = scale[1] - scale[0] if scale else 0.0
    low: float | None
    high: float | None
    low, high = _interval(found, None, (-width, width) if scale else None, len(counts))
    if scale:  # no difference is beyond the ends of the scale
        low, high = max(low, -width), min(high, width)
    elif not found.error:  # nothing varies, and no scale says how far pages that were not seen could lie
        low = high = None
    single = len(each) == 1
    permutation = float(permutation_p(sums, counts, flips, seed)) if single else None
    spread = float(average.std(ddof=1))
    arms = math.sqrt((float(ours.var(axis=1, ddof=1).mean()) + float(theirs.var(axis=1, ddof=1).mean())) / 2)
    varies = found.error > 0
    least = 1e-9 * float(np.abs(theirs).max())  # below is rounding
    return Difference(
        n,
        len(counts),
        found.value,
        low,
        high,
        # without any variance there is no t; the flips then know only how many pages there are
        p=float(t_test(found.value, found.error, found.dof)) if varies else permutation,
        p_permutation=permutation,
        d_z=found.value / spread if varies and spread else None,
        d_av=found.value / arms if arms > least else None,
        design_effect=found.error**2 * n / spread**2 if varies and spread else None,
        detectable=detectable(found) if varies else None,
        questions_needed=questions_needed(found, n, wished) if varies and wished else None,
    )


def t_interval(mean: Any, error: Any, dof: Any, scale: tuple[float, float] | None = None) -> tuple[Any, Any]:
    """Return the ends of the 95 % t-interval; arrays broadcast.

    On a scale that ends, scores are skewed towards its middle, and the interval is made on the logit scale, with the
    error by the delta method, as surveys do for shares (Korn and Graubard 1998): it stays within the scale and reaches
    further towards its middle.
    """
    half = np.where(error > 0, special.stdtrit(dof, (1 + LEVEL) / 2) * error, 0.0)
    if scale is None:
        return mean - half, mean + half
    least, width = scale[0], scale[1] - scale[0]
    share = (mean - least) / width
    inside = np.where(error > 0, share * (1 - share), 1.0)
    half = half / width / inside
    centre = special.logit(share)
    return least + width * special.expit(centre - half), least + width * special.expit(centre + half)


def unvarying_interval(value: Any, pages: Any, scale: tuple[float, float]) -> tuple[Any, Any]:
    """Return the ends of the 95 % interval of a mean to which all pages contribute the same; arrays broadcast.

    That none of so many pages differs says with 97.5 % confidence that no more than 1 - 0.025^(1 / pages) of all pages
    do (Clopper and Pearson 1934), by no more than the scale has room for.
    """
    others = 1 - ((1 - LEVEL) / 2) ** (1 / pages)
    return value - others * (value - scale[0]), value + others * (scale[1] - value)


def t_test(value: Any, error: Any, dof: Any) -> Any:
    """Return the two-sided p of Student's t; arrays broadcast."""
    return 2 * special.stdtr(dof, -np.abs(value) / error)


def permutation_p(sums: Any, counts: Any, flips: int, seed: int = 0) -> Any:
    """Return the two-sided p of a paired permutation test by page.

    `sums` and `counts`, of the shape (..., pages), hold each page's sum of differences and number of questions. Were
    two arms alike, their names could be exchanged on any page, which turns the sign of its differences; p is the share
    of such flips with a t at least as large. All 2^pages flips are taken where they are no more than `flips`, else so
    many random ones, the data themselves among them (Phipson and Smyth 2010). The statistic is studentised, which keeps
    the test's level where the arms differ in more than their means (Janssen 1997). p is never below 2^(1 - pages).
    """
    pages = sums.shape[-1]
    observed = _flipped_t(np.ones((1, pages)), sums, counts)
    as_large, total = np.zeros(sums.shape[:-1]), 0
    for signs in _flips(pages, flips, seed):
        as_large += (_flipped_t(signs, sums, counts) >= observed * (1 - 1e-9)).sum(-1)
        total += len(signs)
    return as_large / total


def _flips(pages: int, flips: int, seed: int) -> Iterator[Any]:
    """Signs of the shape (flips, pages), in blocks: memory does not grow with their number."""
    if 2**pages <= flips:
        bits = np.arange(2**pages)[:, None] >> np.arange(pages)
        yield 1.0 - 2.0 * (bits & 1)
        return
    yield np.ones((1, pages))
    random = np.random.default_rng(seed)
    for start in range(1, flips, _BLOCK):
        yield 1.0 - 2.0 * random.integers(0, 2, (min(_BLOCK, flips - start), pages))


def _flipped_t(signs: Any, sums: Any, counts: Any) -> Any:
    """The squared t after each row of signs but for a factor, shape (..., flips); 0 or infinite if nothing varies."""
    total = sums @ signs.T
    mean = total / counts.sum(-1, keepdims=True)
    squares = (sums**2).sum(-1, keepdims=True)
    variance = squares - 2 * mean * ((sums * counts) @ signs.T) + mean**2 * (counts**2).sum(-1, keepdims=True)
    rounding = 1e-12 * squares
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total**2 <= rounding, 0.0, mean**2 / np.where(variance <= rounding, 0.0, variance))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p-values (Holm 1979); None is no test and stays None.

    The k-th smallest of m is multiplied by m - k + 1, and none may be below one that is smaller.
    """
    order = sorted((value, i) for i, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    largest = 0.0
    for rank, (value, i) in enumerate(order):
        largest = max(largest, min(1.0, value * (len(order) - rank)))
        adjusted[i] = largest
    return adjusted


def power(ratio: float, dof: float) -> float:
    """Return the power of the two-sided 5 % t-test for a true difference of `ratio` standard errors."""
    critical = float(special.stdtrit(dof, (1 + LEVEL) / 2))
    # the far tail: scipy gives NaN where it is nothing
    wrong_side = np.nan_to_num(stats.nct.cdf(-critical, dof, ratio))
    return float(stats.nct.sf(critical, dof, ratio) + wrong_side)


def detectable(mean: Mean) -> float:
    """Return the smallest true difference that is shown with 80 % power, given the mean's error."""
    return _ratio(round(mean.dof, 3)) * mean.error


@cache
def _ratio(dof: float) -> float:
    """Standard errors that a true difference must have for 80 % power."""
    return float(optimize.brentq(lambda ratio: power(ratio, dof) - POWER, 0.1, 100.0, xtol=1e-6))


def questions_needed(mean: Mean, n: int, wished: float) -> int | None:
    """Return how many questions show a true difference of `wished` with 80 % power; None where no number does.

    Questions come with pages, as many a page as the n behind `mean`; more pages do not make the seeds agree, so where
    these alone differ too much only more seeds would help.
    """

    def short(log_times: float) -> float:
        more = mean.with_pages(math.exp(log_times))
        return power(min(wished / more.error, 100.0), more.dof) - POWER

    # fewer than two pages have no variance
    least, most = math.log(2 / (mean.page_dof + 1)), math.log(_REACH)
    if short(most) < 0:
        return None
    times = math.exp(least) if short(least) >= 0 else math.exp(float(optimize.brentq(short, least, most, xtol=1e-4)))
    return math.ceil(times * n)
