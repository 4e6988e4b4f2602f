"""Prompts are files with named gaps in Python's format: {text}; a brace that is meant is doubled.

What stands above a line of three dashes is the system message.
"""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError
from tuneproof.records import Message

_SYSTEM_ENDS = "\n---\n"
# Tokenizers take these for what parts one turn of a chat from the next, wherever they stand.
_MARKER = re.compile(r"<\|(?=\w)|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>")


def read_prompt(path: Path, gaps: set[str]) -> str:
    """Read a prompt file; raise InputError where its gaps are not exactly those that the caller fills."""
    try:
        # a space at the end may be meant: it is the first of what the model goes on with
        template = path.read_text(encoding="utf-8").lstrip().rstrip("\r\n")
        found = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected a prompt with {_list(gaps) or 'no gaps'}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: {error}, expected a prompt with {_list(gaps) or 'no gaps'} and other braces doubled"
        ) from None
    if found != gaps:
        raise InputError(f"{path}: its gaps are {_list(found) or 'none'}, expected {_list(gaps) or 'none'}")
    return template


def fill(template: str, **gaps: str | int) -> str:
    """Return a prompt whose gaps are filled with other people's texts, each made inert."""
    return template.format(**{name: inert(text) if isinstance(text, str) else text for name, text in gaps.items()})


def fill_messages(template: str, **gaps: str | int) -> list[Message]:
    """Return a filled prompt as messages: the user's, and before it the system message where the template has one.

    The template is cut, not the filled text: dashes in other people's texts part nothing.
    """
    *system, user = template.split(_SYSTEM_ENDS, 1)
    said = [{"role": "system", "content": fill(text.strip(), **gaps)} for text in system]
    return [*said, {"role": "user", "content": fill(user.lstrip("\n"), **gaps)}]


def written_out(tokenizer: Any, messages: list[Message], prefill: str) -> str:
    """Return messages as a tokenizer's chat template writes them, with the begun reply behind them.

    A template that knows no system message (Mistral's, and so Prometheus 2's) gets it at the head of the user's, which
    makes "[INST] {system}\\n{user} [/INST]", the form in which prometheus-eval asks.
    """
    from jinja2 import TemplateError

    def write(messages: list[Message]) -> str:
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)) + prefill

    try:
        return write(messages)
    except TemplateError:
        if len(messages) < 2 or messages[0]["role"] != "system":
            raise
        system, user, *others = messages
        return write([{**user, "content": f"{system['content']}\n{user['content']}"}, *others])


def inert(text: str) -> str:
    """Return other people's text in which no marker of a chat template is left: it cannot end its own message."""
    return _MARKER.sub(lambda marker: f"{marker[0][0]} {marker[0][1:]}", text)


def _list(gaps: set[str]) -> str:
    return ", ".join("{" + gap + "}" for gap in sorted(gaps))
