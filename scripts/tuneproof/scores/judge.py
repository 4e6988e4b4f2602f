"""A judge scores an answer from 1 to 5 against the reference answer.

Scored by distribution: the judge's reply is begun with "[RESULT] " and the score is the mean over the probabilities
of the tokens 1 to 5 at that place. Small judges write scores at chance, but their distributions tell right from
wrong.
"""

from __future__ import annotations

from tuneproof.errors import InputError
from tuneproof.llm.calls import Request
from tuneproof.llm.client import Answered
from tuneproof.records import Answer, Example, Score, content_id

SCORES = ("1", "2", "3", "4", "5")
GAPS = {"instruction", "response", "reference_answer"}
_PREFILL = "[RESULT] "


def requests(answers: list[Answer], examples: dict[str, Example], template: str) -> list[Request]:
    """Return one request per answer: the rubric prompt with question, answer and reference."""
    if unknown := [a for a in answers if a.example_id not in examples]:
        raise InputError(
            f"answer {unknown[0].id}: its question {unknown[0].example_id!r} is in none of the test splits"
        )
    return [
        Request(
            [
                {
                    "role": "user",
                    "content": template.format(
                        instruction=examples[a.example_id].question,
                        response=a.text or "(no answer)",
                        reference_answer=examples[a.example_id].answer,
                    ),
                }
            ],
            max_tokens=1,
            prefill=_PREFILL,
            choices=list(SCORES),
        )
        for a in answers
    ]


def scores_from(answers: list[Answer], answered: list[Answered], judge: str) -> list[Score]:
    """Return one score per answer: the mean of the distribution over 1 to 5."""
    return [
        Score(
            id=content_id(answer.id, judge, reply.call_id),
            answer_id=answer.id,
            example_id=answer.example_id,
            judge=judge,
            score=expected_score(reply.reply.distribution),
            raw=reply.reply.text,
            distribution=reply.reply.distribution,
            call_id=reply.call_id,
        )
        for answer, reply in zip(answers, answered, strict=True)
    ]


def expected_score(distribution: dict[str, float]) -> float:
    """Return the sum over scores s of s * P(s). G-Eval (Liu et al. 2023) scores this way."""
    return sum(int(s) * distribution[s] for s in SCORES)
