"""D-Naive: an LLM reads one chunk and writes question-answer pairs about it, each with the quote that supports it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from tuneproof.llm.calls import Request
from tuneproof.llm.client import Answered, failures
from tuneproof.llm.prompts import fill
from tuneproof.pairs.screen import fault, plain
from tuneproof.records import Chunk, Pair, content_id

# Tokens that one pair may take in JSON: a sentence each of quote, question and answer. Seen: 60 to 110.
_TOKENS_PER_PAIR = 140
# A chunk must have as many tokens per pair; a title with one sentence holds one fact, not four.
_CHUNK_TOKENS_PER_PAIR = 40
# Some pairs that pass the rules are near-duplicates of others: 2 of 85 in the sample site, 3 of 63 in packet-docs.
_SPARE = 1.1

Text = Annotated[str, Field(min_length=1, max_length=600)]


class _Written(BaseModel):
    # The quote comes first: a model that has just copied a sentence asks about what that sentence says.
    model_config = ConfigDict(extra="forbid")
    quote: Text
    question: Text
    answer: Text


class _WrittenPairs(BaseModel):
    model_config = ConfigDict(extra="forbid")
    pairs: list[_Written]


SHAPE = _WrittenPairs  # what a reply must be. Its name and fields are part of the address of every stored call.


def requests(chunks: list[Chunk], template: str, pairs_per_chunk: int) -> list[Request]:
    """Return one request per chunk, with the JSON schema that the reply must have."""
    return [_request(chunk, template, pairs_per_chunk) for chunk in chunks]


def pairs_from(chunks: list[Chunk], answered: list[Answered]) -> tuple[list[Pair], list[dict[str, str]]]:
    """Return the written pairs, and the calls whose reply came to nothing: chunk, call id, reason, raw text."""
    pairs: list[Pair] = []
    failed: list[dict[str, str]] = []
    for chunk, answer in zip(chunks, answered, strict=True):
        if answer.fault:
            [failure] = failures([answer])
            failed.append({"chunk_id": chunk.id, **failure})
            continue
        written = _WrittenPairs.model_validate_json(answer.reply.text)
        for item in written.pairs:
            identity = content_id(chunk.id, item.question, item.answer)
            pairs.append(
                Pair(identity, chunk.id, chunk.page_id, item.question, item.answer, item.quote, answer.call_id)
            )
    return pairs, failed


def write_until(
    chunks: list[Chunk],
    pairs: int,
    per_chunk: int,
    group: int,
    ask: Callable[[list[Chunk]], list[Answered]],
    check: Callable[[list[Chunk], list[Answered]], object],
) -> tuple[list[Chunk], list[Answered]]:
    """Ask about chunks in rounds until `pairs`, and some to spare, pass the rules; return the chunks and their replies.

    A round is a multiple of `group`, the calls that an engine answers as one: a chunk then stands in the same group
    however many rounds there are. What a round needs is reckoned from the replies before it, so that a run that was
    killed goes on with the same ones. `check` is given all there is after each round and may raise; a round asks at
    the most as much as all before it, so that one bad beginning is not taken for the whole.
    """
    wanted = math.ceil(_SPARE * pairs)
    answered: list[Answered] = []
    passed: set[str] = set()
    expected = float(per_chunk)  # before anything is known, every pair passes
    while len(passed) < wanted and len(answered) < len(chunks):
        needed = math.ceil((wanted - len(passed)) / expected)
        needed = min(needed, len(answered) or needed)
        asked = chunks[len(answered) :][: math.ceil(needed / group) * group]
        replies = ask(asked)
        texts = {chunk.id: chunk.text for chunk in asked}
        passed |= {plain(p.question) for p in pairs_from(asked, replies)[0] if fault(p, texts[p.chunk_id]) is None}
        answered += replies
        check(chunks[: len(answered)], answered)
        expected = max(len(passed), 1) / len(answered)
        print(f"{len(answered)} of {len(chunks)} chunks: {len(passed)} of {wanted} pairs pass", file=sys.stderr)
    return chunks[: len(answered)], answered


def draw_chunks(chunks: list[Chunk], limit: int | None) -> list[Chunk]:
    """Return at most `limit` chunks, taken from the groups in turn so that none is left out; order is kept."""
    if limit is None or limit >= len(chunks):
        return chunks
    drawn = {chunk.id for chunk in in_turn(chunks)[:limit]}
    return [chunk for chunk in chunks if chunk.id in drawn]


def in_turn(chunks: list[Chunk]) -> list[Chunk]:
    """Return chunks from the groups in turn, those of a group by the hash of their ids: any beginning is balanced."""
    by_group: dict[str, list[Chunk]] = {}
    for chunk in sorted(chunks, key=lambda c: content_id("draw", c.id), reverse=True):
        by_group.setdefault(chunk.group, []).append(chunk)
    queues = [by_group[group] for group in sorted(by_group)]
    return [queue[i] for i in range(max(map(len, queues), default=0)) for queue in queues if i < len(queue)]


def _request(chunk: Chunk, template: str, pairs_per_chunk: int) -> Request:
    n = max(1, min(pairs_per_chunk, chunk.tokens // _CHUNK_TOKENS_PER_PAIR))
    schema = _WrittenPairs.model_json_schema()
    schema["properties"]["pairs"].update(minItems=n, maxItems=n)
    prompt = fill(template, n=n, title=" > ".join(chunk.headings) or chunk.url, text=chunk.text)
    return Request([{"role": "user", "content": prompt}], max_tokens=n * _TOKENS_PER_PAIR + 40, schema=schema)
