"""Rows as a trainer takes them: tokens, and where the answer begins.

The prompt's tokens are those that a server would send: the template's text with the generation prompt, tokenised as a
server does it. Whatever stands behind it up to the end-of-turn token is the answer, and only the answer is learned.
What no training should begin with (no rows, empty answers, rows longer than the model reads) is refused here, before a
model is loaded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError
from tuneproof.records import Example, content_id, file_sha256, iter_rows

# a further version of the tokens of the same rows: what is cached is made anew
_VERSION = "2"


@dataclass(frozen=True)
class Row:
    """One example in tokens. `tokens[prompt:]` is the answer, EOS included; `id` is the example's."""

    id: str
    tokens: list[int]
    prompt: int


@dataclass(frozen=True)
class Rows:
    """The rows of a file that are trained on, and how many were left out because they are too long."""

    rows: list[Row]
    dropped: int

    @property
    def tokens(self) -> int:
        """Tokens in all, prompts included."""
        return sum(len(row.tokens) for row in self.rows)


def tokenise(messages: Sequence[dict[str, str]], tokenizer: Any) -> tuple[list[int], int]:
    """Return the tokens of a dialogue that ends with an answer, and how many of them are the prompt.

    Raises InputError where the template writes another prompt with the answer than without, or BOS twice.
    """
    asked = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    if not whole.startswith(asked):
        raise InputError(
            f"chat template: a question alone is {asked[-60:]!r} and stands otherwise before its answer, "
            "expected a template that only appends"
        )
    # the template writes BOS where the model wants one: adding special tokens would double it
    prompt, tokens = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (asked, whole))
    if tokens[: len(prompt)] != prompt:  # the answer's first letters would change the prompt's last token
        tokens = prompt + tokenizer(whole[len(asked) :], add_special_tokens=False)["input_ids"]
    if tokenizer.bos_token_id is not None and tokens[:2] == [tokenizer.bos_token_id] * 2:
        raise InputError(f"chat template: {tokenizer.bos_token!r} stands twice at the beginning, expected it once")
    end = tokenizer.eos_token_id
    # nothing after EOS is ever written by a server
    last = len(tokens) - 1 - tokens[::-1].index(end) if end in tokens[len(prompt) :] else None
    tokens = [*tokens, end] if last is None else tokens[: last + 1]
    return tokens, len(prompt)


def read_rows(path: Path, tokenizer: Any, max_tokens: int, too_long: str, cache: Path | None = None) -> Rows:
    """Read a file of examples as rows of tokens, from `cache` where the same rows were tokenised the same way before.

    Raises InputError for a file without rows, for rows without a question or an answer, and for rows longer than
    `max_tokens` where `too_long` is "refuse"; with "drop" they are left out and counted.
    """
    rows = _cached(path, tokenizer, cache)
    if not rows:
        raise InputError(f"{path}: no rows, expected at least one example")
    long = [row for row in rows if len(row.tokens) > max_tokens]
    if long and too_long == "refuse":
        longest = max(long, key=lambda row: len(row.tokens))
        raise InputError(
            f"{path}: {len(long)} of {len(rows)} rows are longer than max_tokens {max_tokens}; the longest, "
            f"{longest.id}, has {len(longest.tokens)}. Raise max_tokens, or leave them out with too_long: drop"
        )
    kept = [row for row in rows if len(row.tokens) <= max_tokens]
    if not kept:
        raise InputError(
            f"{path}: all {len(rows)} rows are longer than max_tokens {max_tokens}, expected some to train on"
        )
    if long:
        print(
            f"train: {path}: {len(long)} of {len(rows)} rows are longer than max_tokens {max_tokens} and left out",
            file=sys.stderr,
        )
    return Rows(kept, len(long))


def _cached(path: Path, tokenizer: Any, cache: Path | None) -> list[Row]:
    if not path.exists():
        raise InputError(f"{path}: no such file, expected examples")
    if cache is None:
        return _tokenised(path, tokenizer)
    key = content_id(_VERSION, file_sha256(path), tokenizer_digest(tokenizer))
    file = cache / f"{key}.safetensors"
    if (rows := _load(file)) is None:
        rows = _tokenised(path, tokenizer)
        _save(file, rows)
    return rows


def _tokenised(path: Path, tokenizer: Any) -> list[Row]:
    from jinja2 import TemplateError

    rows = []
    empty = []
    for example in iter_rows(path, Example):
        *asked, answer = example.messages or [{}]
        if not asked or not answer.get("content", "").strip() or not asked[-1].get("content", "").strip():
            empty.append(example.id)
            continue
        try:
            tokens, prompt = tokenise(example.messages, tokenizer)
        except (InputError, TemplateError) as error:  # a template may refuse a role
            raise InputError(f"{path}: row {example.id}: {error}") from None
        rows.append(Row(example.id, tokens, prompt))
    if empty:
        raise InputError(
            f"{path}: {len(empty)} of {len(rows) + len(empty)} rows have no question or no answer to learn, the first "
            f"is {empty[0]}; expected both"
        )
    return rows


def tokenizer_digest(tokenizer: Any) -> str:
    """Return what stands for all that tokens depend on: vocabulary and rules, template, special tokens."""
    return content_id(
        tokenizer.backend_tokenizer.to_str(), str(tokenizer.chat_template), str(tokenizer.special_tokens_map)
    )


def _load(file: Path) -> list[Row] | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as content:
            tokens, ends, prompts = (content.get_tensor(name).tolist() for name in ("tokens", "ends", "prompts"))
            ids = json.loads(content.metadata()["ids"])
    except (OSError, SafetensorError):  # not there, or torn: it is made anew
        return None
    starts = [0, *ends][: len(ends)]
    return [Row(i, tokens[a:b], p) for i, a, b, p in zip(ids, starts, ends, prompts, strict=True)]


def _save(file: Path, rows: list[Row]) -> None:
    import numpy
    from safetensors.numpy import save

    from tuneproof.records import atomic_write

    lengths = [len(row.tokens) for row in rows]
    tensors: dict[str, Any] = {
        "tokens": numpy.array([t for row in rows for t in row.tokens], numpy.int32),
        "ends": numpy.cumsum(lengths).astype(numpy.int64),
        "prompts": numpy.array([row.prompt for row in rows], numpy.int32),
    }
    with atomic_write(file, "wb") as stream:
        stream.write(save(tensors, {"ids": json.dumps([row.id for row in rows])}))
