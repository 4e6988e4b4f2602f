"""Make a fetched model trainable: one transformers folder with safetensors, a pad token of its own, a true length.

GGUF weights are dequantised once here (13 s for the default student, against 0.3 s for loading safetensors).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError
from tuneproof.fetch.weights import read_lock
from tuneproof.records import file_sha256, write_json


def prepare_student(lock: Path, out: Path, chat_template: Path | None = None) -> None:
    """Read the model that `lock` names and write `out` (a lock too) with the transformers folder beside it.

    `chat_template` is written into the tokenizer, in place of its own where it has one.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    content = read_lock(lock)
    source: dict[str, Any] = {}
    if content["format"] == "gguf":
        from transformers import GgufConfig

        gguf = content["files"][0]["name"]
        tokenizer = AutoTokenizer.from_pretrained(lock.parent, gguf_file=gguf)
        source = {"gguf_file": gguf, "quantization_config": GgufConfig(dequantize=True)}
    else:
        tokenizer = AutoTokenizer.from_pretrained(lock.parent)
    if chat_template:
        tokenizer.chat_template = read_template(chat_template)
    if tokenizer.chat_template is None:
        raise InputError(
            f"{lock.parent}: the model has no chat template, expected one in its tokenizer or as chat_template"
        )
    model = AutoModelForCausalLM.from_pretrained(lock.parent, dtype=torch.bfloat16, **source)

    # Never pad with EOS: a collator that masks pad would mask EOS too, and the model would never learn to stop.
    tokenizer.pad_token = pad_token(tokenizer)
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = content["context"]  # GGUF says 1e30
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id

    out.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent.parent, prefix=".student.") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        shutil.rmtree(out.parent, ignore_errors=True)
        shutil.copytree(folder, out.parent)
    files = [{"name": p.name, "sha256": file_sha256(p), "size": p.stat().st_size} for p in sorted(out.parent.iterdir())]
    write_json(out, {**content, "format": "transformers", "files": files})


def read_template(path: Path) -> str:
    """Read a Jinja file, without the line end after its last line; raise InputError where there is none."""
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected a Jinja chat template") from None


def pad_token(tokenizer: Any) -> str:
    """Return a special token that is neither EOS nor BOS; raise InputError where the tokenizer has none."""
    taken = {tokenizer.eos_token, tokenizer.bos_token}
    if tokenizer.pad_token and tokenizer.pad_token not in taken:
        return str(tokenizer.pad_token)
    for token in (tokenizer.unk_token, *tokenizer.all_special_tokens):
        if token and token not in taken:
            return str(token)
    raise InputError(f"no token to pad with: special tokens are {tokenizer.all_special_tokens}, all of them BOS or EOS")
