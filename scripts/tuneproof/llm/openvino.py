"""OpenVINO GenAI in the process: continuous batching on a CPU, reading GGUF weights as they are.

Why this engine: on two cores it writes three to four times as many tokens a second as the alternatives that were
tried (llama.cpp's server, transformers), takes a JSON schema, and shares the keys and values of a common prompt.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError
from tuneproof.fetch.weights import model_digest, read_lock
from tuneproof.llm.calls import REFUSED, Reply, Request, answer_fitting
from tuneproof.study import OpenVINOLLM

# Prompts are read so many tokens at a time: with OpenVINO's 256 a group's first step was a tenth slower.
READ_TOGETHER = 2048
_BLOCK = 32  # tokens that the prefix cache of OpenVINO keeps together on a CPU


def engine_id(llm: OpenVINOLLM, lock: Path) -> str:
    """Return all that a reply depends on: weights by digest, engine and version, and what shapes a batch."""
    digest = model_digest(read_lock(lock))
    return f"openvino-{_version()}.{llm.model}@{digest}.c{llm.max_concurrent}g{llm.group_size}r{READ_TOGETHER}s"


class OpenVINO:
    """One model, loaded when the first group is asked, loaded anew for each further group.

    Anew, because the prefix cache is part of what fixes the low bits of a reply: with a cache left over from other
    groups, a resumed run and an undisturbed one would differ. `lock` is that of a GGUF or, in a third of the time,
    of what fetch/openvino.py has made of it: loading takes about 4 s, a group about two minutes.
    """

    shares_prefixes = True  # benchmarks switch it off

    def __init__(self, llm: OpenVINOLLM, lock: Path) -> None:
        self.id = engine_id(llm, lock)
        self.group_size = llm.group_size
        self._llm = llm
        content = read_lock(lock)
        if content["format"] == "gguf":
            self._path = lock.parent / content["files"][0]["name"]
        elif content["format"] != "openvino":
            raise InputError(f"llms: engine openvino reads GGUF, but {llm.model} has format {content['format']!r}")
        elif content["openvino_genai"] != _version():
            made = f"made by openvino-genai {content['openvino_genai']}, this is {_version()}"
            raise InputError(f"{lock}: {made}; delete it, the next run makes it again")
        else:
            self._path = lock.parent
        self._context = content["context"]

    def answer(self, requests: list[Request], done: Callable[[int], object]) -> list[Reply]:
        """Answer a group. A prompt waits while another is read that begins alike: what they share is read once."""
        pipeline = self._load()
        tokenizer = pipeline.get_tokenizer()
        prompts = [_prompt(tokenizer, r) for r in requests]
        lengths = [prompt.shape[1] + r.max_tokens for r, prompt in zip(requests, prompts, strict=True)]
        replies = answer_fitting(
            requests, prompts, lengths, self._context, lambda asked: self._generate(pipeline, asked, done)
        )
        done(sum(reply.finish_reason == REFUSED for reply in replies))
        return replies

    def _generate(self, pipeline: Any, asked: list[tuple[Request, Any]], done: Callable[[int], object]) -> list[Reply]:
        # The cache is looked into when a request is added, so one that came too early would find nothing.
        beginnings = [_beginnings(prompt) if self.shares_prefixes else set() for _, prompt in asked]
        handles: dict[int, Any] = {}
        waiting, running = list(range(len(asked))), list[int]()
        cached = set[bytes]()
        reading: dict[int, set[bytes]] = {}  # what is new in the prompts that are being read
        while waiting or running:
            for i in waiting:
                new = beginnings[i] - cached
                if not any(new & others for others in reading.values()):
                    request, prompt = asked[i]
                    handles[i], reading[i] = pipeline.add_request(i, prompt, _generation(request)), new
                    running.append(i)
            waiting = [i for i in waiting if i not in handles]
            pipeline.step()
            ended = [i for i in running if not _runs(handles[i])]
            for i in [i for i in reading if handles[i].can_read() or i in ended]:
                cached |= reading.pop(i)
            running = [i for i in running if i not in ended]
            done(len(ended))
        return [
            self._reply(request, prompt, handles[i].read_all(), pipeline.get_tokenizer())
            for i, (request, prompt) in enumerate(asked)
        ]

    def _load(self) -> Any:
        import openvino_genai

        return openvino_genai.ContinuousBatchingPipeline(str(self._path), self._scheduler(), "CPU", {})

    def _scheduler(self) -> Any:
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = self.shares_prefixes
        scheduler.max_num_seqs = self._llm.max_concurrent
        scheduler.max_num_batched_tokens = READ_TOGETHER
        scheduler.cache_size = self._llm.kv_cache_gb
        return scheduler

    def _reply(self, request: Request, prompt: Any, outputs: list[Any], tokenizer: Any) -> Reply:
        texts = [tokenizer.decode(list(o.generated_ids)) for o in outputs]
        return Reply(
            text=texts[0],
            prompt_tokens=int(prompt.shape[1]),
            completion_tokens=len(outputs[0].generated_ids),
            finish_reason="length" if outputs[0].finish_reason.name == "LENGTH" else "stop",
            distribution=distribution(request.choices or (), dict(zip(texts, (o.score for o in outputs), strict=True))),
            served=self._llm.model,
        )


def distribution(choices: Sequence[str], scores: Mapping[str, float]) -> dict[str, float]:
    """Return the probability of each choice from the log-probabilities of beams; empty where none is a choice."""
    weights = {text: math.exp(score) for text, score in scores.items()}
    if not any(weights.get(choice) for choice in choices):
        return {}
    total = sum(weights.values())
    return {choice: weights.get(choice, 0.0) / total for choice in choices}


def _version() -> str:
    return importlib.metadata.version("openvino-genai")


def _runs(handle: Any) -> bool:
    import openvino_genai

    return bool(handle.get_status() == openvino_genai.GenerationStatus.RUNNING)


def _beginnings(prompt: Any) -> set[bytes]:
    """Return a digest of every beginning of a prompt that is whole blocks of the cache; `prompt` is 1 × its tokens."""
    tokens, digest, found = prompt.data[0], hashlib.sha256(), set()
    for end in range(_BLOCK, len(tokens) + 1, _BLOCK):
        digest.update(tokens[end - _BLOCK : end].tobytes())
        found.add(digest.digest())
    return found


def _prompt(tokenizer: Any, request: Request) -> Any:
    text = tokenizer.apply_chat_template(request.messages, add_generation_prompt=True) + request.prefill
    return tokenizer.encode(text, add_special_tokens=False).input_ids


def _generation(request: Request) -> Any:
    import openvino_genai

    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = request.max_tokens
    structure = openvino_genai.StructuredOutputConfig()
    if request.choices:
        # Beams over a grammar of exactly these tokens: each beam ends as one choice, its score is the log-probability
        # of that choice given that it is one of them.
        config.max_new_tokens = 1
        config.num_beams = config.num_return_sequences = len(request.choices)
        structure.regex = "|".join(re.escape(c) for c in request.choices)
        config.structured_output_config = structure
    elif request.schema:
        structure.json_schema = json.dumps(request.schema)
        config.structured_output_config = structure
    return config
