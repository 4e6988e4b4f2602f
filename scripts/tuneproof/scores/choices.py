"""Which of the listed products does an answer name? Robust to wording, exact in what counts.

An answer names a product where the product's whole name stands in it: letter case, accents, punctuation, signs such as
™ and plural endings aside. Where no whole name does, the words are enough that set a product apart from the
others of its list ("Media Vault" for "Haldrune Media Vault" beside "Haldrune Cage"), all of them and side by side. A
single word is not always one that means the product, since longer answers say "bottle" without the Haldrune Bottle: it
counts in an answer no longer than the name, right behind a recommendation ("take the Cage"), and, with "the" or as the
answer's first word, beside a longer name or part, which it may be set against ("the Cage, not the Media Vault").

A name right behind a denial ("not", "rather than", "over") is not named. Who names several products has named none: a
list of everything would else always be right. `AMONG` tells those of which the right one is a part.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneproof.errors import InputError
from tuneproof.instructions.products import Product
from tuneproof.llm.prompts import inert
from tuneproof.records import Example

SEVERAL = "(several)"
AMONG = "(several, the right one too)"
NONE = "(none)"
_Words = tuple[str, ...]
_WORD = re.compile(r"\w+")
# between the words of one clause
_GAP = r"[^\w.!?;:,\n]+"
_THE = rf"(?:(?:the|an?|our|your){_GAP})?"
_VERB = r"(?:recommend|suggest|choos|tak|pick|select|propos|offer|buy|us|go|opt)(?:e|ing)?"
_DENIAL = re.compile(
    r"(?:(?<!\bwhy )\b(?:not|never|cannot|neither|nor|rather than|(?<!no )(?<!nothing )better than|instead of|over"
    rf"|unlike|avoid|against)|n['’]t){_GAP}"
    rf"(?:{_VERB}{_GAP}(?:(?:with|for){_GAP})?)?{_THE}\Z"
)
_ALSO = re.compile(rf"{_GAP}(?:or|and){_GAP}{_THE}")
_ADVICE = re.compile(
    rf"\b(?:recommend(?:ation)?|suggest|choose|take|pick|go{_GAP}(?:with|for))\b(?:{_GAP}is\b)?"
    rf"[^\w.!?;,]+(?:the{_GAP})?\Z"
)


_THE_ONE = re.compile(rf"\A\W*\Z|\bthe{_GAP}\Z")


@dataclass(frozen=True)
class _Mention:
    """A place in a text where an option's name or part stands: its characters, and how many words it has."""

    option: str
    start: int
    end: int
    words: int


def options_of(example: Example, products: Sequence[Product]) -> list[str]:
    """Return the names of the products that a question lists, in its order.

    Raises InputError where the right one is not among them: products and questions are then not of one data set.
    """
    by_text = {inert(product.text): product.name for product in products}
    listed = [by_text[line] for line in example.question.splitlines() if line in by_text]
    if example.answer not in listed:
        raise InputError(
            f"example {example.id}: {example.answer!r} is none of the products that its question lists, expected the "
            f"products that the data set was made of; they name {len(listed)} of the question's lines"
        )
    return listed


def choice(text: str, options: Sequence[str], right: str | None = None) -> str:
    """Return the option that an answer names, `NONE` where it names none, `SEVERAL` where it names more than one.

    `AMONG` where one of several is `right`.
    """
    plain, names = _plain(text), {option: words(option) for option in options}
    whole = _mentions(plain, names)
    parts = _mentions(plain, {option: _own(option, names) for option in options})
    parts = [part for part in parts if not any(_within(part, name) for name in whole)]
    denied = _denied(plain, [*whole, *parts])
    named = {name.option for name in whole if name not in denied}
    if not named:
        said, longer = len(words(text)), any(mention.words > 1 for mention in (*whole, *parts))
        named = {
            part.option
            for part in parts
            if part not in denied
            and (
                part.words > 1
                or said <= len(names[part.option])
                or _ADVICE.search(plain, 0, part.start)
                or (longer and _THE_ONE.search(plain, 0, part.start))
            )
        }
    if len(named) > 1:
        return AMONG if right in named else SEVERAL
    return named.pop() if named else NONE


def words(text: str) -> _Words:
    """Return a text's words without case, accents, punctuation and English endings (Porter 1980)."""
    return tuple(_stemmer().stem(word) for word in _WORD.findall(_plain(text)))


def _plain(text: str) -> str:
    plain = unicodedata.normalize("NFKD", re.sub(r"[™®©]", "", text)).casefold()
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.sub(r"['’]s\b", "", plain)


def _mentions(plain: str, names: Mapping[str, _Words]) -> list[_Mention]:
    """Return where the options' words stand in a plain text side by side, but for those inside a longer option's."""
    places = [(word.span(), _stemmer().stem(word[0])) for word in _WORD.finditer(plain)]
    said = tuple(stem for _, stem in places)
    found = [
        _Mention(option, places[i][0][0], places[i + len(name) - 1][0][1], len(name))
        for option, name in names.items()
        if name
        for i in range(len(said) - len(name) + 1)
        if said[i : i + len(name)] == name
    ]
    return [
        mention
        for mention in found
        if not any(
            other.option != mention.option and other.words > mention.words and _within(mention, other)
            for other in found
        )
    ]


def _within(inner: _Mention, outer: _Mention) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end


def _denied(plain: str, mentions: Sequence[_Mention]) -> set[_Mention]:
    """Return the mentions right behind a denial, or joined to such a one: "not the Cage or the Vault"."""
    denied: set[_Mention] = set()
    end = None  # of the mention before, if that is denied
    for mention in sorted(mentions, key=lambda m: m.start):
        also = end is not None and _ALSO.fullmatch(plain, end, mention.start)
        end = mention.end if also or _DENIAL.search(plain, 0, mention.start) else None
        if end is not None:
            denied.add(mention)
    return denied


def _own(option: str, names: dict[str, _Words]) -> _Words:
    """Return the words of a name that no other name of the list has, from its first to its last; without any, none."""
    others = {word for name, of_name in names.items() if name != option for word in of_name}
    places = [i for i, word in enumerate(names[option]) if word not in others]
    return names[option][places[0] : places[-1] + 1] if places else ()


@functools.cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()
