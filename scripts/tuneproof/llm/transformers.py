"""transformers' generate in the process: any student, with or without an adapter, in batches."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError
from tuneproof.fetch.weights import model_digest, read_lock
from tuneproof.llm.calls import Reply, Request
from tuneproof.records import file_sha256


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
        self._context = read_lock(student)["context"]
        self._tokenizer: Any = AutoTokenizer.from_pretrained(student.parent, padding_side="left")
        model: Any = AutoModelForCausalLM.from_pretrained(student.parent, dtype=torch.bfloat16)
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter)
        self._model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    def answer(self, requests: list[Request], done: Callable[[int], object]) -> list[Reply]:
        """Answer one batch; replies end at the end-of-turn token or at the largest `max_tokens` of the batch."""
        import torch

        if any(r.schema or r.choices for r in requests):
            raise InputError("engine transformers answers in free text: it takes neither a schema nor choices")
        tokenizer = self._tokenizer
        # the template writes BOS where the model wants one: adding special tokens would double it
        texts = [
            tokenizer.apply_chat_template(r.messages, add_generation_prompt=True, tokenize=False) + r.prefill
            for r in requests
        ]
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(self._model.device)
        limit = max(r.max_tokens for r in requests)
        width = batch["input_ids"].shape[1]
        if width + limit > self._context:
            raise InputError(f"{width} tokens of prompt and {limit} of answer do not fit {self._context}: {self.id}")
        with torch.inference_mode():
            output = self._model.generate(
                **batch, max_new_tokens=limit, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        done(len(requests))
        return [
            self._reply(int(mask.sum()), row[width:].tolist())
            for mask, row in zip(batch["attention_mask"], output, strict=True)
        ]

    def _reply(self, prompt_tokens: int, tokens: list[int]) -> Reply:
        end = self._tokenizer.eos_token_id
        stopped = end in tokens
        written = tokens[: tokens.index(end)] if stopped else tokens
        text = str(self._tokenizer.decode(written, skip_special_tokens=True)).strip()
        return Reply(text, prompt_tokens, len(written), "stop" if stopped else "length")
