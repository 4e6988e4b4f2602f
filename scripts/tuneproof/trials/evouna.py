"""Read answers that people have judged, in EVOUNA's format (Wang et al. 2023): github.com/wangcunxiang/QA-Eval.

A JSON list of questions; each has `question`, `golden_answer` (spellings and other right answers, parted by "/"),
`improper` (true: the question or its golden answer is wrong), and of each system X `answer_X` and `judge_X`: true or
false, as people have judged that answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError
from tuneproof.records import Answer, Example, content_id, read_json

_ANSWER, _JUDGE = "answer_", "judge_"


@dataclass(frozen=True)
class JudgedAnswer:
    """A system's answer to a question, and whether people have called it correct.

    `half` is "choose" (thresholds, the best judge, the best metric) or "report" (all that is printed of them).
    """

    id: str
    question_id: str
    question: str
    references: list[str]
    system: str
    text: str
    correct: bool
    half: str


def draw(path: Path, questions: int, seed: int) -> list[JudgedAnswer]:
    """Return the judged answers to so many questions, drawn by a hash of seed and question.

    Every second question drawn is for choosing, the others for reporting; a larger draw holds a smaller one with the
    same seed, each question in its half. Improper questions are left out, and answers that are empty or that nobody has
    judged. Raises InputError where the file is none of EVOUNA's or has fewer questions.
    """
    proper: dict[str, tuple[str, list[str], list[tuple[str, str, bool]]]] = {}
    for number, item in enumerate(_items(path), 1):
        place = f"{path} question {number}"
        if item["improper"]:
            continue
        question, judged = _text(place, item, "question"), _judged(place, item)
        # a question that stands there twice is the first of them
        if judged and (name := content_id(question)) not in proper:
            references = [r for part in _text(place, item, "golden_answer").split("/") if (r := part.strip())]
            proper[name] = question, list(dict.fromkeys(references)), judged
    if len(proper) < questions:
        raise InputError(f"{path}: {len(proper)} questions that are proper and judged, expected at least {questions}")
    drawn = sorted(proper, key=lambda name: content_id("trial", str(seed), name))[:questions]
    return [
        JudgedAnswer(
            id=content_id(name, system, text),
            question_id=name,
            question=proper[name][0],
            references=proper[name][1],
            system=system,
            text=text,
            correct=correct,
            half="report" if rank % 2 else "choose",
        )
        for rank, name in enumerate(drawn)
        for system, text, correct in proper[name][2]
    ]


def as_asked(rows: list[JudgedAnswer]) -> tuple[list[Answer], dict[str, Example]]:
    """Return the answers, and the questions by id, as a judge takes them; the reference is "A or B" where both are."""
    examples = {
        row.question_id: Example(
            row.question_id, "", "", "", "", "", row.half, row.question, " or ".join(row.references), []
        )
        for row in rows
    }
    return [Answer(r.id, r.question_id, r.system, "", r.half, r.text, 0, True, [], "") for r in rows], examples


def _items(path: Path) -> list[dict[str, Any]]:
    content = read_json(path)
    if not isinstance(content, list):
        raise InputError(f"{path}: {type(content).__name__} at the top, expected EVOUNA's list of questions")
    for number, item in enumerate(content, 1):
        keys = set(item) if isinstance(item, dict) else set()
        systems = {key.removeprefix(_ANSWER) for key in keys if key.startswith(_ANSWER)}
        needed = {"question", "golden_answer", "improper", *(_JUDGE + system for system in systems)}
        if not systems or needed - keys:
            missing = sorted(needed - keys) or [f"{_ANSWER}…"]
            raise InputError(f"{path} question {number}: no key {missing[0]!r}, expected EVOUNA's format")
    return content


def _text(place: str, item: dict[str, Any], key: str) -> str:
    value = item[key]
    if not isinstance(value, str) or not value.strip(" /\n\t"):
        raise InputError(f"{place}: {key}: {value!r} is wrong, expected a text")
    return value.strip()


def _judged(place: str, item: dict[str, Any]) -> list[tuple[str, str, bool]]:
    judged = []
    for key in sorted(key for key in item if key.startswith(_ANSWER)):
        system = key.removeprefix(_ANSWER)
        text, correct = item[key], item[_JUDGE + system]
        if correct is not None and not isinstance(correct, bool):
            raise InputError(f"{place}: {_JUDGE}{system}: {correct!r} is wrong, expected true, false or null")
        if text and text.strip() and correct is not None:
            judged.append((system, text.strip(), correct))
    return judged
