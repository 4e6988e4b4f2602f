"""Product description to sales pitch: the description is a page's own prose, the pitch an LLM's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from tuneproof.instructions.draw import Unit
from tuneproof.instructions.grounds import careless, copied, invented, supported
from tuneproof.instructions.products import cut, prose, title_of
from tuneproof.llm.calls import Request
from tuneproof.llm.prompts import fill
from tuneproof.records import Chunk, Pair

_DESCRIPTION_LENGTH = 450
_MAX_TOKENS = 220
_WORDS = range(20, 101)
# A page's later chunks may explain an idea and not what the page is named for.
_LEAST_WORDS = 25
_NAMED = 0.5
_COPIED = 0.5
# Share of the pitch's content words that must stand in the description: praise is new, what is praised is not.
_GROUNDED = 0.5


class _Pitch(BaseModel):
    model_config = ConfigDict(extra="forbid")
    # Not as a list of short sentences: held to a length by the grammar, a small model garbles words and copies more.
    pitch: Annotated[str, Field(min_length=1, max_length=1000)]


SHAPE = _Pitch
GAPS = {"description"}
NEEDS = "prose that describes what its page is named for"
VARIANTS = 1


def usable(chunk: Chunk, pairs: Sequence[Pair]) -> bool:
    """Tell whether a chunk is prose that describes what its page is named for."""
    text = prose(chunk.text)
    return len(text.split()) >= _LEAST_WORDS and supported(title_of(chunk), text) >= _NAMED


def request(unit: Unit, template: str) -> Request:
    """Return the request for a pitch of what a chunk describes; there is one variant."""
    prompt = fill(template, description=description(unit.chunk))
    return Request([{"role": "user", "content": prompt}], _MAX_TOKENS, schema=_Pitch.model_json_schema())


def parts(unit: Unit, reply: str) -> tuple[str, str]:
    """Return the description and the pitch."""
    return description(unit.chunk), " ".join(_Pitch.model_validate_json(reply).pitch.split())


def fault(chunk: Chunk, material: str, pitch: str) -> str | None:
    """Return why a pitch cannot be kept, or None."""
    if len(pitch.split()) not in _WORDS:
        return "too short or too long"
    if pitch[-1:] not in ".!?":
        return "is cut off"
    if careless(pitch):
        return "has a gap, or points at the text"
    if what := invented(pitch, material):
        return f"has a {what} the description lacks"
    if copied(pitch, material) > _COPIED:
        return "copies the description"
    if supported(pitch, material) < _GROUNDED:
        return "is not grounded in the description"
    return None


def description(chunk: Chunk) -> str:
    """Return the chunk's prose, at most 450 characters of whole sentences, after the page's title if it lacks that."""
    text = cut(prose(chunk.text), _DESCRIPTION_LENGTH)
    return text if supported(title_of(chunk), text) == 1 else f"{title_of(chunk)}. {text}"
