"""Means with intervals, and paired differences with intervals.

Questions about one page share its facts and its difficulty, so pages are resampled, not questions (Cameron, Gelbach
and Miller 2008 on clustered data; percentile bootstrap, Efron 1981).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_LEVEL = 0.95
_BLOCK = 1000


@dataclass(frozen=True)
class Estimate:
    """A mean over n values with its 95 % interval; sd is the sample's standard deviation. None where n is 0."""

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None


def estimate(values: list[float], pages: list[str], resamples: int, seed: int = 0) -> Estimate:
    """Return mean, sd and bootstrap interval of `values`, whose clusters are `pages`. One page gives no interval."""
    if not values:
        return Estimate(0, None, None, None, None)
    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    sd = float(data.std(ddof=1)) if len(data) > 1 else None
    _, cluster = np.unique(np.asarray(pages), return_inverse=True)
    sums = np.bincount(cluster, weights=data)
    counts = np.bincount(cluster).astype(float)
    if len(counts) < 2:
        return Estimate(len(data), mean, sd, None, None)
    low, high = np.quantile(_resampled_means(sums, counts, resamples, seed), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Estimate(len(data), mean, sd, float(low), float(high))


def _resampled_means(sums: Any, counts: Any, resamples: int, seed: int) -> Any:
    random = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, _BLOCK):  # in blocks: memory does not grow with the number of resamples
        rows = random.integers(0, len(counts), (min(_BLOCK, resamples - start), len(counts)))
        means.append(sums[rows].sum(1) / counts[rows].sum(1))
    return np.concatenate(means)
