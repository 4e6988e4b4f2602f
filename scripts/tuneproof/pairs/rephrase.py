"""Ask each question in several wordings: facts are learned from more than one, and one is held out for testing."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tuneproof.llm.calls import Request
from tuneproof.llm.client import Answered
from tuneproof.llm.prompts import fill
from tuneproof.pairs.screen import fault, names_in, words_in
from tuneproof.records import Pair, Phrasing

_TOKENS_PER_QUESTION = 60


class _Rephrased(BaseModel):
    model_config = ConfigDict(extra="forbid")
    questions: list[str]


SHAPE = _Rephrased  # what a reply must be. Its name and fields are part of the address of every stored call.


def requests(pairs: list[Pair], template: str, wordings: int) -> list[Request]:
    """Return one request per pair for `wordings` - 1 further wordings of its question, plus a spare."""
    schema = _Rephrased.model_json_schema()
    schema["properties"]["questions"].update(minItems=wordings, maxItems=wordings)
    return [
        Request(
            [{"role": "user", "content": fill(template, n=wordings, question=pair.question)}],
            max_tokens=wordings * _TOKENS_PER_QUESTION,
            schema=schema,
        )
        for pair in pairs
    ]


def phrasings_from(pairs: list[Pair], answered: list[Answered], texts: dict[str, str], wordings: int) -> list[Phrasing]:
    """Return the usable further wordings of each question, at most `wordings` - 1.

    Usable: it names exactly what the question names, differs from the other wordings, and passes the same checks as
    the question itself. `texts` maps chunk ids to their text.
    """
    phrasings = []
    for pair, answer in zip(pairs, answered, strict=True):
        # a question whose reply came to nothing keeps its one wording
        candidates = [] if answer.fault else _Rephrased.model_validate_json(answer.reply.text).questions
        seen = {_key(pair.question)}
        usable: list[str] = []
        for question in (c.strip() for c in candidates):
            other = Pair(pair.id, pair.chunk_id, pair.page_id, question, pair.answer, pair.quote, pair.call_id)
            same_names = names_in(pair.question) <= words_in(question) and names_in(question) <= words_in(pair.question)
            if same_names and _key(question) not in seen and fault(other, texts[pair.chunk_id]) is None:
                seen.add(_key(question))
                usable.append(question)
        phrasings.append(Phrasing(pair.id, usable[: wordings - 1], answer.call_id))
    return phrasings


def _key(question: str) -> str:
    return " ".join(sorted(question.casefold().rstrip("?").split()))
