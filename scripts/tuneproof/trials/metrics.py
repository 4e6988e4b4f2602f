"""Metrics that need no judge, of an answer against the best of its references: what a judge has to beat.

All lie between 0 and 1, or nearly so, and the higher, the more alike.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuneproof.scores.bertscore import BertScore
from tuneproof.trials.evouna import JudgedAnswer

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Return a text as SQuAD compares it: lower case, without punctuation and articles (Rajpurkar et al. 2016)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def string_match(text: str, references: Sequence[str]) -> float:
    """Return 1.0 where the normalised answer holds one of the normalised references as whole words, else 0.0."""
    padded = f" {normalised(text)} "
    return float(any(words in padded for r in references if (words := f" {normalised(r)} ").strip()))


def rouge_l(rows: Sequence[JudgedAnswer]) -> dict[str, list[float]]:
    """Return ROUGE-L's F and recall (rouge_score, with stems). References are short: recall forgives a long answer."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    scored = [[scorer.score(reference, row.text)["rougeL"] for reference in row.references] for row in rows]
    return {
        "rouge_l": [max(s.fmeasure for s in each) for each in scored],
        "rouge_l_recall": [max(s.recall for s in each) for each in scored],
    }


def cosine(rows: Sequence[JudgedAnswer], encoder: Any) -> list[float]:
    """Return the cosine of the answer's embedding and the reference's; `encoder` is a corpus.index.Encoder."""
    texts = list(dict.fromkeys(text for row in rows for text in (row.text, *row.references)))
    place = {text: i for i, text in enumerate(texts)}
    vectors = encoder.embed(texts, "embed answers")
    return [
        max(float(vectors[place[row.text]] @ vectors[place[reference]]) for reference in row.references) for row in rows
    ]


def bertscore(rows: Sequence[JudgedAnswer], lock: Path, layer: int) -> list[float]:
    """Return BERTScore's F against the best reference, with a layer of the encoder whose lock it is."""
    scored = BertScore(lock, layer).score([row.text for row in rows], [list(row.references) for row in rows])
    return [values["bertscore_best"] for values in scored]
