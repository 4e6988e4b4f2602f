"""Keep the pairs that can be defended: grounded in a verified quote, understood without the page, asked once.

The checks are rules, not opinions: each drop carries the reason that the data set's card counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any

from tuneproof.records import Chunk, Pair, content_id

# A question that points at a page it does not show. "the document number of X" and "the list of X" name things.
_POINTS_AT_PAGE = re.compile(
    r"\b(?:the|this|that) (?:\w+ )?(?:text|passage|excerpt|paragraph|snippet)\b"
    r"|\b(?:this|given|provided|following|above) (?:\w+ )?"
    r"(?:document|page|article|section|guide|table|list|sentence|example)\b"
    r"|\bthe (?:document|page|article|section|guide|quote|website)"
    r"(?:[?.,]|$| (?:about|say|mention|describe|state|suggest|provide))"
    r"|\b(?:according to|mentioned|described|stated|listed|discussed|shown) (?:in|above|below|here)?\s*"
    r"(?:the|this)?\s*(?:text|document|page|passage|article|section|above|below|here|guide)\b",
    re.IGNORECASE,
)
# A pronoun where the subject should stand: "What does it cost?", "Who is its manager?"
_DANGLING = re.compile(
    r"\b(?:does|do|did|is|are|was|were|can|will|has|have|should|would|of|for|by|in|at|with)\s+(?:it|they|them|this|these|those)\b"
    r"|\b(?:its|their|his|her)\b",
    re.IGNORECASE,
)
# "What is the name of the metro?": a definite thing that only the page tells apart. "the purpose of …" is none.
_UNNAMED = re.compile(
    r"\bthe (?!(?:difference|purpose|role|benefit|(?:dis)?advantage|meaning|point|effect|reason|idea|term|use)s?\b)",
    re.IGNORECASE,
)
_NO_ANSWER = re.compile(
    r"\b(?:not (?:stated|specified|mentioned|provided|given)|does not (?:say|state|specify|mention)|unknown|n/a)\b",
    re.IGNORECASE,
)
# A page that talks to the model instead of its readers: an order to forget the prompt, a reply made up for it, or the
# markers of a chat. Not one of the 2,488 chunks of the sample site, ironic-docs and packet-docs has any.
_ORDER = re.compile(
    r"\b(?:ignor|disregard|forget|vergiss|vergesst|oubli|olvid)\w*\b.{0,60}?"
    r"\b(?:instruc\w+|prompts?|rules|anweisung\w*|regeln|consignes|reglas)\b"
    r"|(?:忽略|无视|忘记).{0,20}(?:指令|指示|规则|提示)"
    r"|\"(?:pairs|quote|question|answer)\"\s*:"
    r"|<\s?\|\s?\w+\s?\|\s?>|\[/?INST\]|^\W*(?:system|assistant)\s*:",
    re.IGNORECASE | re.MULTILINE,
)
_STOP = frozenset(
    """a an the of in on at to for from by with and or is are was were be been it its this that as has have had does
    do did can will would should may not no which who whom what when where why how each every per their they them
    there""".split()
)
# A word with what may stand inside one: "Drune's", "1,240", "haldrune.test/metros", "ironic-dbsync".
_WORD = re.compile(r"\w[\w.'’,/-]*\w|\w")
_MARKED = re.compile(r"[\d_]|\w[./]\w")
_FIRST_PERSON = re.compile(r"\s*(?:we|our|i|my)\b", re.IGNORECASE)
_MIN_QUESTION_WORDS = 3
# Share of the answer's content words that must stand in its chunk or its question. Rewording is allowed, inventing not.
_GROUNDED_WORDS = 0.6


def screen(
    pairs: list[Pair], chunks: dict[str, Chunk], embed: Callable[[list[str]], Any], near_duplicate: float
) -> tuple[list[Pair], list[tuple[Pair, str]]]:
    """Return the kept pairs and the dropped ones with their reason. `embed` maps texts to vectors of length 1."""
    kept: list[Pair] = []
    dropped: list[tuple[Pair, str]] = []
    seen: set[str] = set()
    for pair in pairs:
        reason = fault(pair, chunks[pair.chunk_id].text)
        if reason is None and plain(pair.question) in seen:
            reason = "duplicate question"
        if reason is None:
            seen.add(plain(pair.question))
            kept.append(pair)
        else:
            dropped.append((pair, reason))
    if not kept:
        return kept, dropped
    copies = near_duplicates([p.question for p in kept], embed([p.question for p in kept]), near_duplicate)
    dropped += [(pair, "near-duplicate question") for i, pair in enumerate(kept) if i in copies]
    return [pair for i, pair in enumerate(kept) if i not in copies], dropped


def draw_pairs(pairs: list[Pair], groups: dict[str, str], limit: int | None) -> tuple[list[Pair], list[Pair]]:
    """Return at most `limit` pairs, taken from the groups in turn, and the rest; order is kept.

    `groups` maps chunk ids to groups. Within a group the hash of the ids decides.
    """
    if limit is None or limit >= len(pairs):
        return pairs, []
    taken: Counter[str] = Counter()
    turns: dict[str, tuple[int, str]] = {}
    for pair in sorted(pairs, key=lambda p: content_id("draw", p.id)):
        group = groups[pair.chunk_id]
        turns[pair.id] = taken[group], group
        taken[group] += 1
    drawn = set(sorted(turns, key=lambda i: turns[i])[:limit])
    return [p for p in pairs if p.id in drawn], [p for p in pairs if p.id not in drawn]


def fault(pair: Pair, text: str) -> str | None:
    """Return why a pair cannot be kept on its own account, or None."""
    if not quote_in(pair.quote, text):
        return "quote is not in the text"
    if content_words(f"{pair.question} {pair.answer} {pair.quote}") & words_of_orders(text):
        return "repeats an order to the model"
    if not pair.question.rstrip().endswith("?") or len(pair.question.split()) < _MIN_QUESTION_WORDS:
        return "not a question"
    if _POINTS_AT_PAGE.search(pair.question):
        return "question points at the page"
    if _DANGLING.search(pair.question):
        return "question's subject is a pronoun"
    if not names_in(pair.question) and _UNNAMED.search(pair.question):
        return "question names no subject"
    return answer_fault(pair.question, pair.answer, text)


def answer_fault(question: str, answer: str, text: str) -> str | None:
    """Return why an answer that rests on a text cannot be kept, or None."""
    if _NO_ANSWER.search(answer) or _POINTS_AT_PAGE.search(answer):
        return "answer answers nothing"
    if answer.rstrip().endswith(":"):
        return "answer is cut off"
    if _FIRST_PERSON.match(answer):
        return 'answer speaks as "we"'
    if not content_words(answer) - content_words(question):
        return "question holds the answer"
    if numbers_in(answer) - numbers_in(text) - numbers_in(question):
        return "answer has a number the text lacks"
    if names_in(answer) - words_in(text) - words_in(question):
        return "answer has a name the text lacks"
    words = content_words(answer)
    supported = words & (content_words(text) | content_words(question))
    if not words or len(supported) < _GROUNDED_WORDS * len(words):
        return "answer is not grounded in the text"
    return None


def words_of_orders(text: str) -> set[str]:
    """Return the words that stand only in sentences of a text that give the model orders."""
    if not _ORDER.search(text):
        return set()
    parts = [part for part in re.split(r"\n+|(?<=[.!?])\s+|(?<=。)", text) if part]
    orders = [bool(_ORDER.search(part)) for part in parts]
    said = [
        {w for part, order in zip(parts, orders, strict=True) if order is kind for w in content_words(part)}
        for kind in (True, False)
    ]
    return said[0] - said[1]


def quote_in(quote: str, text: str) -> bool:
    """Tell whether the words of a quote stand in a text in that order; Markdown, case and punctuation do not count."""
    return bool(plain(quote)) and f" {plain(quote)} " in f" {plain(text)} "


def names_in(text: str) -> set[str]:
    """Return the words that name something, in lower case.

    A name has a digit, an underscore, a capital (not the first word), is an address or stands in `code`.
    """
    words = _WORD.findall(text)
    marked = marked_in(text)
    code = {word for part in re.findall(r"`([^`]+)`", text) for word in _WORD.findall(part)}
    return marked | {_stem(w) for i, w in enumerate(words) if (i > 0 and w[0].isupper()) or w in code}


def marked_in(text: str) -> set[str]:
    """Return the names that are one wherever they stand and however they are set: with a digit, _, or an address."""
    return {_stem(w) for w in _WORD.findall(text) if _MARKED.search(w)}


def words_in(text: str) -> set[str]:
    """Return the words of a text in the form in which `names_in` gives names."""
    return {_stem(w) for w in _WORD.findall(text)}


def numbers_in(text: str) -> set[str]:
    """Return the numbers of a text, thousands separators dropped."""
    return {n.replace(",", "").rstrip(".") for n in re.findall(r"\d[\d,]*(?:\.\d+)?", text)}


def near_duplicates(questions: list[str], vectors: Any, threshold: float) -> set[int]:
    """Return the positions of questions that repeat an earlier one.

    Two questions alike but for a name ("… of CV1?", "… of CV2?") have a cosine near 1 and ask for different things:
    only questions that name the same things can be copies.
    """
    copies: set[int] = set()
    kept: dict[frozenset[str], list[int]] = {}  # by what they name: only these are compared
    for i, question in enumerate(questions):
        alike = kept.setdefault(frozenset(names_in(question)), [])
        if alike and (vectors[alike] @ vectors[i]).max() >= threshold:
            copies.add(i)
        else:
            alike.append(i)
    return copies


def plain(text: str) -> str:
    """Return the words of a text in lower case: what is equal but for case, Markdown and punctuation."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+(?:[.,]\d+)*", text))


def content_words(text: str) -> set[str]:
    """Return the words of a text that carry its content, without endings of plurals."""
    return {_stem(w) for w in plain(text).split() if w not in _STOP}


def _stem(word: str) -> str:
    """A light touch, so that "cabinets" supports "cabinet" and "Drune's" supports "Drune"."""
    word = re.sub(r"['’]s?$", "", word.casefold())
    return word[:-1] if len(word) > 3 and word.endswith("s") else word
