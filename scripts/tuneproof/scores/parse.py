"""Read the score out of what a judge has written: strictly, as the prompt demands it, and leniently.

`strict` wants "[RESULT] n" as the very end of the reply, n one digit from 1 to 5, nothing behind it but white space.
`lenient` reads what a person would take for the verdict: bold type, "4.", "4/5", "(4)", "4</s>", "4 (good)", "4.0",
"[RESULTADO] 4", and without any such marker a last sentence like "Score: 4" or "Bewertung: 4 von 5". Wherever `strict`
finds a score, `lenient` finds the same. docs/judges.md has both beside the parser of prometheus-eval, case by case.

Neither guesses. A number that is no whole score (4.5, 4/10, 3-4, 6), markers that contradict each other, a marker
inside a quotation, a verdict that is denied ("not a score of 5") or of something else ("a perfect response would get a
score of 5"), and a last sentence that may be the answer's own give None: what is missing can be counted and bounded,
what is wrong cannot.
"""

from __future__ import annotations

import re

# What judges write for "result" or "score" where they answer in the language of what they read.
_WORDS = (
    "result|score|rating|grade|resultado|puntuación|puntuacion|calificación|nota|pontuação|résultat|resultat|note|"
    "risultato|punteggio|voto|ergebnis|bewertung|punktzahl|note|resultaat|beoordeling|cijfer|wynik|ocena|betyg|"
    "результат|оценка|结果|結果|评分|評分|得分|スコア|評価|결과|점수"
)
_OF = r"(?:/|／|out\s+of|of|von|de|sur|su|van|av|z|из)"
_OF_FIVE = rf"(?:\s*{_OF}\s*(?:5(?:[.,]0+)?|five\b))?"
_NUMBER = rf"""
    (?P<score>[1-5])(?:[.,]0+)?{_OF_FIVE}
    (?![A-Za-z0-9_])                                            # 45, 4th
    (?!\s*[.,]\d)(?!\s*%)                                       # 4.5, 4 %
    (?!\s*{_OF}\s*\d)(?!\s*out\s+of\b)                          # 4/10, 4 out of ten
    (?!\s*(?:-|–|—|~|to|or|bis|tot|till|à|a|oder|ou|o|and|und|et|y|\+)\s*\d) # 3-4, 4 or 5
    (?![ \t]+\d)                                                # 1 2 3 4 5
"""
_OPENING = r"[\s:=：*_({\[]*"
# Also "[RESULT: 4]". `judge.quotable` takes every such marker out of what is judged.
MARKER = re.compile(rf"\[(?:{_WORDS})(?:\]|(?=\s*[:=]))", re.IGNORECASE)
_AFTER_MARKER = re.compile(rf"{_OPENING}(?:(?:{_WORDS})\b{_OPENING})?{_NUMBER}", re.IGNORECASE | re.VERBOSE)
_STRICT = re.compile(r"\[RESULT\]\s*([1-5])\s*\Z")
_CLOSING = r"(?:[\s.!*_)}\]。]|</s>|\([^()\d]{0,40}\)|stars?|points?|punkte?n?|puntos|分|点|점)*"
_STATED = rf"(?<!\w)(?:{_WORDS})\b(?:\s*\([^()]*\))?[\s:=：*_]*(?:(?:is|of|ist|est|es|è)\b)?{_OPENING}{_NUMBER}"
_STATED_ANYWHERE = re.compile(_STATED, re.IGNORECASE | re.VERBOSE)
_STATED_LAST = re.compile(rf"{_STATED}{_CLOSING}\Z", re.IGNORECASE | re.VERBOSE)
_NUMBER_ALONE = re.compile(rf"{_OPENING}{_NUMBER}{_CLOSING}\Z", re.IGNORECASE | re.VERBOSE)
_CLOSED = re.compile(rf"{_CLOSING}\Z", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])(?!\Z)|[\n\r\u2028\u2029]+")
_DENIED = re.compile(r"\b(?:not|cannot|never|nicht|keine?|pas|no|não|nunca|non|не)\b|n['’]t\b", re.IGNORECASE)
# no more than that: "it is perfect", "like the reference answer" may be said of the answer, and a high score must not
# go missing where a low one does not
_OF_ANOTHER = re.compile(
    r"\breference\s+answer\s*\(|\brubrics?\s+(?:says?|gives?|asks?)\b|\bperfect\s+(?:response|answer|reply)\b"
    r"|(?<!\bi\s)\bwould\b",
    re.IGNORECASE,
)


def strict(text: str) -> int | None:
    """Return the score of a reply that ends as the prompt demands; None for any other."""
    found = _STRICT.search(text)
    return None if not found or _after_quote(text, found.start()) else int(found[1])


def lenient(text: str, answer: str = "") -> int | None:
    """Return the score that a reply states in whatever form; None where it states none, or several.

    Scores behind markers must all be readable and the same, except that the last word counts where it is in the form
    demanded. Without a marker the last sentence is read, or a reply that is nothing but a number. `answer` is what was
    judged: where it states the same score itself, the last sentence may be a quotation, and there is none.
    """
    if (score := strict(text)) is not None:
        return score
    markers = [found for found in MARKER.finditer(text) if not _quoted(text, found.start())]
    if markers:
        scores = {_score(_AFTER_MARKER.match(text, found.end())) for found in markers}
        return scores.pop() if len(scores) == 1 else None
    text = text.strip()
    last = _last_sentence(text)
    if any(refused.search(last) for refused in (MARKER, _DENIED, _OF_ANOTHER)):
        return None
    if not (stated := _STATED_LAST.search(last)):
        return _score(_NUMBER_ALONE.match(text))
    said_by_answer = {_score(found) for found in _STATED_ANYWHERE.finditer(answer)}
    if _quoted(text, len(text) - len(last) + stated.start()) or _score(stated) in said_by_answer:
        return None
    return _score(stated)


def _last_sentence(text: str) -> str:
    """Return the last sentence or line; what only closes a reply ("Score: 4. (good)") is none."""
    ends = [end.end() for end in _SENTENCE_END.finditer(text, 0, len(_CLOSED.sub("", text, count=1)))]
    return text[ends[-1] if ends else 0 :]


def _score(found: re.Match[str] | None) -> int | None:
    return int(found["score"]) if found else None


def _after_quote(text: str, place: int) -> bool:
    """Tell whether a quotation begins right before a place; one that ends there ("Paris." [RESULT] 2) is no reason."""
    before = text[:place].rstrip("*")
    return before[-1:] in tuple("“„«‹「『'`") or (before[-1:] == '"' and before.count('"') % 2 == 1)


def _quoted(text: str, place: int) -> bool:
    """Tell whether a place stands inside a quotation. Quotes around the whole reply are none."""
    if _after_quote(text, place):
        return True
    start = text.rfind("\n", 0, place) + 1
    before = text[start:place]
    if not text[:start].strip():
        before = before.lstrip()
        before = before[1:] if before[:1] in ('"', "“", "«") else before
    opened, closed = before.count("“"), before.count("”")
    if "„" in before:  # of which “ is the end
        opened, closed = before.count("„"), opened + closed
    return before.count('"') % 2 == 1 or opened > closed or before.count("«") != before.count("»")
