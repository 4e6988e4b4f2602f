"""Which of the listed products does an answer name? Robust to wording, exact in what counts.

An answer names a product where the product's whole name stands in it: letter case, accents, punctuation, signs such as
™ and plural endings aside. Where no whole name stands there, the words are enough that set a product apart from the
others of its list ("Media Vault" for "Haldrune Media Vault" beside "Haldrune Cage"), all of them and side by side;
a single word is enough only in an answer no longer than the name, since longer ones say "bottle" without meaning
the Haldrune Bottle. Who names several products has named none: a list of everything would else always be right.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from tuneproof.errors import InputError
from tuneproof.instructions.products import Product
from tuneproof.llm.prompts import inert
from tuneproof.records import Example

SEVERAL = "(several)"
NONE = "(none)"
_Words = tuple[str, ...]


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


def choice(text: str, options: Sequence[str]) -> str:
    """Return the option that an answer names, `NONE` where it names none, `SEVERAL` where it names more than one."""
    said = words(text)
    names = {option: words(option) for option in options}
    named = _named(said, names)
    if not named:
        own = {option: _own(option, names) for option in options}
        named = _named(said, {o: part for o, part in own.items() if len(part) > 1 or len(said) <= len(names[o])})
    return SEVERAL if len(named) > 1 else named[0] if named else NONE


def words(text: str) -> _Words:
    """Return a text's words without case, accents, punctuation and English endings (Porter 1980)."""
    plain = unicodedata.normalize("NFKD", re.sub(r"[™®©]", "", text)).casefold()
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    stem = _stemmer().stem
    return tuple(stem(word) for word in re.findall(r"\w+", re.sub(r"['’]s\b", "", plain)))


def _named(said: _Words, names: dict[str, _Words]) -> list[str]:
    """Return the options whose words stand in a text side by side, but for those inside a longer option's words."""
    places = {
        option: [range(i, i + len(name)) for i in range(len(said) - len(name) + 1) if said[i : i + len(name)] == name]
        for option, name in names.items()
        if name
    }

    def inside_another(option: str, place: range) -> bool:
        return any(
            len(other) > len(place) and other.start <= place.start and place.stop <= other.stop
            for name, found in places.items()
            if name != option
            for other in found
        )

    return [o for o, found in places.items() if any(not inside_another(o, place) for place in found)]


def _own(option: str, names: dict[str, _Words]) -> _Words:
    """Return the words of a name that no other name of the list has, from its first to its last; without any, none."""
    others = {word for name, of_name in names.items() if name != option for word in of_name}
    places = [i for i, word in enumerate(names[option]) if word not in others]
    return names[option][places[0] : places[-1] + 1] if places else ()


@functools.cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()
