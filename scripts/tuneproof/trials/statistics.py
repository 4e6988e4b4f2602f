"""How well a score tells correct answers from wrong ones: AUC, Cohen's kappa and calibration, with intervals.

The answers to one question share its difficulty, so questions are resampled, not answers (percentile bootstrap). All
methods are resampled with the same draws: a difference between two of them is paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_LEVEL = 0.95
BINS = 10


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Bin:
    """Answers whose score lies in one bin: how many, their mean score and the share of them that is correct."""

    low: float
    high: float
    n: int
    score: float
    correct: float


def draws(questions: int, resamples: int, seed: int = 0) -> Any:
    """Return how often each question is drawn in each resample: integers of shape (resamples, questions)."""
    return np.random.default_rng(seed).multinomial(questions, np.full(questions, 1 / questions), size=resamples)


class Auc:
    """The area under the ROC curve of scores, for any weights of the questions.

    It is the share of pairs of a correct and a wrong answer in which the correct one has the higher score, a tie
    counting half (Mann and Whitney 1947). `questions` numbers each answer's question, from 0 to `n` - 1. A question
    drawn twice counts twice in all pairs, so the sums over the pairs of each two questions are enough for every
    resample.
    """

    def __init__(self, scores: Sequence[float], correct: Sequence[bool], questions: Sequence[int], n: int) -> None:
        s, right, q = np.asarray(scores, float), np.asarray(correct, bool), np.asarray(questions, int)
        won = (s[right][:, None] > s[~right][None, :]) + 0.5 * (s[right][:, None] == s[~right][None, :])
        by_question = np.eye(n)
        self._won = by_question[q[right]].T @ won @ by_question[q[~right]]
        self._right, self._wrong = (np.bincount(q[kind], minlength=n) for kind in (right, ~right))

    def of(self, weights: Any) -> Any:
        """Return the AUC for each row of weights, of shape (…, n); NaN where either kind of answer is missing."""
        pairs = (weights @ self._right) * (weights @ self._wrong)
        won = ((weights @ self._won) * weights).sum(-1)
        return np.divide(won, pairs, out=np.full(np.shape(pairs), np.nan), where=pairs > 0)


class Kappa:
    """Cohen's kappa (1960) between people and "score >= threshold", for any weights of the questions."""

    def __init__(
        self, scores: Sequence[float], correct: Sequence[bool], questions: Sequence[int], n: int, threshold: float
    ) -> None:
        said, right = np.asarray(scores, float) >= threshold, np.asarray(correct, bool)
        cells = [said & right, said & ~right, ~said & right, ~said & ~right]
        self._cells = np.stack([np.bincount(np.asarray(questions, int)[c], minlength=n) for c in cells], axis=1)

    def of(self, weights: Any) -> Any:
        """Return kappa for each row of weights, of shape (…, n); NaN where both say the same of all answers."""
        both, only_said, only_right, neither = np.moveaxis(weights @ self._cells, -1, 0)
        total = both + only_said + only_right + neither
        agreed = (both + neither) / total
        chance = ((both + only_said) * (both + only_right) + (only_right + neither) * (only_said + neither)) / total**2
        return np.divide(agreed - chance, 1 - chance, out=np.full(np.shape(total), np.nan), where=chance < 1)


class Brier:
    """The mean squared distance of probabilities from what people said (Brier 1950), for any weights of the questions.

    0 is perfect.
    """

    def __init__(
        self, probabilities: Sequence[float], correct: Sequence[bool], questions: Sequence[int], n: int
    ) -> None:
        q, apart = np.asarray(questions, int), np.asarray(probabilities, float) - np.asarray(correct, float)
        self._squares, self._answers = np.bincount(q, apart**2, n), np.bincount(q, minlength=n)

    def of(self, weights: Any) -> Any:
        """Return the score for each row of weights, of shape (…, n); NaN where no answer is drawn."""
        answers = weights @ self._answers
        return np.divide(weights @ self._squares, answers, out=np.full(np.shape(answers), np.nan), where=answers > 0)


class CalibrationError:
    """The expected calibration error (Naeini et al. 2015), for any weights of the questions.

    It is the mean over the bins of |mean probability - share correct|, each by its size. Chance adds to each bin and
    never cancels, in a resample once more than in the data, so that the percentiles of resamples lie too high, often
    above the truth and at times above the value. The interval's high end is theirs less what they have more on
    average; down it reaches as far as their high end is up. In simulated studies of 60 questions it covers an error of
    0.02 to 0.2 in 90 to 97 of 100, and one of 0 in 71 to 88, since the value itself is too high there.
    """

    def __init__(
        self, probabilities: Sequence[float], correct: Sequence[bool], questions: Sequence[int], n: int
    ) -> None:
        p, q = np.asarray(probabilities, float), np.asarray(questions, int)
        apart, place = p - np.asarray(correct, float), bin_of(p)
        self._apart = np.stack([np.bincount(q, apart * (place == i), n) for i in range(BINS)], axis=1)
        self._answers = np.bincount(q, minlength=n)

    def of(self, weights: Any) -> Any:
        """Return the error for each row of weights, of shape (…, n); NaN where no answer is drawn."""
        answers, apart = weights @ self._answers, np.abs(weights @ self._apart).sum(-1)
        return np.divide(apart, answers, out=np.full(np.shape(answers), np.nan), where=answers > 0)

    def interval(self, weights: Any) -> Interval:
        """Return the error with its interval, from resamples' weights."""
        value, drawn = float(self.of(np.ones(len(self._answers)))), self.of(weights)
        high = float(np.nanquantile(drawn, (1 + _LEVEL) / 2))
        return Interval(value, max(0.0, 2 * value - high), high - float(np.nanmean(drawn)) + value)


def interval(value: Any, resampled: Any) -> Interval:
    """Return a value with the percentile interval of its resamples; those in which it is not defined are left out."""
    value, resampled = float(value), resampled[~np.isnan(resampled)]
    if np.isnan(value) or not len(resampled):
        return Interval(None if np.isnan(value) else value, None, None)
    low, high = np.quantile(resampled, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(value, float(low), float(high))


def best_threshold(scores: Sequence[float], correct: Sequence[bool]) -> float:
    """Return the threshold with the highest kappa, half way between two scores that occur; of equals the lowest.

    Where all scores are the same, that score: everything passes.
    """
    seen = np.unique(np.asarray(scores, float))
    cuts: list[float] = [float(seen[0]), *((seen[1:] + seen[:-1]) / 2).tolist()]
    alone, one = [0] * len(scores), np.ones(1)
    kappas = [float(Kappa(scores, correct, alone, 1, cut).of(one)) for cut in cuts]
    return cuts[int(np.argmax(np.nan_to_num(kappas, nan=-1.0)))]


def reliability(probabilities: Sequence[float], correct: Sequence[bool]) -> list[Bin]:
    """Return the bins of a reliability diagram that hold an answer: ten of equal width from 0 to 1."""
    p, right = np.asarray(probabilities, float), np.asarray(correct, float)
    place = bin_of(p)
    return [
        Bin(i / BINS, (i + 1) / BINS, int(held.sum()), float(p[held].mean()), float(right[held].mean()))
        for i in range(BINS)
        if (held := place == i).any()
    ]


def bin_of(probabilities: Any) -> Any:
    """Return the numbers of the bins that probabilities lie in; 1 lies in the last."""
    return np.minimum((probabilities * BINS).astype(int), BINS - 1)
