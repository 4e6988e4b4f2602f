"""Ask a language model many questions: from the store where it has answered before, from the engine otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from tuneproof.llm.calls import Engine, Reply, Request
from tuneproof.llm.store import Store
from tuneproof.progress import progress


@dataclass(frozen=True)
class Answered:
    """A reply with the id of its call in the store."""

    call_id: str
    reply: Reply


def complete(
    requests: list[Request], engine_id: str, start: Callable[[], Engine], store: Store, what: str
) -> list[Answered]:
    """Answer every request, in order, with progress on stderr.

    `start` loads the engine; it is not called where the store knows every answer, so a rerun needs no model at all.
    Groups are cut from the whole list, not from what is missing, and a group with one unknown call is answered whole:
    a reply then never depends on where an earlier run was killed. What is stored already stays as it was. An engine
    that does not batch is asked for what is missing only.
    """
    keys = [request.key(engine_id) for request in requests]
    unique = dict(zip(keys, requests, strict=True))
    order = list(unique)
    missing = sum(store.get(key) is None for key in order)
    if missing:
        engine = start()
        assert engine.id == engine_id, f"engine {engine.id} was started for {engine_id}"
        asked = order if engine.batched else [key for key in order if store.get(key) is None]
        groups = [asked[i : i + engine.group_size] for i in range(0, len(asked), engine.group_size)]
        began, prompt, completion = time.monotonic(), 0, 0
        with progress(len(order), "call", what) as bar:
            bar.update(len(order) - len(asked))
            for group in groups:
                if any(store.get(key) is None for key in group):
                    replies = engine.answer([unique[key] for key in group], bar.update)
                    fresh = zip(group, replies, strict=True)
                    store.put([(key, unique[key], reply) for key, reply in fresh if store.get(key) is None])
                    prompt += sum(r.prompt_tokens for r in replies)
                    completion += sum(r.completion_tokens for r in replies)
                else:
                    bar.update(len(group))
        seconds = time.monotonic() - began
        print(
            f"{what}: {missing} calls answered, {len(order) - missing} from the store, {seconds:.0f} s, "
            f"{prompt} prompt and {completion} completion tokens, {completion / max(seconds, 1e-9):.0f} written/s",
            file=sys.stderr,
        )
    else:
        print(f"{what}: all {len(order)} calls from the store", file=sys.stderr)
    answers = []
    for key in keys:
        reply = store.get(key)
        assert reply is not None
        answers.append(Answered(key, reply))
    return answers


def usage(stage: str, model: str, answered: list[Answered]) -> dict[str, str | int]:
    """Return the calls and tokens behind a stage's result, each call once, whether asked now or in an earlier run."""
    replies = {a.call_id: a.reply for a in answered}.values()
    return {
        "stage": stage,
        "llm": model,
        "calls": len(replies),
        "prompt_tokens": sum(r.prompt_tokens for r in replies),
        "completion_tokens": sum(r.completion_tokens for r in replies),
    }
