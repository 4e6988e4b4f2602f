"""Build each arm's requests from test examples, and answers from the replies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tuneproof.llm.calls import Request
from tuneproof.llm.client import Answered, complete
from tuneproof.llm.prompts import fill
from tuneproof.llm.store import Store
from tuneproof.llm.transformers import Transformers, engine_id
from tuneproof.records import Answer, Chunk, Example, Retrieved, content_id
from tuneproof.study import Calls, Decoding, Mode


def requests(
    examples: list[Example],
    mode: Mode,
    decoding: Decoding,
    template: str,
    retrieved: dict[str, Retrieved],
    chunks: dict[str, Chunk],
) -> list[Request]:
    """Return one request per example. Closed book, the prompt is the training prompt; with retrieval, the question
    stands under the retrieved chunks, best first."""
    ask: Callable[[Example], str]
    if mode == "closed":

        def ask(example: Example) -> str:
            return example.question
    else:

        def ask(example: Example) -> str:
            texts = [chunks[c].text for c in retrieved[example.id].chunk_ids]
            return fill(template, context="\n\n".join(texts), question=example.question)

    return [Request([{"role": "user", "content": ask(e)}], decoding.max_new_tokens) for e in examples]


def answer(
    requests: list[Request],
    student: Path,
    adapter: Path | None,
    batch_size: int,
    store: Path,
    what: str,
    calls: Calls,
) -> list[Answered]:
    """Answer requests in order; batches hold prompts of like length, so that little is padded."""
    identity = engine_id(student, adapter, batch_size)
    order = sorted(range(len(requests)), key=lambda i: (-len(requests[i].messages[-1]["content"]), i))
    answered = complete(
        [requests[i] for i in order],
        identity,
        lambda: Transformers(student, adapter, batch_size),
        Store(store, identity),
        what,
        replay=calls.mode == "replay",
    )
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
            context_ids=retrieved[example.id].chunk_ids if mode == "rag" else [],
            call_id=answer.call_id,
        )
        for example, answer in zip(examples, answered, strict=True)
    ]
