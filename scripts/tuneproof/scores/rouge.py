"""ROUGE-1, 2, L and Lsum (Lin 2004) as the rouge_score package computes them, with sentences split before Lsum.

rouge_score takes only line ends for ends of sentences, so that on texts of one line Lsum is L. Here a sentence ends at
a line's end, and where Punkt (Kiss and Strunk 2006, nltk) finds its end without a trained model: nothing is downloaded,
and only the few abbreviations below are known. Words are rouge_score's own: lower case, a to z and digits.
"""

from __future__ import annotations

import functools
from typing import Any

# rouge_score's name -> ours
KINDS = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l", "rougeLsum": "rouge_lsum"}
ROUGE = tuple(f"{name}{best}{part}" for best in ("", "_best") for name in KINDS.values() for part in ("", "_p", "_r"))
_ABBREVIATIONS = frozenset("dr mr mrs ms prof st vs etc e.g i.e no approx inc ltd co u.s u.k a.m p.m".split())


def rouge(text: str, references: list[str], use_stemmer: bool = True) -> dict[str, float]:
    """Return F (no suffix), P and R of each kind of ROUGE, 0 to 1, against the first reference.

    `_best`: against the reference whose F is the highest, kind by kind, as rouge_score's `score_multi` chooses it.
    """
    scorer = _scorer(use_stemmer)
    prediction, targets = lines(text), [lines(reference) for reference in references]
    found = {"": scorer.score(targets[0], prediction), "_best": scorer.score_multi(targets, prediction)}
    return {
        f"{name}{best}{suffix}": float(getattr(scores[kind], part))
        for best, scores in found.items()
        for kind, name in KINDS.items()
        for suffix, part in (("", "fmeasure"), ("_p", "precision"), ("_r", "recall"))
    }


def lines(text: str) -> str:
    """Return a text with one sentence a line."""
    return "\n".join(sentence for line in text.splitlines() for sentence in _splitter().tokenize(line))


@functools.cache
def _scorer(use_stemmer: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(KINDS), use_stemmer=use_stemmer)


@functools.cache
def _splitter() -> Any:
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS)
    return PunktSentenceTokenizer(parameters)
