"""Metrics that need no judge: ROUGE-L (rouge_score) against the reference answer, and facts recalled."""

from __future__ import annotations

from tuneproof.errors import InputError
from tuneproof.records import Answer, Example, Measure
from tuneproof.scores.facts import Fact, facts_asked


def measure(
    answers: list[Answer], examples: list[Example], trained: list[Example], facts: dict[str, list[Fact]]
) -> list[Measure]:
    """Return one row per answer. Raises InputError where answers and test examples are not the same set.

    A fact counts as trained when a training answer about the same page states it.
    """
    from rouge_score.rouge_scorer import RougeScorer

    by_id = {e.id: e for e in examples}
    if by_id.keys() != {a.example_id for a in answers} or len(answers) != len(examples):
        raise InputError(f"{len(answers)} answers for {len(examples)} test examples: expected one for each")
    trained_facts = {fact.id for e in trained for fact in facts_asked(e, facts)}
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    rows = []
    for answer in answers:
        example = by_id[answer.example_id]
        asked = facts_asked(example, facts)
        recalled = {fact.id for fact in asked if fact.stated_in(answer.text)}
        known = {fact.id for fact in asked} & trained_facts
        rows.append(
            Measure(
                answer_id=answer.id,
                example_id=example.id,
                rouge_l=scorer.score(example.answer, answer.text)["rougeL"].fmeasure,
                facts=len(asked),
                facts_recalled=len(recalled),
                trained_facts=len(known),
                trained_facts_recalled=len(known & recalled),
            )
        )
    return rows
