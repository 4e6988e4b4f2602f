"""What a text adds to its sources, and what it copies from them."""

from __future__ import annotations

import re

from tuneproof.pairs.screen import content_words, names_in, numbers_in, words_in

_SENTENCE = re.compile(r"(?<=[.!?:])\s+|\n+")
_PRONOUN = re.compile(r"i(?:['’]\w+)?")  # "I", "I'd": capitals that name nothing
_GRAM = 5
# "[Your Name]", "<company>", "XYZ Inc.": what a writer leaves for others to fill in
_GAP = re.compile(r"\[[^\]]*\]|<\w[^>]*>|\b(?:XYZ|ABC|Acme)\b|\blorem\b", re.IGNORECASE)
_POINTS_AT_TEXT = re.compile(
    r"\b(?:the|this|that|given|above) (?:\w+ )?(?:text|description|passage|page|document|paragraph)\b", re.IGNORECASE
)


def invented(text: str, sources: str) -> str | None:
    """Return what a text says that its sources do not, "number" or "name"; None where there is neither."""
    if numbers_in(text) - numbers_in(sources):
        return "number"
    known = words_in(sources)
    # "12-minute" says no more than "12 minutes"
    new = (name for name in names(text) - known if not words_in(name.replace("-", " ")) <= known)
    return "name" if any(new) else None


def names(text: str) -> set[str]:
    """Return the names in each sentence of a text: a capital that begins a sentence makes none, CAPITALS do."""
    found = {name for sentence in _SENTENCE.split(text) if sentence for name in names_in(sentence)}
    found |= words_in(" ".join(re.findall(r"\b[A-Z]{3,}\b", text)))
    return {name for name in found if not _PRONOUN.fullmatch(name)}


def supported(text: str, sources: str) -> float:
    """Return the share of a text's content words that stand in its sources; 0 for a text without any."""
    words = content_words(text)
    return len(words & content_words(sources)) / len(words) if words else 0.0


def copied(text: str, source: str) -> float:
    """Return the share of a text's runs of five words that stand in the source; 0 for a shorter text."""
    grams, known = _grams(text), _grams(source)
    return len(grams & known) / len(grams) if grams else 0.0


def careless(text: str) -> str | None:
    """Return why a text cannot stand for itself: it has a gap to fill in, or points at its source."""
    if _GAP.search(text):
        return "has a gap to fill in"
    return "points at its source" if _POINTS_AT_TEXT.search(text) else None


def _grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)}
