"""Call transcript to next steps: an LLM writes a call about a chunk's subject and what was agreed in it.

Customer and salesperson alternate by the shape of the reply, not by its goodwill. The paper gives an example of a
transcript and its next steps and leaves open where its transcripts come from.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tuneproof.instructions.grounds import careless, copied, invented, supported
from tuneproof.instructions.products import prose, title_of
from tuneproof.llm.calls import Request
from tuneproof.records import Chunk, content_id

# Who calls. A chunk is asked about once for each of them at the most, so that its calls differ.
CUSTOMERS = (
    "runs a small web shop",
    "manages the IT of a hospital",
    "plans the network of a bank",
    "has founded a company that trains models",
    "buys for a public authority",
    "operates a streaming service",
    "is responsible for disaster recovery at an insurer",
    "advises other companies on their move to new premises",
)
_MAX_TOKENS = 900
_LEAST_WORDS = 40
# Share of the content words that must stand in the sources: steps repeat the call, the salesperson rewords the page.
_GROUNDED_STEPS = 0.5
_GROUNDED_SALES = 0.3
_LABEL = re.compile(r"\b(?:Customer|Sales|Salesperson)\s*:", re.IGNORECASE)

Line = Annotated[str, Field(min_length=1, max_length=400)]


class _Exchange(BaseModel):
    model_config = ConfigDict(extra="forbid")
    customer: Line
    sales: Line


class _Step(BaseModel):
    model_config = ConfigDict(extra="forbid")
    who: Literal["Customer", "Sales"]
    does: Line


class _Call(BaseModel):
    model_config = ConfigDict(extra="forbid")
    exchanges: list[_Exchange] = Field(min_length=3, max_length=6)
    next_steps: list[_Step] = Field(min_length=2, max_length=6)


SHAPE = _Call
GAPS = {"customer", "title", "text"}
VARIANTS = len(CUSTOMERS)


def describes(chunk: Chunk) -> bool:
    """Tell whether a chunk has enough prose to talk about."""
    return len(prose(chunk.text).split()) >= _LEAST_WORDS


def request(chunk: Chunk, variant: int, template: str) -> Request:
    """Return the request for a call of one of the CUSTOMERS about a chunk."""
    first = int(content_id("customer", chunk.id), 16)
    customer = CUSTOMERS[(first + variant) % len(CUSTOMERS)]
    prompt = template.format(customer=customer, title=title_of(chunk), text=chunk.text)
    return Request([{"role": "user", "content": prompt}], _MAX_TOKENS, schema=_Call.model_json_schema())


def parts(chunk: Chunk, reply: str) -> tuple[str, str]:
    """Return the transcript and the next steps, a line each turn and step."""
    call = _Call.model_validate_json(reply)
    turns = [f"Customer: {_plain(e.customer)}\nSales: {_plain(e.sales)}" for e in call.exchanges]
    return "\n".join(turns), "\n".join(f"{step.who}: {_plain(step.does)}" for step in call.next_steps)


def fault(chunk: Chunk, transcript: str, steps: str) -> str | None:
    """Return why a call and its next steps cannot be kept, or None."""
    turns = [turn.split(": ", 1) for turn in transcript.splitlines()]
    does = [step.split(": ", 1)[1] for step in steps.splitlines()]
    customer = " ".join(text for who, text in turns if who == "Customer")
    sales = " ".join(text for who, text in turns if who == "Sales")
    page = f"{' '.join(chunk.headings)}. {chunk.text}"
    if careless(f"{transcript}\n{steps}"):
        return "has a gap, or points at the text"
    if not all(text for _, text in turns) or not all(does):
        return "a turn or a step is empty"
    if any(_LABEL.search(text) for _, text in turns):
        return "a turn speaks for both"
    if len({text.casefold() for _, text in turns}) < len(turns):
        return "a turn is said twice"
    if what := invented(sales, f"{page} {customer}"):
        return f"the salesperson says a {what} the page lacks"
    if supported(sales, page) < _GROUNDED_SALES:
        return "the call is not about the page"
    if len({text.casefold() for text in does}) < len(does):
        return "a step is there twice"
    if what := invented(" . ".join(does), f"{transcript} {page}"):
        return f"a step has a {what} that call and page lack"
    if any(supported(text, f"{transcript} {page}") < _GROUNDED_STEPS for text in does):
        return "a step is not grounded in the call"
    if copied(" ".join(does), page) > _GROUNDED_STEPS:
        return "the steps copy the page"
    return None


def _plain(text: str) -> str:
    return " ".join(text.split())
