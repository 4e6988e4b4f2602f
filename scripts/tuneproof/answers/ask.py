"""Build each arm's requests from test examples, and answers from the replies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tuneproof.errors import InputError
from tuneproof.llm.calls import Engine, Request
from tuneproof.llm.client import Answered, complete
from tuneproof.llm.prompts import fill
from tuneproof.llm.store import Store
from tuneproof.records import Answer, Chunk, Example, Message, Retrieved, content_id
from tuneproof.study import Decoding, Mode


def context_ids(example: Example, mode: Mode, retrieved: dict[str, Retrieved]) -> list[str]:
    """Return the ids of the chunks that an arm is given for a question, best first.

    Closed book there are none; under the oracle it is the gold chunk: the one that the question was written from.
    """
    if mode == "closed":
        return []
    if mode == "oracle":
        return [example.chunk_id]
    if example.id not in retrieved:
        raise InputError(f"example {example.id}: nothing was retrieved for it, expected a row for each")
    return retrieved[example.id].chunk_ids


def requests(
    examples: list[Example],
    mode: Mode,
    decoding: Decoding,
    template: str,
    retrieved: dict[str, Retrieved],
    chunks: dict[str, Chunk],
) -> list[Request]:
    """Return one request per example. Closed book, the prompt is the training prompt: all that stands before the
    answer, a system prompt included; with retrieval or oracle, the question stands under the chunks, best first."""

    def ask(example: Example) -> list[Message]:
        before = example.messages[:-1]
        if mode == "closed":
            return before
        given = context_ids(example, mode, retrieved)
        if unknown := [id for id in given if id not in chunks]:
            raise InputError(f"example {example.id}: chunk {unknown[0]!r} is not in the corpus, expected a known one")
        content = fill(template, context="\n\n".join(chunks[c].text for c in given), question=example.question)
        return [*before[:-1], {"role": "user", "content": content}]

    return [Request(ask(e), decoding.max_new_tokens) for e in examples]


def answer(
    requests: list[Request], identity: str, start: Callable[[], Engine], store: Path, what: str, replay: bool = False
) -> list[Answered]:
    """Answer requests in order; batches hold prompts of like length, so that little is padded.

    `start` gives the engine `identity`; it is not called where the store knows every answer. The longest prompts come
    first: what does not fit the memory fails at once.
    """
    order = sorted(range(len(requests)), key=lambda i: (-len(requests[i].messages[-1]["content"]), i))
    answered = complete([requests[i] for i in order], identity, start, Store(store, identity), what, replay)
    by_position = dict(zip(order, answered, strict=True))
    return [by_position[i] for i in range(len(requests))]


def answers_from(
    examples: list[Example], answered: list[Answered], run: str, mode: Mode, retrieved: dict[str, Retrieved]
) -> list[Answer]:
    """Return the arm's answers, each with the ids of the chunks it was given."""
    return [
        Answer(
            id=content_id(example.id, run, mode, answer.call_id),
            example_id=example.id,
            run=run,
            mode=mode,
            split=example.split,
            text=answer.reply.text,
            tokens=answer.reply.completion_tokens,
            stopped=answer.reply.finish_reason == "stop",
            context_ids=context_ids(example, mode, retrieved),
            call_id=answer.call_id,
        )
        for example, answer in zip(examples, answered, strict=True)
    ]
