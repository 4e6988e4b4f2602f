"""From an LLM's section of the configuration to answers: which engine, with which store, under which budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tuneproof.arithmetic import gpus_of, hardware_of
from tuneproof.errors import InputError
from tuneproof.llm import api, batch, openvino, transformers, vllm
from tuneproof.llm.budget import Account, Purse, cost_of
from tuneproof.llm.calls import Engine, Provider, Reply, Request
from tuneproof.llm.client import Answered, complete, complete_structured, usage
from tuneproof.llm.store import Store
from tuneproof.study import VLLMLLM, AnyLLM, ApiLLM, Calls, OpenVINOLLM, TransformersLLM


def complete_with(
    llm: AnyLLM,
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
                account = Account(what, llm.model, api.provider_of(llm))
                purse = Purse(store, account, calls.budget, llm.price, llm.batch)
                if llm.batch:
                    return batch.Batch(llm, purse, stored.folder)
                return api.OpenAI(llm, purse, answered=stored.answered)

            def about(reply: Reply) -> dict[str, float]:
                return {"dollars": dollars_of(llm, reply)}

            return complete(wanted, identity, start, stored, what, replay, about, ask_refused=True)

    else:
        if model_lock is None:
            raise InputError(f"--model: missing, expected the lock of {llm.model}")
        identity, load = _local(llm, model_lock)
        stored = Store(store, identity)

        def ask(wanted: list[Request]) -> list[Answered]:
            return complete(wanted, identity, load, stored, what, replay)

    return complete_structured(requests, shape, ask) if shape else ask(requests)


def _local(llm: OpenVINOLLM | VLLMLLM | TransformersLLM, lock: Path) -> tuple[str, Callable[[], Engine]]:
    """The identity of an engine inside the process, and how to load it."""
    if isinstance(llm, OpenVINOLLM):
        return openvino.engine_id(llm, lock), lambda: openvino.OpenVINO(llm, lock)
    if isinstance(llm, VLLMLLM):
        return vllm.engine_id(llm, lock), lambda: vllm.VLLM(llm, lock)
    return transformers.engine_id(lock, None, llm.group_size), lambda: transformers.Base(lock).engine(
        None, llm.group_size
    )


def usage_of(stage: str, llm: AnyLLM, answered: list[Answered]) -> dict[str, Any]:
    """Return what a stage's calls took, each call once (client.usage), and this job's hardware."""
    unpriced = isinstance(llm, ApiLLM) and llm.price is None
    used = usage(stage, llm.model, answered, None if unpriced else lambda reply: dollars_of(llm, reply))
    return used | {"gpus": gpus_of(llm.engine), "hardware": hardware_of(llm.engine)}


def dollars_of(llm: AnyLLM, reply: Reply) -> float:
    """Return what a reply costs; nothing where the model runs here."""
    return cost_of(reply, llm.price, llm.batch).dollars if isinstance(llm, ApiLLM) else 0.0
