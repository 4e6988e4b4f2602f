"""vLLM in the process: on a GPU, in the judge's image. Written against vLLM 0.33."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError
from tuneproof.fetch.weights import model_digest, read_lock
from tuneproof.llm.calls import Reply, Request, answer_fitting, choice_of
from tuneproof.study import VLLMLLM

_TOP = 20  # the most candidates for a token that vLLM gives without being told otherwise


def engine_id(llm: VLLMLLM, lock: Path) -> str:
    """Return all that a reply depends on: weights by digest, engine and version, and what shapes a batch."""
    try:
        version = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            "engine vllm: vllm is not installed here, expected the image of containers/judge.def"
        ) from None
    return f"vllm-{version}.{llm.model}@{model_digest(read_lock(lock))}.c{llm.max_concurrent}g{llm.group_size}"


class VLLM:
    """One model on one GPU. Each group finds an empty prefix cache, so that a reply depends on its group only."""

    def __init__(self, llm: VLLMLLM, lock: Path) -> None:
        from vllm import LLM

        self.id, self.group_size = engine_id(llm, lock), llm.group_size
        self._served, self._context = llm.model, read_lock(lock)["context"]
        self._model = LLM(
            model=str(lock.parent),
            max_num_seqs=llm.max_concurrent,
            gpu_memory_utilization=llm.gpu_memory,
            max_model_len=self._context,
            enable_prefix_caching=True,
            seed=0,
        )

    def answer(self, requests: list[Request], done: Callable[[int], object]) -> list[Reply]:
        """Answer a group; requests with a common prompt share its keys and values."""
        self._model.reset_prefix_cache()
        tokenizer = self._model.get_tokenizer()
        # the template writes BOS where the model wants one: adding special tokens would double it
        texts = [
            tokenizer.apply_chat_template(r.messages, add_generation_prompt=True, tokenize=False) + r.prefill
            for r in requests
        ]
        prompts = [{"prompt_token_ids": tokenizer.encode(text, add_special_tokens=False)} for text in texts]
        # vLLM ends a reply where the context ends, and refuses a prompt that leaves no room for any
        lengths = [len(prompt["prompt_token_ids"]) + 1 for prompt in prompts]
        replies = answer_fitting(requests, prompts, lengths, self._context, self._generate)
        done(len(requests))
        return replies

    def _generate(self, asked: list[tuple[Request, Any]]) -> list[Reply]:
        outputs = self._model.generate(
            [prompt for _, prompt in asked], [_sampling(request) for request, _ in asked], use_tqdm=False
        )
        return [_reply(request, output, self._served) for (request, _), output in zip(asked, outputs, strict=True)]


def _sampling(request: Request) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    if request.choices:
        return SamplingParams(temperature=0, max_tokens=1, logprobs=_TOP)
    shape = StructuredOutputsParams(json=request.schema) if request.schema else None
    return SamplingParams(temperature=0, max_tokens=request.max_tokens, structured_outputs=shape)


def _reply(request: Request, output: Any, served: str) -> Reply:
    written = output.outputs[0]
    distribution: dict[str, float] = {}
    if request.choices:
        weights = dict.fromkeys(request.choices, 0.0)
        for candidate in written.logprobs[0].values():
            if said := choice_of(candidate.decoded_token or "", request.choices):
                weights[said] += math.exp(candidate.logprob)
        if total := sum(weights.values()):
            distribution = {name: weight / total for name, weight in weights.items()}
    return Reply(
        text=written.text,
        prompt_tokens=len(output.prompt_token_ids),
        completion_tokens=len(written.token_ids),
        finish_reason=written.finish_reason or "stop",
        distribution=distribution,
        served=served,
        cached_tokens=output.num_cached_tokens or 0,
    )
