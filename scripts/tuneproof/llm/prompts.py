"""Prompts are files with named gaps in Python's format: {text}; a brace that is meant is doubled."""

from __future__ import annotations

import re
import string
from pathlib import Path

from tuneproof.errors import InputError

# Tokenizers take these for what parts one turn of a chat from the next, wherever they stand.
_MARKER = re.compile(r"<\|(?=\w)|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>")


def read_prompt(path: Path, gaps: set[str]) -> str:
    """Read a prompt file; raise InputError where its gaps are not exactly those that the caller fills."""
    try:
        template = path.read_text(encoding="utf-8").strip()
        found = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected a prompt with {_list(gaps)}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}, expected a prompt with {_list(gaps)} and other braces doubled") from None
    if found != gaps:
        raise InputError(f"{path}: its gaps are {_list(found) or 'none'}, expected {_list(gaps)}")
    return template


def fill(template: str, **gaps: str | int) -> str:
    """Return a prompt whose gaps are filled with other people's texts, each made inert."""
    return template.format(**{name: inert(text) if isinstance(text, str) else text for name, text in gaps.items()})


def inert(text: str) -> str:
    """Return other people's text in which no marker of a chat template is left: it cannot end its own message."""
    return _MARKER.sub(lambda marker: f"{marker[0][0]} {marker[0][1:]}", text)


def _list(gaps: set[str]) -> str:
    return ", ".join("{" + gap + "}" for gap in sorted(gaps))
