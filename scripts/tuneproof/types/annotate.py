"""Annotate: an LLM says of a question, and its answer where there is one, whether it is conceptual or factual.

Nothing is written: the reply is the distribution over two words, so that a small model can neither ramble nor be
talked into another shape by what it reads, and its doubt is kept. Small models lean to one of the words whatever they
read. What one says of no question at all is that leaning, and can be divided out (contextual calibration, Zhao et al.
2021).
"""

from __future__ import annotations

from collections.abc import Sequence

from tuneproof.errors import InputError
from tuneproof.llm.calls import Request, choice_of
from tuneproof.llm.client import Answered
from tuneproof.records import Annotation

TYPES = ("conceptual", "factual")
GAPS = {"pair"}
_LEAST = 0.01  # of a leaning: one that is nearly certain may not decide everything
# Qwen 1.5B tells the types apart by these words (AUC 0.92 on 60 questions that people have sorted), hardly by letters.
_WORDS = {f" {name}": name for name in TYPES}
_PREFILL = "The question is"
_NO_QUESTION = "N/A"


def requests(texts: Sequence[tuple[str, str]], template: str, calibrated: bool) -> list[Request]:
    """Return one request per (question, answer), an empty answer left out; before them one of no question."""
    asked = [(_NO_QUESTION, ""), *texts] if calibrated else texts
    return [
        Request(
            [{"role": "user", "content": template.format(pair=_shown(question, answer))}],
            max_tokens=1,
            prefill=_PREFILL,
            choices=list(_WORDS),
        )
        for question, answer in asked
    ]


def annotations_from(ids: Sequence[str], answered: Sequence[Answered], calibrated: bool) -> list[Annotation]:
    """Return one row for each reply that gives a type; raise InputError where none does, or where none is expected.

    Of an endpoint without probabilities what it says counts whole.
    """
    shares = [_shares(reply) for reply in answered]
    leaning = shares.pop(0) if calibrated else dict.fromkeys(TYPES, 0.5)
    rows = []
    for row_id, share, reply in zip(ids, shares, answered[len(answered) - len(ids) :], strict=True):
        if share and leaning:
            weights = {t: share[t] / max(leaning[t], _LEAST) for t in TYPES}
            share = {t: weight / sum(weights.values()) for t, weight in weights.items()}
            rows.append(Annotation(row_id, max(TYPES, key=share.__getitem__), share, reply.call_id))
    if not rows:
        raise InputError(f"annotate types: none of {len(ids)} replies gives a type, expected conceptual or factual")
    return rows


def _shares(answered: Answered) -> dict[str, float]:
    """The probability of each type; empty where the reply is neither."""
    reply = answered.reply
    if reply.distribution:
        return {name: reply.distribution[word] for word, name in _WORDS.items()}
    said = choice_of(reply.text.casefold(), list(_WORDS))
    return {name: float(word == said) for word, name in _WORDS.items()} if said else {}


def _shown(question: str, answer: str) -> str:
    # the end of the data is for the prompt to say
    lines = [f"Question: {question}", *([f"Answer: {answer}"] if answer else [])]
    return "\n".join(lines).replace("</pair>", "")
