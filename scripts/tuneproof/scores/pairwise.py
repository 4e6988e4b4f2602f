"""A judge takes the better of two arms' answers to a question, shown in both orders.

Judges prefer a place, the first or the last, whatever stands there (Wang et al. 2023, "Large Language Models are not
Fair Evaluators"). So every pair is shown twice, the order turned: an answer wins that is taken both times, and where
the order changed the choice neither does. How often that happens is reported beside the win rate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuneproof.errors import InputError
from tuneproof.llm.calls import Reply, Request, choice_of
from tuneproof.llm.client import Answered
from tuneproof.llm.prompts import fill_messages
from tuneproof.records import Answer, Example
from tuneproof.scores.judge import FEEDBACK_TOKENS, quotable
from tuneproof.study import Scoring

GAPS = {"instruction", "response_a", "response_b", "reference_answer"}
_LETTERS = ("A", "B")
_WRITTEN = re.compile(r"\[RESULT\]\s*\(?(?:Response\s+)?([AB])\)?[.\s]*\Z")


@dataclass(frozen=True)
class Choice:
    """What a judge chose between the answers of two arms to one question.

    `first` and `second` are the probabilities that it takes the first arm's answer, where that is shown first and where
    it is shown second; 0 or 1 for a judge that writes, None where it chose neither. Two answers of the same words are
    0.5 and nobody was asked. `raw` is what it said, word for word.
    """

    example_id: str
    page_id: str
    split: str
    answer_ids: list[str]
    first: float | None
    second: float | None
    raw: list[str] = field(default_factory=list)
    call_ids: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> float | None:
        """1 where the first arm's answer is taken in both orders, 0 where the other is, 0.5 where the order decides."""
        if self.first is None or self.second is None:
            return None
        taken = [(p > 0.5) - (p < 0.5) for p in (self.first, self.second)]
        return {2: 1.0, -2: 0.0}.get(sum(taken), 0.5)


def pairs(one: Sequence[Answer], other: Sequence[Answer]) -> list[tuple[Answer, Answer]]:
    """Return two arms' answers question by question; raise InputError where they are not to the same questions."""
    by_example = {a.example_id: a for a in other}
    if lone := {a.example_id for a in one} ^ by_example.keys():
        raise InputError(
            f"question {sorted(lone)[0]!r} is answered by one of the arms only, expected the same questions"
        )
    return [(a, by_example[a.example_id]) for a in one]


def requests(
    paired: Sequence[tuple[Answer, Answer]], examples: Mapping[str, Example], template: str, scoring: Scoring
) -> list[Request]:
    """Return two requests for each pair that differs: in the order given, and turned."""
    how: dict[str, Any] = {"max_tokens": FEEDBACK_TOKENS}
    if scoring != "generated":
        how = {"max_tokens": 1, "choices": list(_LETTERS)}
    asked = []
    for pair in paired:
        if pair[0].example_id not in examples:
            raise InputError(f"answer {pair[0].id}: its question {pair[0].example_id!r} is in none of the test splits")
        example = examples[pair[0].example_id]
        for a, b in (pair, pair[::-1]) if differ(pair) else ():
            texts = {
                "instruction": example.question,
                "response_a": a.text or "(no answer)",
                "response_b": b.text or "(no answer)",
                "reference_answer": example.answer,
            }
            shown = {name: quotable(text, template) for name, text in texts.items()}
            asked.append(Request(fill_messages(template, **shown), **how))
    return asked


def choices_from(
    paired: Sequence[tuple[Answer, Answer]], examples: Mapping[str, Example], answered: Sequence[Answered]
) -> list[Choice]:
    """Return one row per pair; `answered` are the replies to `requests`, in order."""
    replies, rows = iter(answered), []
    for pair in paired:
        example, ids = examples[pair[0].example_id], [a.id for a in pair]
        if not differ(pair):
            rows.append(Choice(example.id, example.page_id, example.split, ids, 0.5, 0.5))
            continue
        both = [next(replies), next(replies)]
        rows.append(
            Choice(
                example.id,
                example.page_id,
                example.split,
                ids,
                taken_first(both[0].reply),
                taken_second(both[1].reply),
                [a.reply.text for a in both],
                [a.call_id for a in both],
            )
        )
    return rows


def taken_first(reply: Reply) -> float | None:
    """Return the probability that the answer shown first is taken; None where the reply takes neither."""
    if reply.distribution:
        return reply.distribution["A"]
    if reply.finish_reason == "length":
        return None
    found = _WRITTEN.search(reply.text)
    said = found[1] if found else choice_of(reply.text.strip().rstrip("."), list(_LETTERS))
    return {"A": 1.0, "B": 0.0}.get(said or "")


def taken_second(reply: Reply) -> float | None:
    """Return the probability that the answer shown second is taken; None where the reply takes neither."""
    first = taken_first(reply)
    return None if first is None else 1 - first


def summarise(
    name: str, judge: str, arms: Sequence[str], choices: Sequence[Choice], marked: Mapping[str, bool]
) -> list[dict[str, Any]]:
    """Return the comparison's row for each test set: how often the first arm wins, by page, and what the order did.

    `win_rate` counts a choice that the order decides as half. `order_changed` is the share of such choices among pairs
    that differ, `first_place` the share of all replies that take the answer shown first: 0.5 without a bias.
    `win_rate_worst` and `win_rate_best` are the rate had the first arm lost, or won, every choice that is missing;
    `marked` says of each judge that was on trial whether it beat no metric there.
    """
    return [
        {"comparison": name, "judge": judge, "split": split, "arm": arms[0], "other_arm": arms[1]}
        | _counted([choice for choice in choices if choice.split == split])
        | {"marked": marked.get(judge)}
        for split in dict.fromkeys(choice.split for choice in choices)
    ]


def _counted(choices: Sequence[Choice]) -> dict[str, Any]:
    from tuneproof.scores.statistics import estimate  # wants scipy, which vLLM's image has not, where choices are made

    decided = [(c, outcome) for c in choices if (outcome := c.outcome) is not None]
    asked = [c for c, _ in decided if c.call_ids]
    missing = len(choices) - len(decided)
    won = estimate([outcome for _, outcome in decided], [c.page_id for c, _ in decided], (0, 1))
    # asked about the same answer twice, in the first place and in the second
    places = [place for c in asked for place in ((c.first or 0) > 0.5, (c.second or 0) <= 0.5)]
    return {
        "n": len(decided),
        "missing": missing,
        "same_answer": len(decided) - len(asked),
        "win_rate": won.mean,
        "win_rate_low": won.low,
        "win_rate_high": won.high,
        "win_rate_worst": sum(outcome for _, outcome in decided) / len(choices),
        "win_rate_best": (sum(outcome for _, outcome in decided) + missing) / len(choices),
        "wins": sum(outcome == 1 for _, outcome in decided),
        "losses": sum(outcome == 0 for _, outcome in decided),
        "order_changed": sum(c.outcome == 0.5 for c in asked) / len(asked) if asked else None,
        "first_place": sum(places) / len(places) if places else None,
    }


def differ(pair: tuple[Answer, Answer]) -> bool:
    """Tell whether two answers are of different words: a judge is asked about those only."""
    return pair[0].text.strip() != pair[1].text.strip()
