"""From an LLM's section of the configuration to answers: which engine, with which store."""

from __future__ import annotations

from pathlib import Path

from tuneproof.errors import InputError
from tuneproof.llm import api, openvino
from tuneproof.llm.calls import Request
from tuneproof.llm.client import Answered, complete
from tuneproof.llm.store import Store
from tuneproof.study import ApiLLM, LocalLLM


def complete_with(
    llm: LocalLLM | ApiLLM, model_lock: Path | None, requests: list[Request], store: Path, what: str
) -> list[Answered]:
    """Answer requests with a configured LLM; nothing is loaded, and no key read, where the store knows every answer."""
    if isinstance(llm, ApiLLM):
        identity = api.engine_id(llm)
        return complete(requests, identity, lambda: api.OpenAI(llm), Store(store, identity), what)
    if model_lock is None:
        raise InputError(f"--model: missing, expected the lock of {llm.model}")
    identity = openvino.engine_id(llm, model_lock)
    return complete(requests, identity, lambda: openvino.OpenVINO(llm, model_lock), Store(store, identity), what)
