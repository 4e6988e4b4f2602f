"""From an LLM's section of the configuration to answers: which engine, with which store."""

from __future__ import annotations

from pathlib import Path

from tuneproof.llm import openvino
from tuneproof.llm.calls import Request
from tuneproof.llm.client import Answered, complete
from tuneproof.llm.store import Store
from tuneproof.study import LLM


def complete_with(llm: LLM, model_lock: Path, requests: list[Request], store: Path, what: str) -> list[Answered]:
    """Answer requests with a configured LLM; nothing is loaded where the store knows every answer."""
    identity = openvino.engine_id(llm, model_lock)
    return complete(requests, identity, lambda: openvino.OpenVINO(llm, model_lock), Store(store, identity), what)
