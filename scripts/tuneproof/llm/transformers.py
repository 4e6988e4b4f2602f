"""transformers' generate in the process: any student, with or without an adapter, in batches.

base = Base(lock)  # loaded once
base.engine(None, 16), base.engine(adapter, 16), …  # the base model, and what was tuned, one after the other
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuneproof.arithmetic import Wanted, device, dtype_of, resolved
from tuneproof.errors import InputError
from tuneproof.fetch.weights import model_digest, read_lock
from tuneproof.llm.calls import Reply, Request, answer_fitting
from tuneproof.llm.generation import cache_with_room, lay_out_last
from tuneproof.llm.prompts import written_out
from tuneproof.records import Message, file_sha256


def engine_id(student: Path, adapter: Path | None, batch_size: int, precision: Wanted = "auto") -> str:
    """Return all that a reply depends on: weights and adapter by digest, version, arithmetic, the batch size."""
    content = read_lock(student)
    version = importlib.metadata.version("transformers")
    tuned = f"+{file_sha256(adapter / 'adapter_model.safetensors')[:12]}.fused" if adapter else ""
    exact = resolved(precision)
    return f"transformers-{version}.{content['model']}@{model_digest(content)}{tuned}.{exact}.b{batch_size}"


class Base:
    """A causal language model with its tokenizer, loaded once, and the adapters that were used on it.

    Adapters stay unmerged: as they were tuned, and so that the weights that all share stay what they are. A layer that
    knows other adapters computes what it would with one alone, or with none, bit for bit.
    """

    def __init__(
        self, student: Path, precision: Wanted = "auto", prepare: Callable[[Any], object] = lambda _: None
    ) -> None:
        """Load a student by its lock. `prepare(model)` is told of a PEFT model whenever an adapter was loaded."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        where = device()
        self.student, self.precision, self._prepare = student, resolved(precision), prepare
        self._dtype = dtype_of(precision)
        content = read_lock(student)
        self.context, self.served = content["context"], content["model"]
        self.tokenizer: Any = AutoTokenizer.from_pretrained(student.parent, padding_side="left")
        model: Any = AutoModelForCausalLM.from_pretrained(student.parent, dtype=self._dtype)
        self._model = model.eval().to(where)
        lay_out_last(self._model)
        self._names: dict[Path, str] = {}  # of adapters, as PEFT takes them: it allows no dot, and a path may have some

    def engine(self, adapter: Path | None, batch_size: int) -> Transformers:
        """Return what answers with an adapter (a folder), or without one."""
        return Transformers(self, adapter, batch_size)

    def model(self, adapter: Path | None) -> Any:
        """Return the model with an adapter in use, or with none; the next call changes it."""
        if adapter is None:
            if self._names:
                self._model.base_model.disable_adapter_layers()
            return self._model
        if adapter not in self._names:
            self._load(adapter)
        self._model.base_model.enable_adapter_layers()
        self._model.set_adapter(self._names[adapter])
        return self._model

    def _load(self, adapter: Path) -> None:
        from peft import PeftModel

        name = f"adapter{len(self._names) + 1}"
        if self._names:
            self._model.load_adapter(adapter, name)
        else:
            self._model = PeftModel.from_pretrained(self._model, adapter, name)
        self._prepare(self._model)
        for parameter in self._model.parameters():
            parameter.data = parameter.data.to(self._dtype)  # once; fused layers would do so at every step
        self._model.eval()
        self._names[adapter] = name


class Transformers:
    """Answers greedily, a batch at a time, with one adapter of a base, or with none."""

    def __init__(self, base: Base, adapter: Path | None, batch_size: int) -> None:
        self.id = engine_id(base.student, adapter, batch_size, base.precision)
        self.group_size = batch_size
        self._base, self._adapter = base, adapter
        self._context, self._served, self._tokenizer = base.context, base.served, base.tokenizer

    def answer(self, requests: list[Request], done: Callable[[int], object]) -> list[Reply]:
        """Answer one batch; replies end at the end-of-turn token or at their `max_tokens`.

        A schema is said in words. Choices are answered from the distribution over the next token.
        """
        tokens = prompt_tokens(requests, self._tokenizer)
        lengths = [len(prompt) + r.max_tokens for r, prompt in zip(requests, tokens, strict=True)]
        replies = answer_fitting(requests, tokens, lengths, self._context, self._generate)
        done(len(requests))
        return replies

    def _generate(self, asked: list[tuple[Request, list[int]]]) -> list[Reply]:
        import torch

        model = self._base.model(self._adapter)
        tokenizer, (requests, prompts) = self._tokenizer, zip(*asked, strict=True)
        batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(model.device)
        width = batch["input_ids"].shape[1]
        most = max(r.max_tokens for r in requests)
        with torch.inference_mode():
            output = model.generate(
                **batch,
                past_key_values=cache_with_room(model.config, width + most),
                max_new_tokens=most,
                do_sample=False,
                eos_token_id=tokenizer.eos_token_id,  # what the training taught, whatever the published model ends at
                pad_token_id=tokenizer.pad_token_id,
                output_logits=any(r.choices for r in requests),
                return_dict_in_generate=True,
            )
        return [
            self._distribution(r, int(mask.sum()), output.logits[0][i])
            if r.choices
            else written_reply(
                tokenizer, int(mask.sum()), output.sequences[i, width : width + r.max_tokens].tolist(), self._served
            )
            for i, (r, mask) in enumerate(zip(requests, batch["attention_mask"], strict=True))
        ]

    def _distribution(self, request: Request, prompt_tokens: int, logits: Any) -> Reply:
        assert request.choices
        tokens = [self._tokenizer.encode(choice, add_special_tokens=False) for choice in request.choices]
        if long := [c for c, t in zip(request.choices, tokens, strict=True) if len(t) != 1]:
            raise InputError(f"choice {long[0]!r} is not one token of {self.id}, expected single tokens")
        shares = logits[[t[0] for t in tokens]].float().softmax(0).tolist()
        distribution = dict(zip(request.choices, shares, strict=True))
        best = max(distribution, key=distribution.__getitem__)
        return Reply(best, prompt_tokens, 1, "length", distribution, self._served)


def prompt_tokens(requests: list[Request], tokenizer: Any) -> list[list[int]]:
    """Return the tokens of each request as a student reads it: the chat template up to the reply, and its prefill."""
    # the template writes BOS where the model wants one: adding special tokens would double it
    texts = [written_out(tokenizer, _said(r), r.prefill) for r in requests]
    tokens: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return tokens


def written_reply(tokenizer: Any, prompt_tokens: int, tokens: list[int], served: str) -> Reply:
    """Return what was written as a reply: the tokens before EOS, or all where there is none."""
    end = tokenizer.eos_token_id
    stopped = end in tokens
    written = tokens[: tokens.index(end)] if stopped else tokens
    text = str(tokenizer.decode(written, skip_special_tokens=True)).strip()
    return Reply(text, prompt_tokens, len(written), "stop" if stopped else "length", served=served)


def _said(request: Request) -> list[Message]:
    if not request.schema:
        return request.messages
    last = request.messages[-1]
    words = f"{last['content']}\n\nReply with nothing but JSON of this schema:\n{json.dumps(request.schema)}"
    return [*request.messages[:-1], {**last, "content": words}]
