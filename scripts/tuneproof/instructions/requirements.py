"""Requirements of customers: an LLM reads one product without its name and writes what it would solve."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from tuneproof.instructions.grounds import careless, copied, invented
from tuneproof.instructions.products import Product
from tuneproof.llm.calls import Request
from tuneproof.llm.client import Answered, failures
from tuneproof.llm.prompts import fill
from tuneproof.pairs.screen import content_words
from tuneproof.records import content_id

# A word of a name is distinctive where at most this share of the other products uses it.
_SHARED = 0.01
_TOKENS_EACH = 75
_MOST_CHARS = 240  # the grammar ends a sentence that a small model would go on with until its tokens are used up
_WORDS = range(8, 46)
# Share of a requirement's runs of five words that may stand in the description.
_COPIED = 0.4
_FEWEST, _MOST = 3, 8
_POINTS_AT_PRODUCT = re.compile(r"\b(?:this|the) (?:product|item|service)\b", re.IGNORECASE)


class _Requirements(BaseModel):
    model_config = ConfigDict(extra="forbid")
    requirements: list[Annotated[str, Field(min_length=1, max_length=_MOST_CHARS)]]


SHAPE = _Requirements  # what a reply must be. Its name and fields are part of the address of every stored call.


@dataclass(frozen=True)
class Requirement:
    """What a customer needs and the product of `page_id` offers."""

    id: str
    page_id: str
    text: str
    call_id: str


def each(rows: int, products: int) -> int:
    """Return how many requirements a call asks for: some are dropped, and with few products each must serve often."""
    return min(_MOST, max(_FEWEST, math.ceil(2 * rows / products)))


def distinctive(products: Iterable[Product]) -> dict[str, list[str]]:
    """Return for each product (by page_id) the words of its name that next to no other product uses.

    Whoever reads such a word need not read the requirement. A name made of common words alone ("Leather Backpack")
    has none; `fault` then only forbids all of them together.
    """
    products = list(products)
    used = Counter(word for product in products for word in content_words(product.text))
    limit = 1 + int(_SHARED * (len(products) - 1))
    return {
        product.page_id: sorted(word for word in content_words(product.name) if used[word] <= limit)
        for product in products
    }


def requests(products: list[Product], avoided: dict[str, list[str]], template: str, n: int) -> list[Request]:
    """Return one request per product for `n` requirements; the product's name is not shown."""
    schema = _Requirements.model_json_schema()
    schema["properties"]["requirements"].update(minItems=n, maxItems=n)
    return [
        Request(
            [{"role": "user", "content": fill(template, n=n, avoid=_avoid(p, avoided), description=_nameless(p))}],
            max_tokens=n * _TOKENS_EACH + 20,
            schema=schema,
        )
        for p in products
    ]


def requirements_from(
    products: list[Product], answered: list[Answered]
) -> tuple[list[Requirement], list[dict[str, str]]]:
    """Return the requirements as written, and the calls whose reply came to nothing."""
    written: list[Requirement] = []
    failed: list[dict[str, str]] = []
    for product, answer in zip(products, answered, strict=True):
        if answer.fault:
            [failure] = failures([answer])
            failed.append({"page_id": product.page_id, **failure})
            continue
        for text in _Requirements.model_validate_json(answer.reply.text).requirements:
            plain = " ".join(text.split())
            written.append(Requirement(content_id(product.page_id, plain), product.page_id, plain, answer.call_id))
    return written, failed


def screen(
    requirements: list[Requirement], products: list[Product]
) -> tuple[list[Requirement], list[tuple[Requirement, str]]]:
    """Return the kept requirements and the dropped ones with their reason; `products` are all there are."""
    kept, dropped, seen = [], [], set()
    by_id, avoided = {product.page_id: product for product in products}, distinctive(products)
    for requirement in requirements:
        words = frozenset(content_words(requirement.text))
        reason = fault(requirement.text, by_id[requirement.page_id], avoided[requirement.page_id])
        if reason is None and words in seen:
            reason = "written twice"
        if reason is None:
            seen.add(words)
            kept.append(requirement)
        else:
            dropped.append((requirement, reason))
    return kept, dropped


def fault(text: str, product: Product, avoided: list[str]) -> str | None:
    """Return why a requirement cannot be kept on its own account, or None; `avoided` words give the name away."""
    words = content_words(text)
    if len(text.split()) not in _WORDS:
        return "too short or too long"
    if text[-1:] not in ".!?":
        return "is cut off"
    name = content_words(product.name)  # none in "The One": then nothing gives it away
    if (name and name <= words) or words & set(avoided):
        return "gives the name away"
    if careless(text) or _POINTS_AT_PRODUCT.search(text):
        return "points at the product or has a gap"
    if what := invented(text, product.text):
        return f"has a {what} the description lacks"
    if copied(text, product.description) > _COPIED:
        return "copies the description"
    return None


def _nameless(product: Product) -> str:
    name = rf"(?:\bthe )?(?<!\w){re.escape(product.name)}(?!\w)"
    return re.sub(name, "this product", product.description, flags=re.IGNORECASE)


def _avoid(product: Product, avoided: dict[str, list[str]]) -> str:
    return ", ".join(avoided[product.page_id] or sorted(content_words(product.name)))
