"""A judge scores an answer from 1 to 5 against the reference answer.

By distribution: nothing is written, the score comes from the probabilities of the first token. Small judges write
scores at chance, but their distributions tell right from wrong.

- `expected`: the reply is begun with "[RESULT] " and the score is the mean over the probabilities of the tokens 1 to 5.
- `yes_no`: the prompt ends with a question that Yes or No answers, and the score is 1 + 4 P(Yes).

As written (`generated`): the judge writes its feedback and ends with "[RESULT] n", as the rubric prompt asks. The reply
is kept word for word with what both parsers read (scores/parse.py). One without a score counts as missing and is never
asked again, because asking until a score comes selects among the judge's opinions.

What is judged is other people's text, and may want to be the judge: see `quotable`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from tuneproof.errors import InputError
from tuneproof.llm.calls import Reply, Request, choice_of
from tuneproof.llm.client import Answered
from tuneproof.llm.prompts import fill_messages, inert
from tuneproof.records import Answer, Example, Score, content_id
from tuneproof.scores import parse
from tuneproof.study import Parser, Scoring

SCORES = ("1", "2", "3", "4", "5")
GAPS = {"instruction", "response", "reference_answer"}
# Room for the feedback; the default of prometheus-eval, whose prompt this is. A judge that stops earlier is not billed.
FEEDBACK_TOKENS = 1024
_HOW: dict[Scoring, dict[str, Any]] = {
    "expected": {"max_tokens": 1, "prefill": "[RESULT] ", "choices": list(SCORES)},
    "yes_no": {"max_tokens": 1, "choices": ["Yes", "No"]},
    "generated": {"max_tokens": FEEDBACK_TOKENS},
}
_HEADING = re.compile(r"^#*[ \t]*([^\W\d_][^:?\n{}]{0,60})[:?]", re.MULTILINE)
_RULE = re.compile(r"#{3,}")


def requests(
    answers: list[Answer], examples: dict[str, Example], template: str, scoring: Scoring = "expected"
) -> list[Request]:
    """Return one request per answer: the rubric prompt with question, answer and reference."""
    if unknown := [a for a in answers if a.example_id not in examples]:
        raise InputError(
            f"answer {unknown[0].id}: its question {unknown[0].example_id!r} is in none of the test splits"
        )
    how = _HOW[scoring]
    return [
        Request(
            fill_messages(
                template,
                instruction=quotable(examples[a.example_id].question, template),
                response=quotable(a.text, template) or "(no answer)",
                reference_answer=quotable(examples[a.example_id].answer, template),
            ),
            **how,
        )
        for a in answers
    ]


def quotable(text: str, template: str) -> str:
    """Return a text that can neither leave its place in a judge's prompt nor bring a verdict of its own.

    Marks that part the turns of a chat get a space behind their first character, and so do the markers of a verdict
    that a parser reads: "[RESULT] 5" is asked about, and quoted in a feedback, as "[ RESULT] 5", which is none. "###"
    becomes "# # #". A line that begins like one of the prompt's own ("Reference Answer (Score 5): …") gets "> " before
    it ("Correct? Yes" as well). Other texts stay as they are; the answer's row keeps the text as it was given.
    """
    text = parse.MARKER.sub(lambda marker: f"[ {marker[0][1:]}", inert(text))
    text = _RULE.sub(lambda run: " ".join(run[0]), text)
    headings = "|".join(re.escape(heading.strip()) for heading in sorted(set(_HEADING.findall(template))))
    if not headings:
        return text
    own = re.compile(rf"[\s#*_]*(?:{headings})[\s*_]*[:?]", re.IGNORECASE)
    return "".join(f"> {line}" if own.match(line) else line for line in text.splitlines(keepends=True))


def checked(answered: list[Answered], scores: list[Score]) -> list[Answered]:
    """Mark the replies that give no score as come to nothing."""
    return [
        a if a.fault or score.score is not None else replace(a, fault="no score in the reply")
        for a, score in zip(answered, scores, strict=True)
    ]


def scores_from(
    answers: list[Answer],
    answered: list[Answered],
    judge: str,
    scoring: Scoring = "expected",
    parser: Parser = "strict",
) -> list[Score]:
    """Return one score per answer, None where the judge gave none, with what it said word for word."""
    return [
        Score(
            id=content_id(answer.id, judge, reply.call_id),
            answer_id=answer.id,
            example_id=answer.example_id,
            judge=judge,
            score=score_of(reply.reply, scoring, parser, answer.text),
            raw=reply.reply.text,
            distribution=reply.reply.distribution,
            call_id=reply.call_id,
            strict=written_score(reply.reply, "strict") if scoring == "generated" else None,
            lenient=written_score(reply.reply, "lenient", answer.text) if scoring == "generated" else None,
        )
        for answer, reply in zip(answers, answered, strict=True)
    ]


def score_of(reply: Reply, scoring: Scoring, parser: Parser = "strict", answer: str = "") -> float | None:
    """Return the score that a reply gives to an answer, from 1 to 5; None where it gives none."""
    if scoring == "expected":
        return expected_score(reply.distribution)
    if scoring == "yes_no":
        return yes_score(reply)
    return written_score(reply, parser, answer)


def expected_score(distribution: dict[str, float]) -> float | None:
    """Return the sum over scores s of s * P(s), None without probabilities. G-Eval (Liu et al. 2023) scores so."""
    return sum(int(s) * distribution[s] for s in SCORES) if distribution else None


def yes_score(reply: Reply) -> float | None:
    """Return 1 + 4 P(Yes), P of Yes and No alone; of an endpoint without probabilities what it says counts whole."""
    if reply.distribution:
        return 1 + 4 * reply.distribution["Yes"]
    said = choice_of(reply.text.strip().rstrip(".!").capitalize(), ["Yes", "No"])
    return {"Yes": 5.0, "No": 1.0}.get(said or "")


def written_score(reply: Reply, parser: Parser, answer: str = "") -> int | None:
    """Return the score that a parser reads in a reply. One that was cut off has no end for a verdict to stand at."""
    if reply.finish_reason == "length":
        return None
    return parse.strict(reply.text) if parser == "strict" else parse.lenient(reply.text, answer)


def rates(scores: list[Score]) -> str:
    """Say how many replies of a judge that writes each parser reads."""
    n = len(scores)
    read = {"strict": sum(s.strict is not None for s in scores), "lenient": sum(s.lenient is not None for s in scores)}
    return ", ".join(f"the {name} parser reads {k} of {n} ({k / max(n, 1):.1%})" for name, k in read.items())
