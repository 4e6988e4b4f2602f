"""What is asked of a language model and what comes back, the same whichever engine answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from tuneproof.records import Message

# How a call can end without a usable text: the provider would not say it, or would not take the request.
FILTERED, REFUSED = "content_filter", "refused"

_Prompt = TypeVar("_Prompt")  # as an engine reads it


@dataclass(frozen=True)
class Request:
    """One call. Decoding is greedy.

    `prefill` begins the reply and is not part of the reply's text. With `schema` (a JSON schema) the reply is JSON
    of that shape. With `choices` (single tokens) nothing is written: the reply carries the distribution over them.
    A model of one's own reads a choice's leading space as part of its token; an API is told the choices without it.
    """

    messages: list[Message]
    max_tokens: int
    prefill: str = ""
    schema: dict[str, Any] | None = None
    choices: list[str] | None = None

    def key(self, engine_id: str) -> str:
        """Return the call's address: SHA-256 over the engine's identity and the whole request."""
        content = json.dumps({"engine": engine_id, **vars(self)}, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    `finish_reason` is stop, length, content_filter or refused; the last two carry no text and `error` says why.
    `distribution` maps each choice to its probability and sums to 1; it is empty where the engine saw none of them.
    `served` is the model's name as the one who served it gives it; `cached_tokens` is the part of the prompt that
    the provider had computed before.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    distribution: dict[str, float] = field(default_factory=dict)
    served: str = ""
    cached_tokens: int = 0
    error: str = ""

    def plain(self) -> dict[str, Any]:
        """Return it as plain data; copies nothing, unlike dataclasses.asdict."""
        return {name: getattr(self, name) for name in self.__slots__}


class Engine(Protocol):
    """Something inside the process that answers requests in groups.

    `id` names the weights by digest and the engine with its version and options: all that a reply depends on.
    `group_size` requests are answered as one unit, always the same ones together, because the low bits of a reply
    depend on what else was in the batch: this is how a killed run ends with the same text as an undisturbed one.
    """

    id: str
    group_size: int

    def answer(self, requests: list[Request], done: Callable[[int], object]) -> list[Reply]:
        """Answer one group, in order; `done(n)` is called as n further requests are finished."""
        ...


def answer_fitting(
    requests: Sequence[Request],
    prompts: Sequence[_Prompt],
    lengths: Sequence[int],
    context: int,
    answer: Callable[[list[tuple[Request, _Prompt]]], list[Reply]],
) -> list[Reply]:
    """Answer those requests of a group that fit the context, and refuse the others: a row too long fails no stage.

    `lengths` are the tokens of each prompt and of the room that its reply needs. `answer` is not called for none.
    """
    fits = [length <= context for length in lengths]
    fitting = [pair for pair, fit in zip(zip(requests, prompts, strict=True), fits, strict=True) if fit]
    replies = iter(answer(fitting) if fitting else [])
    return [
        next(replies)
        if fit
        else Reply("", 0, 0, REFUSED, error=f"{length} tokens of prompt and reply do not fit the context of {context}")
        for fit, length in zip(fits, lengths, strict=True)
    ]


class Provider(Protocol):
    """Something outside the process that answers requests one by one, each for itself."""

    id: str

    def answer_each(
        self, asked: Mapping[str, Request], keep: Callable[[str, Reply], object], sync: Callable[[], object]
    ) -> dict[str, str]:
        """Answer requests by key; return the keys that got no answer, each with the last cause.

        `keep(key, reply)` takes a reply the moment it has come; `sync()`, called every few milliseconds and at the
        end, has what was kept put on the disk. A cause that concerns all requests (a wrong key, another model than
        the configured one) raises InputError; what was answered until then is kept.
        """
        ...


def choice_of(text: str, choices: list[str]) -> str | None:
    """Return the one choice that a token or a reply is, or begins; None where it is none, or may be several.

    " 4" and "4" are two tokens and one choice, and a tokenizer may split "conceptual" where another does not.
    """
    begun = [choice for choice in choices if text.strip() and choice.strip().startswith(text.strip())]
    return begun[0] if len(begun) == 1 else None
