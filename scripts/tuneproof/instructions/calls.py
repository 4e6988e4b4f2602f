"""Sales call to next steps: what is agreed is drawn, pairs of a chunk are asked and answered, an LLM does the talking.

So the answer is right by construction, and nothing that the salesperson tells is invented. The paper gives an example
of a transcript and its next steps, and leaves open where its transcripts come from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from tuneproof.instructions.draw import Unit
from tuneproof.instructions.grounds import careless, invented, supported
from tuneproof.llm.calls import Request
from tuneproof.llm.prompts import fill
from tuneproof.records import Chunk, Pair, content_id

# Who calls, and what the two agree on: drawn anew for each call.
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
CUSTOMER_STEPS = (
    "compare the figures with those of the present supplier",
    "ask the finance department for approval",
    "send a list of requirements",
    "choose a date for a visit",
    "talk it over with the technical team",
    "name a contact person for the project",
    "check the contract with a lawyer",
    "present the options to the board",
    "estimate the need for the coming year",
    "send the signed order form",
)
SALES_STEPS = (
    "send a written summary by email",
    "prepare an offer",
    "arrange a call with an engineer",
    "book a guided tour",
    "send the draft of a contract",
    "ask a specialist about the open questions",
    "call again next week",
    "set up a test account",
    "look for references from similar customers",
    "send an invitation to the next workshop",
)
NEEDS = "two pairs that were written from it"
VARIANTS = len(CUSTOMERS)
_GREETING = "Thank you for calling. What would you like to know?"
_EXCHANGES = range(2, 4)
_MAX_TOKENS = 300
# Share of a step's content words that must be said when it is agreed.
_SAID = 0.6
_LABEL = re.compile(r"\b(?:Customer|Sales|Salesperson)\s*:", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s")
_SPEAKS = re.compile(r"\b(?:I|we|my|our|us|me|let's)\b|\bI['’]", re.IGNORECASE)

Line = Annotated[str, Field(min_length=1, max_length=400)]


class _Call(BaseModel):
    model_config = ConfigDict(extra="forbid")
    opening: Line
    customer_closes: Line
    sales_closes: Line


SHAPE = _Call
GAPS = {"customer", "customer_steps", "sales_steps", "call"}


def usable(chunk: Chunk, pairs: Sequence[Pair]) -> bool:
    """Tell whether enough was asked about a chunk for a call."""
    return len(pairs) >= _EXCHANGES.start


def request(unit: Unit, template: str) -> Request:
    """Return the request for the first and the last words of a call."""
    customer, steps = _plan(unit)
    prompt = fill(
        template,
        customer=customer,
        customer_steps=" and ".join(does for who, does in steps if who == "Customer"),
        sales_steps=" and ".join(does for who, does in steps if who == "Sales"),
        call=_middle(unit),
    )
    return Request([{"role": "user", "content": prompt}], _MAX_TOKENS, schema=_Call.model_json_schema())


def parts(unit: Unit, reply: str) -> tuple[str, str]:
    """Return the transcript and the next steps, a line each turn and step."""
    call = _Call.model_validate_json(reply)
    # one sentence is asked for; what a small model adds to it runs ahead of the call
    opening = _SENTENCE_END.split(_plain(call.opening), maxsplit=1)[0]
    begin = f"Customer: {opening}\nSales: {_GREETING}"
    end = f"Customer: {_plain(call.customer_closes)}\nSales: {_plain(call.sales_closes)}"
    _, steps = _plan(unit)
    return f"{begin}\n{_middle(unit)}\n{end}", "\n".join(f"{who}: {does[0].upper()}{does[1:]}." for who, does in steps)


def fault(chunk: Chunk, transcript: str, steps: str) -> str | None:
    """Return why a call cannot be kept, or None."""
    turns = [(who, text) for who, _, text in (turn.partition(": ") for turn in transcript.splitlines())]
    (_, opening), (_, customer), (_, sales) = turns[0], turns[-2], turns[-1]
    if careless(transcript):
        return "has a gap, or points at the text"
    if any(_LABEL.search(text) for _, text in turns):
        return "a turn speaks for both"
    if len({text.casefold() for _, text in turns}) < len(turns):
        return "a turn is said twice"
    if not all(map(_SPEAKS.search, (opening, customer, sales))):
        return "narrates instead of speaking"
    asked = " ".join(text for who, text in turns[1:-2] if who == "Customer")
    if what := invented(opening, " ".join([asked, *chunk.headings])):
        return f"begins with a {what} that is not asked about"
    told = " ".join([chunk.text, *chunk.headings, steps, *(text for _, text in turns[:-2])])
    if what := invented(f"{customer} {sales}", told):
        return f"ends with a {what} that call and page lack"
    for who, _, does in (step.partition(": ") for step in steps.splitlines()):
        own, other = (customer, sales) if who == "Customer" else (sales, customer)
        if supported(does, opening) >= _SAID:
            return "begins with what is agreed"
        if supported(does, own) < _SAID:
            return "a step is not said"
        if supported(does, other) >= _SAID:
            return "both say the same step"
    return None


def _plan(unit: Unit) -> tuple[str, list[tuple[str, str]]]:
    """Who calls, and the two or three steps that are agreed, each with who does it; the customer's first."""
    drawn = int(content_id("call", unit.chunk.id), 16) + unit.variant
    ours, theirs = drawn // 7 % len(CUSTOMER_STEPS), drawn // 11 % len(SALES_STEPS)
    steps = [("Customer", CUSTOMER_STEPS[ours]), ("Sales", SALES_STEPS[theirs])]
    match drawn % 3:
        case 1:
            steps.insert(1, ("Customer", CUSTOMER_STEPS[(ours + 3) % len(CUSTOMER_STEPS)]))
        case 2:
            steps.append(("Sales", SALES_STEPS[(theirs + 3) % len(SALES_STEPS)]))
    return CUSTOMERS[drawn % len(CUSTOMERS)], steps


def _middle(unit: Unit) -> str:
    """The pairs of a chunk, asked and answered; another variant begins with another."""
    first = unit.variant % len(unit.pairs)
    asked = [*unit.pairs[first:], *unit.pairs[:first]][: _EXCHANGES[-1]]
    return "\n".join(f"Customer: {_plain(p.question)}\nSales: {_plain(p.answer)}" for p in asked)


def _plain(text: str) -> str:
    return " ".join(text.split())
