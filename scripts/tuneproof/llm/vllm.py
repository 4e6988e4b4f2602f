"""vLLM in the process: on a GPU, in the judge's image. Written against vLLM 0.33.

A model of `llms:` is a VLLM; a student with the adapters of its runs is a Base, whose engines are Students.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError
from tuneproof.fetch.weights import model_digest, read_lock
from tuneproof.llm.calls import Reply, Request, answer_fitting, choice_of
from tuneproof.llm.prompts import written_out
from tuneproof.llm.transformers import prompt_tokens, written_reply
from tuneproof.records import file_sha256
from tuneproof.study import VLLMLLM

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes for max_lora_rank
_TOP = 20  # the most candidates for a token that vLLM gives without being told otherwise


def _load(**options: Any) -> Any:
    """Load a model, with what all of ours have in common."""
    # replies are greedy, and its sampler of another kind would be compiled at the start, by a compiler not at hand
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # a rule's log is what it writes there
    from vllm import LLM

    return LLM(enable_prefix_caching=True, seed=0, **options)


def engine_id(llm: VLLMLLM, lock: Path) -> str:
    """Return all that a reply depends on: weights by digest, engine and version, and what shapes a batch."""
    weights = f"{llm.model}@{model_digest(read_lock(lock))}"
    return f"vllm-{_version()}.{weights}.c{llm.max_concurrent}g{llm.group_size}"


def student_id(student: Path, adapter: Path | None, batch_size: int, rank: int) -> str:
    """Return all that a student's reply depends on; `rank` is what all adapters of its base are padded to, 0: none."""
    content = read_lock(student)
    tuned = f"+{file_sha256(adapter / 'adapter_model.safetensors')[:12]}" if adapter else ""
    return f"vllm-{_version()}.{content['model']}@{model_digest(content)}{tuned}.b{batch_size}r{rank}"


def _version() -> str:
    try:
        return importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            "engine vllm: vllm is not installed here, expected the image of containers/judge.def"
        ) from None


def rank_of(adapters: list[Path]) -> int:
    """Return the rank that vLLM keeps room for: the least of those it takes that no adapter exceeds; 0 for none.

    `adapters` are folders as PEFT writes them. Raises InputError for one that is missing, or of a rank beyond 512.
    """
    ranks = {}
    for folder in adapters:
        file = folder / "adapter_config.json"
        try:
            ranks[file] = int(json.loads(file.read_text(encoding="utf-8"))["r"])
        except FileNotFoundError:
            raise InputError(f"{file}: no such file, expected an adapter of PEFT's") from None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{file}: its `r` cannot be read, expected the configuration of an adapter") from None
    if not ranks:
        return 0
    widest = max(ranks, key=ranks.__getitem__)
    if ranks[widest] > _RANKS[-1]:
        raise InputError(f"{widest}: r: {ranks[widest]}, expected at most {_RANKS[-1]}: vLLM serves no higher rank")
    return next(rank for rank in _RANKS if rank >= ranks[widest])


class VLLM:
    """One model on one GPU. Each group finds an empty prefix cache, so that a reply depends on its group only."""

    def __init__(self, llm: VLLMLLM, lock: Path) -> None:
        self.id, self.group_size = engine_id(llm, lock), llm.group_size
        self._served, self._context = llm.model, read_lock(lock)["context"]
        self._model = _load(
            model=str(lock.parent),
            max_num_seqs=llm.max_concurrent,
            gpu_memory_utilization=llm.gpu_memory,
            max_model_len=self._context,
        )

    def answer(self, requests: list[Request], done: Callable[[int], object]) -> list[Reply]:
        """Answer a group; requests with a common prompt share its keys and values."""
        self._model.reset_prefix_cache()
        tokenizer = self._model.get_tokenizer()
        # the template writes BOS where the model wants one: adding special tokens would double it
        texts = [written_out(tokenizer, r.messages, r.prefill) for r in requests]
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


class Base:
    """A student on one GPU, loaded once, with room for all adapters of a study."""

    def __init__(self, student: Path, adapters: list[Path], batch_size: int) -> None:
        from transformers import AutoTokenizer

        content = read_lock(student)
        self.student, self.context, self.served = student, content["context"], content["model"]
        self.rank = rank_of(adapters)
        self.numbers = {folder: n for n, folder in enumerate(adapters, 1)}  # vLLM's 0 is no adapter
        # the tokenizer that trained it, not one that vLLM may have changed for serving
        self.tokenizer: Any = AutoTokenizer.from_pretrained(student.parent)
        room = {"enable_lora": True, "max_lora_rank": self.rank, "max_cpu_loras": len(adapters)} if adapters else {}
        self.model = _load(
            model=str(student.parent),
            max_num_seqs=batch_size,
            max_model_len=self.context,
            dtype="bfloat16",
            **room,
        )

    def engine(self, adapter: Path | None, batch_size: int) -> Student:
        """Return what answers with an adapter (a folder), or without one."""
        return Student(self, adapter, batch_size)


class Student:
    """Answers greedily, a batch at a time, with one adapter of a base, or with none.

    It is asked in tokens: those of the training template, which a server's own template might not give.
    """

    def __init__(self, base: Base, adapter: Path | None, batch_size: int) -> None:
        self.id = student_id(base.student, adapter, batch_size, base.rank)
        self.group_size = batch_size
        self._base, self._adapter = base, adapter

    def answer(self, requests: list[Request], done: Callable[[int], object]) -> list[Reply]:
        """Answer one batch, which finds an empty prefix cache; replies end at EOS or at their `max_tokens`."""
        base = self._base
        base.model.reset_prefix_cache()
        tokens = prompt_tokens(requests, base.tokenizer)
        lengths = [len(prompt) + r.max_tokens for r, prompt in zip(requests, tokens, strict=True)]
        replies = answer_fitting(requests, tokens, lengths, base.context, self._generate)
        done(len(requests))
        return replies

    def _generate(self, asked: list[tuple[Request, list[int]]]) -> list[Reply]:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        base, lora = self._base, None
        if self._adapter:
            number = base.numbers[self._adapter]
            lora = LoRARequest(f"adapter{number}", number, str(self._adapter))
        # at the EOS that was trained, and not at every one that the model's configuration may list
        ends = {"ignore_eos": True, "stop_token_ids": [base.tokenizer.eos_token_id]}
        sampling = [
            SamplingParams(temperature=0, max_tokens=request.max_tokens, detokenize=False, **ends)
            for request, _ in asked
        ]
        prompts = [{"prompt_token_ids": prompt} for _, prompt in asked]
        outputs = base.model.generate(prompts, sampling, lora_request=lora, use_tqdm=False)
        return [
            written_reply(base.tokenizer, len(prompt), list(output.outputs[0].token_ids), base.served)
            for (_, prompt), output in zip(asked, outputs, strict=True)
        ]


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
