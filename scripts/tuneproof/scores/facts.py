"""Fact recall: does an answer hold the facts that its reference answer holds? Exact, without any judge.

A table of facts (id, path, subject, attribute, value, aliases) says what each page states. A fact counts for a
question when its page is the question's page, its value stands in the reference answer, and the question does not
already give it away.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from tuneproof.records import Example, iter_rows


@dataclass(frozen=True)
class Fact:
    """One row of the table of facts. `value` and `aliases` are spellings of the same thing."""

    id: str
    path: str
    subject: str
    attribute: str
    value: str
    aliases: list[str]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # not inside a longer word or number: "7.7 MW" is not in "17.7 MW", "4" not in "4.5"
        spellings = "|".join(re.escape(_plain(s)) for s in (self.value, *self.aliases))
        return re.compile(rf"(?<![\w.,])(?:{spellings})(?!\w|[.,]\d)")

    def stated_in(self, text: str) -> bool:
        """Tell whether a text holds the value in one of its spellings."""
        return bool(self._pattern.search(_plain(text)))


def read_facts(path: Path | None) -> dict[str, list[Fact]]:
    """Return the facts of each page by the path of its URL; none without a table."""
    facts: dict[str, list[Fact]] = {}
    for fact in iter_rows(path, Fact) if path else ():
        facts.setdefault(fact.path, []).append(fact)
    return facts


def facts_asked(example: Example, facts: dict[str, list[Fact]]) -> list[Fact]:
    """Return the facts that a right answer to an example holds."""
    return [
        fact
        for fact in facts.get(urlsplit(example.url).path, [])
        if fact.stated_in(example.answer) and not fact.stated_in(example.question)
    ]


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return re.sub(r"\s+", " ", text)
