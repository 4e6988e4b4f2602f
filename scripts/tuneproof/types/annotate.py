"""Annotate: an LLM says of a question, and its answer where there is one, whether it is conceptual or factual.

Nothing is written: the reply is the distribution over two letters, so that a small model can neither ramble nor be
talked into another shape by what it reads, and its doubt is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from tuneproof.errors import InputError
from tuneproof.llm.calls import Request
from tuneproof.llm.client import Answered
from tuneproof.records import Annotation

TYPES = ("conceptual", "factual")
GAPS = {"pair"}
_LETTERS = {"C": "conceptual", "F": "factual"}


def requests(texts: Sequence[tuple[str, str]], template: str) -> list[Request]:
    """Return one request per (question, answer); an empty answer is left out."""
    return [
        Request(
            [{"role": "user", "content": template.format(pair=_shown(question, answer))}],
            max_tokens=1,
            choices=list(_LETTERS),
        )
        for question, answer in texts
    ]


def annotations_from(ids: Sequence[str], answered: Sequence[Answered]) -> list[Annotation]:
    """Return one row for each reply that has a distribution; raise InputError where none has."""
    rows = []
    for row_id, reply in zip(ids, answered, strict=True):
        if letters := reply.reply.distribution:
            shares = {_LETTERS[letter]: share for letter, share in letters.items()}
            rows.append(Annotation(row_id, max(TYPES, key=shares.__getitem__), shares, reply.call_id))
    if ids and not rows:
        raise InputError(f"annotate types: none of {len(ids)} replies gives C or F, expected probabilities of both")
    return rows


def _shown(question: str, answer: str) -> str:
    # the end of the data is for the prompt to say
    lines = [f"Question: {question}", *([f"Answer: {answer}"] if answer else [])]
    return "\n".join(lines).replace("</pair>", "")
