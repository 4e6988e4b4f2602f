"""From an LLM's section of the configuration to answers: which engine, with which store, under which budget."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from tuneproof.errors import InputError
from tuneproof.llm import api, batch, openvino
from tuneproof.llm.budget import Account, Purse, cost_of
from tuneproof.llm.calls import Provider, Reply, Request
from tuneproof.llm.client import Answered, complete, complete_structured, usage
from tuneproof.llm.store import Store
from tuneproof.study import ApiLLM, Calls, LocalLLM


def complete_with(
    llm: LocalLLM | ApiLLM,
    model_lock: Path | None,
    requests: list[Request],
    store: Path,
    what: str,
    calls: Calls | None = None,
    shape: type[BaseModel] | None = None,
) -> list[Answered]:
    """Answer requests with a configured LLM; nothing is loaded, and no key read, where the store knows every answer.

    With `shape` every reply must be JSON of that model: one that is not is asked for once more, and marked where that
    does not help either.
    """
    calls = calls or Calls()
    replay = calls.mode == "replay"
    if isinstance(llm, ApiLLM):
        identity = api.engine_id(llm)
        stored = Store(store, identity)

        def ask(wanted: list[Request]) -> list[Answered]:
            def start() -> Provider:
                account = Account(what, llm.model, api.host_of(llm))
                purse = Purse(store, account, calls.budget, llm.price, llm.batch)
                return batch.Batch(llm, purse, stored.folder) if llm.batch else api.OpenAI(llm, purse)

            return complete(wanted, identity, start, stored, what, replay, lambda r: {"dollars": dollars_of(llm, r)})

    else:
        if model_lock is None:
            raise InputError(f"--model: missing, expected the lock of {llm.model}")
        identity = openvino.engine_id(llm, model_lock)
        stored = Store(store, identity)

        def ask(wanted: list[Request]) -> list[Answered]:
            return complete(wanted, identity, lambda: openvino.OpenVINO(llm, model_lock), stored, what, replay)

    return complete_structured(requests, shape, ask) if shape else ask(requests)


def usage_of(stage: str, llm: LocalLLM | ApiLLM, answered: list[Answered]) -> dict[str, str | int | float]:
    """Return the calls, tokens and dollars behind a stage's result, each call once; see client.usage."""
    return usage(stage, llm.model, answered, lambda reply: dollars_of(llm, reply))


def dollars_of(llm: LocalLLM | ApiLLM, reply: Reply) -> float:
    """Return what a reply costs; nothing where the model runs here."""
    return cost_of(reply, llm.price, llm.batch).dollars if isinstance(llm, ApiLLM) else 0.0
