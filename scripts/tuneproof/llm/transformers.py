"""transformers' generate in the process: any student, with or without an adapter, in batches."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError
from tuneproof.fetch.weights import model_digest, read_lock
from tuneproof.llm.calls import Reply, Request, answer_fitting
from tuneproof.records import Message, file_sha256


def engine_id(student: Path, adapter: Path | None, batch_size: int) -> str:
    """Return all that a reply depends on: weights and adapter by digest, the library's version, the batch size."""
    content = read_lock(student)
    version = importlib.metadata.version("transformers")
    tuned = f"+{file_sha256(adapter / 'adapter_model.safetensors')[:12]}" if adapter else ""
    return f"transformers-{version}.{content['model']}@{model_digest(content)}{tuned}.b{batch_size}"


class Transformers:
    """A causal language model that answers greedily, a batch at a time. The adapter stays unmerged: as it was tuned."""

    def __init__(self, student: Path, adapter: Path | None, batch_size: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.id = engine_id(student, adapter, batch_size)
        self.group_size = batch_size
        content = read_lock(student)
        self._context, self._served = content["context"], content["model"]
        self._tokenizer: Any = AutoTokenizer.from_pretrained(student.parent, padding_side="left")
        model: Any = AutoModelForCausalLM.from_pretrained(student.parent, dtype=torch.bfloat16)
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter)
        self._model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    def answer(self, requests: list[Request], done: Callable[[int], object]) -> list[Reply]:
        """Answer one batch; replies end at the end-of-turn token or at their `max_tokens`.

        A schema is said in words. Choices are answered from the distribution over the next token.
        """
        tokenizer = self._tokenizer
        # the template writes BOS where the model wants one: adding special tokens would double it
        texts = [
            tokenizer.apply_chat_template(_said(r), add_generation_prompt=True, tokenize=False) + r.prefill
            for r in requests
        ]
        tokens = tokenizer(texts, add_special_tokens=False)["input_ids"]
        lengths = [len(prompt) + r.max_tokens for r, prompt in zip(requests, tokens, strict=True)]
        replies = answer_fitting(requests, texts, lengths, self._context, self._generate)
        done(len(requests))
        return replies

    def _generate(self, asked: list[tuple[Request, str]]) -> list[Reply]:
        import torch

        tokenizer, (requests, texts) = self._tokenizer, zip(*asked, strict=True)
        batch = tokenizer(list(texts), return_tensors="pt", padding=True, add_special_tokens=False)
        batch = batch.to(self._model.device)
        width = batch["input_ids"].shape[1]
        with torch.inference_mode():
            output = self._model.generate(
                **batch,
                max_new_tokens=max(r.max_tokens for r in requests),
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                output_logits=any(r.choices for r in requests),
                return_dict_in_generate=True,
            )
        return [
            self._distribution(r, int(mask.sum()), output.logits[0][i])
            if r.choices
            else self._reply(int(mask.sum()), output.sequences[i, width : width + r.max_tokens].tolist())
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

    def _reply(self, prompt_tokens: int, tokens: list[int]) -> Reply:
        end = self._tokenizer.eos_token_id
        stopped = end in tokens
        written = tokens[: tokens.index(end)] if stopped else tokens
        text = str(self._tokenizer.decode(written, skip_special_tokens=True)).strip()
        return Reply(text, prompt_tokens, len(written), "stop" if stopped else "length", served=self._served)


def _said(request: Request) -> list[Message]:
    if not request.schema:
        return request.messages
    last = request.messages[-1]
    words = f"{last['content']}\n\nReply with nothing but JSON of this schema:\n{json.dumps(request.schema)}"
    return [*request.messages[:-1], {**last, "content": words}]
