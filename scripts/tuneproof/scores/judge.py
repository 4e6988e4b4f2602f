"""A judge scores an answer from 1 to 5 against the reference answer.

Scored by distribution (`expected`): the judge's reply is begun with "[RESULT] " and the score is the mean over the
probabilities of the tokens 1 to 5 at that place. Small judges write scores at chance, but their distributions tell
right from wrong. Scored as written (`generated`): the judge writes its feedback and ends with "[RESULT] n", as the
rubric prompt asks. A reply that does not end so has no score: it counts as missing and is never asked again, because
asking until a score comes selects among the judge's opinions.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from tuneproof.errors import InputError
from tuneproof.llm.calls import Reply, Request
from tuneproof.llm.client import Answered
from tuneproof.llm.prompts import fill
from tuneproof.records import Answer, Example, Score, content_id
from tuneproof.study import Scoring

SCORES = ("1", "2", "3", "4", "5")
GAPS = {"instruction", "response", "reference_answer"}
_PREFILL = "[RESULT] "
_WRITTEN = re.compile(r"\[RESULT\]\s*([1-5])\s*\Z")
# Room for the feedback; the default of prometheus-eval, whose prompt this is. A judge that stops earlier is not billed.
FEEDBACK_TOKENS = 1024


def requests(
    answers: list[Answer], examples: dict[str, Example], template: str, scoring: Scoring = "expected"
) -> list[Request]:
    """Return one request per answer: the rubric prompt with question, answer and reference."""
    if unknown := [a for a in answers if a.example_id not in examples]:
        raise InputError(
            f"answer {unknown[0].id}: its question {unknown[0].example_id!r} is in none of the test splits"
        )
    how: dict[str, Any] = {"max_tokens": FEEDBACK_TOKENS}
    if scoring == "expected":
        how = {"max_tokens": 1, "prefill": _PREFILL, "choices": list(SCORES)}
    return [
        Request(
            [
                {
                    "role": "user",
                    "content": fill(
                        template,
                        instruction=examples[a.example_id].question,
                        response=a.text or "(no answer)",
                        reference_answer=examples[a.example_id].answer,
                    ),
                }
            ],
            **how,
        )
        for a in answers
    ]


def checked(answered: list[Answered], scoring: Scoring) -> list[Answered]:
    """Mark the replies that give no score as come to nothing."""
    return [
        a if a.fault or score_of(a.reply, scoring) is not None else replace(a, fault="no score in the reply")
        for a in answered
    ]


def scores_from(
    answers: list[Answer], answered: list[Answered], judge: str, scoring: Scoring = "expected"
) -> list[Score]:
    """Return one score per answer, None where the judge gave none, with what it said word for word."""
    return [
        Score(
            id=content_id(answer.id, judge, reply.call_id),
            answer_id=answer.id,
            example_id=answer.example_id,
            judge=judge,
            score=score_of(reply.reply, scoring),
            raw=reply.reply.text,
            distribution=reply.reply.distribution,
            call_id=reply.call_id,
        )
        for answer, reply in zip(answers, answered, strict=True)
    ]


def score_of(reply: Reply, scoring: Scoring) -> float | None:
    """Return the score that a reply gives, None where it gives none."""
    return expected_score(reply.distribution) if scoring == "expected" else written_score(reply.text)


def expected_score(distribution: dict[str, float]) -> float | None:
    """Return the sum over scores s of s * P(s), None without probabilities. G-Eval (Liu et al. 2023) scores so."""
    return sum(int(s) * distribution[s] for s in SCORES) if distribution else None


def written_score(text: str) -> float | None:
    """Return the score that stands after "[RESULT]" at the very end of a reply; None where none stands there."""
    found = _WRITTEN.search(text)
    return float(found[1]) if found else None
