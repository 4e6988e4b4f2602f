"""Annotate: an LLM says of a question whether it is conceptual or factual.

It is asked for the kind of answer, of five that are conceptual by the paper's definition and five that are factual, and
a type's probability is the sum over its kinds. Qwen 1.5B, asked for one of the two types at once, told 120 questions of
NF-CATS's valid.csv apart with AUC 0.83; asked for the kind, with 0.97.

Nothing is written: the reply is the distribution over ten words, so that a small model can neither ramble nor be talked
into another shape by what it reads, and its doubt is kept. It is shown the question alone, which is what both
definitions speak of.

Small models lean to some of the words whatever they read. What one says of no question at all is that leaning, and can
be divided out (contextual calibration, Zhao et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

from tuneproof.errors import InputError
from tuneproof.llm.calls import Request, choice_of
from tuneproof.llm.client import Answered
from tuneproof.llm.prompts import fill
from tuneproof.records import Annotation

TYPES = ("conceptual", "factual")
GAPS = {"question"}
_KINDS = {
    " definition": "conceptual",
    " reason": "conceptual",
    " method": "conceptual",
    " comparison": "conceptual",
    " description": "conceptual",
    " name": "factual",
    " number": "factual",
    " date": "factual",
    " place": "factual",
    " yes": "factual",
}
_PREFILL = "Kind:"
_NO_QUESTIONS = ["N/A", "[MASK]", "..."]
_LEAST = 0.01  # of a leaning: one that is nearly certain may not decide everything


def requests(questions: list[str], template: str, calibrated: bool) -> list[Request]:
    """Return one request per question; before them, those that ask about none."""
    asked = [*_NO_QUESTIONS, *questions] if calibrated else questions
    return [
        Request(
            # the end of the data is for the prompt to say
            [{"role": "user", "content": fill(template, question=question.replace("</pair>", ""))}],
            max_tokens=1,
            prefill=_PREFILL,
            choices=list(_KINDS),
        )
        for question in asked
    ]


def annotations_from(ids: Sequence[str], answered: Sequence[Answered]) -> list[Annotation]:
    """Return one row for each reply that gives a type; raise InputError where none does.

    The replies to no question, where there are any, stand before the others. Of an endpoint without probabilities
    what it says counts whole.
    """
    before = len(answered) - len(ids)
    of_none = [share for reply in answered[:before] if (share := _shares(reply))]
    leaning = {t: max(_LEAST, sum(s[t] for s in of_none) / len(of_none)) if of_none else 0.5 for t in TYPES}
    rows = []
    for row_id, reply in zip(ids, answered[before:], strict=True):
        if share := _shares(reply):
            weights = {t: share[t] / leaning[t] for t in TYPES}
            share = {t: weight / sum(weights.values()) for t, weight in weights.items()}
            rows.append(Annotation(row_id, max(TYPES, key=share.__getitem__), share, reply.call_id))
    if not rows:
        raise InputError(f"annotate types: none of {len(ids)} replies gives a type, expected conceptual or factual")
    return rows


def _shares(answered: Answered) -> dict[str, float]:
    """The probability of each type; empty where the reply is none of the kinds."""
    reply = answered.reply
    said = choice_of(reply.text.casefold(), list(_KINDS))
    kinds = reply.distribution or ({said: 1.0} if said else {})
    shares = {name: sum(share for kind, share in kinds.items() if _KINDS[kind] == name) for name in TYPES}
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()} if total else {}
