"""Metrics that need no judge: ROUGE, BERTScore, facts recalled, the product named, length, and refusals."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tuneproof.errors import InputError
from tuneproof.instructions.products import Product
from tuneproof.records import Answer, Example, Measure
from tuneproof.scores.bertscore import BERTSCORE, BertScore
from tuneproof.scores.choices import choice, options_of
from tuneproof.scores.facts import Fact, facts_asked
from tuneproof.scores.rouge import ROUGE, rouge

# What `Measure.values` may hold, in the order of the tables. accuracy: the right product is named, 1 or 0. refused:
# the answer declines, 1 or 0. tokens: the student's; words: by white space.
VALUES = ("accuracy", *ROUGE, *BERTSCORE, "refused", "tokens", "words")

_CONTRACTED = (("’", "'"), ("can't", "cannot"), ("can not", "cannot"), ("n't", " not"), ("'m", " am"), ("'re", " are"))
_UNABLE = r"(?:cannot|could not|am unable to|are unable to|am not able to|are not able to)"
_ADVERB = r"(?:also |(?!only|merely|solely)[a-z]+ly )?"  # "does not only say" is no refusal
_SOURCE = r"(?:the|this|your|given|provided|above) (?:[a-z]+ )?(?:information|text|context|documents?|passages?|page)"
_MODEL = r"(?: large)?(?: language)?(?: model| assistant| system| chatbot)?"
_REFUSAL = re.compile(
    "|".join(
        [
            rf"\b(?:i|we) {_ADVERB}do not {_ADVERB}(?:know|have (?:access|any|enough|that|the|this|information))\b",
            rf"\b(?:i|we) {_ADVERB}{_UNABLE} (?:answer|help|assist|provide|say|tell|determine|find|recommend|summari)",
            r"\b(?:i am|we are) not (?:sure|certain|aware|familiar)\b",
            r"\b(?:i|we) have no (?:idea|information|knowledge|access)\b",
            rf"\bas an ai(?![\w-]){_MODEL},?(?: [a-z]+){{1,3}} (?:not|no|cannot|unable|lack)\b",
            (
                rf"\b{_SOURCE} (?:do|does|did) not {_ADVERB}"
                "(?:say|state|mention|contain|provide|specify|include|tell|answer)"
            ),
            rf"\bis not {_ADVERB}(?:said|specified|mentioned|stated|provided|given|known) in {_SOURCE}",
            rf"\bthere (?:is|was) {_ADVERB}no mention of\b[^.!?]* in {_SOURCE}",
            rf"\b{_SOURCE} (?:makes?|contains?|has) {_ADVERB}no mention of\b",
            r"\b(?:there is|there was|i have) (?:no|not enough|insufficient) information\b",
            r"\bcannot be (?:determined|answered)\b",
            r"^\W*(?:(?:it|this|that|the (?:answer|information)) is )?(?:unknown|not (?:known|available|specified))\b",
        ]
    ),
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_APOLOGY = re.compile(r"\W*(?:i apologi[sz]e|(?:i am |we are )?(?:very |so )?sorry)\b", re.IGNORECASE)


def measure(
    answers: list[Answer],
    examples: list[Example],
    trained: list[Example],
    facts: dict[str, list[Fact]],
    *,
    stemmer: bool = True,
    bertscore: BertScore | None = None,
    products: Sequence[Product] | None = None,
) -> list[Measure]:
    """Return one row per answer. Raises InputError where answers and test examples are not the same set.

    A fact counts as trained when a training answer about the same page states it. `products`: those of a data set of
    recommendations, whose answers name one.
    """
    by_id = {e.id: e for e in examples}
    if by_id.keys() != {a.example_id for a in answers} or len(answers) != len(examples):
        raise InputError(f"{len(answers)} answers for {len(examples)} test examples: expected one for each")
    trained_facts = {fact.id for e in trained for fact in facts_asked(e, facts)}
    asked = [by_id[answer.example_id] for answer in answers]
    references = [_references(example) for example in asked]
    matched = bertscore.score([a.text for a in answers], references) if bertscore else [{} for _ in answers]
    rows = []
    for answer, example, known, matches in zip(answers, asked, references, matched, strict=True):
        expected = facts_asked(example, facts)
        recalled = {fact.id for fact in expected if fact.stated_in(answer.text)}
        trained_on = {fact.id for fact in expected} & trained_facts
        named = choice(answer.text, options_of(example, products), example.answer) if products is not None else None
        values = {
            **({} if named is None else {"accuracy": float(named == example.answer)}),
            **rouge(answer.text, known, stemmer),
            **matches,
            "refused": float(refuses(answer.text)),
            "tokens": float(answer.tokens),
            "words": float(len(answer.text.split())),
        }
        if not example.references:
            values = {name: value for name, value in values.items() if "_best" not in name}
        rows.append(
            Measure(
                answer_id=answer.id,
                example_id=example.id,
                values=values,
                facts=len(expected),
                facts_recalled=len(recalled),
                trained_facts=len(trained_on),
                trained_facts_recalled=len(trained_on & recalled),
                named=named,
                encoder=bertscore.settings if bertscore else None,
            )
        )
    return rows


def refuses(text: str) -> bool:
    """Tell whether an answer declines in English: "I don't know", "I cannot help", "The text does not say".

    Only its beginning is looked at, an apology aside: an answer that goes on to say what it does not know has answered.
    """
    for short, long in _CONTRACTED:
        text = text.replace(short, long)
    sentences = [s for s in _SENTENCE.split(text.strip()) if s]
    if len(sentences) > 1 and _APOLOGY.match(sentences[0]):
        sentences = sentences[1:]
    return bool(sentences and _REFUSAL.search(sentences[0]))


def _references(example: Example) -> list[str]:
    """The reference answer first, then the others that are known."""
    return [example.answer, *(text for text in example.references if text != example.answer)]
