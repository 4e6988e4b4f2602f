"""A data set of a wanted size: chunks are asked about in rounds until enough pairs pass, evenly over groups."""

import json
import re
from collections import Counter

import pytest

from tuneproof.errors import InputError
from tuneproof.llm.calls import Reply
from tuneproof.llm.client import Answered
from tuneproof.pairs.card import funnel
from tuneproof.pairs.screen import draw_pairs
from tuneproof.pairs.write import draw_chunks, in_turn, pairs_from, write_until
from tuneproof.records import Chunk, Pair


def chunk(n: int, group: str) -> Chunk:
    text = f"The power capacity of site {group}{n} is {n}.5 MW. The manager of site {group}{n} is Ingrid."
    return Chunk(f"{group}{n}", f"page{n}", "u", group, [], text, 80)


CHUNKS = [chunk(n, group) for group, size in (("a", 60), ("b", 5), ("c", 35)) for n in range(size)]


def passes(chunks: list[Chunk], answered: list[Answered]) -> None:
    assert len(chunks) == len(answered)


def writer(share: float = 1.0):
    """One that writes two pairs about each chunk, of which a share passes the rules, and its rounds."""
    rounds: list[list[str]] = []

    def ask(chunks: list[Chunk]) -> list[Answered]:
        rounds.append([c.id for c in chunks])
        return [Answered(c.id, Reply(json.dumps({"pairs": pairs(c, i)}), 1, 1, "stop")) for i, c in enumerate(chunks)]

    def pairs(c: Chunk, place: int) -> list[dict[str, str]]:
        quotes = re.findall(r"The .*?(?:MW|Ingrid)\.", c.text)
        subject = f"site {c.id}" if place < share * 10 or place >= 10 else "it"
        questions = f"What is the power capacity of {subject}?", f"Who is the manager of {subject}?"
        return [{"quote": q, "question": asks, "answer": q} for q, asks in zip(quotes, questions, strict=True)]

    return ask, rounds


def test_rounds_are_whole_groups_and_end_when_enough_pairs_pass():
    ask, rounds = writer(share=0.5)
    asked, answered = write_until(in_turn(CHUNKS), 50, 2, 10, ask, passes)
    assert [len(r) for r in rounds] == [30, 10], "55 pairs of two a chunk are 28 chunks; the rest as the replies were"
    assert [c.id for c in asked] == [i for r in rounds for i in r] == [a.call_id for a in answered]
    pairs, failed = pairs_from(asked, answered)
    assert len(pairs) == 80 and not failed


def test_a_further_round_leaves_the_earlier_ones_as_they_were():
    few, many = writer(0.5), writer(0.5)
    write_until(in_turn(CHUNKS), 20, 2, 10, few[0], passes)
    write_until(in_turn(CHUNKS), 90, 2, 10, many[0], passes)
    flat_few, flat_many = ([i for r in rounds for i in r] for _, rounds in (few, many))
    assert flat_many[: len(flat_few)] == flat_few


def test_a_bad_beginning_is_not_followed_by_all_the_rest():
    ask, rounds = writer(share=0)
    write_until(in_turn(CHUNKS), 10, 2, 10, ask, passes)
    assert [len(r) for r in rounds][:2] == [10, 10], "no pair passed, and a round doubles what was asked at the most"


def test_a_bad_round_is_the_last():
    def refuse(chunks: list[Chunk], answered: list[Answered]) -> None:
        raise InputError(f"{len(answered)} of {len(chunks)} are bad")

    ask, rounds = writer()
    with pytest.raises(InputError, match="30 of 30"):
        write_until(in_turn(CHUNKS), 50, 2, 10, ask, refuse)
    assert len(rounds) == 1


def test_chunks_may_be_used_up():
    ask, rounds = writer()
    asked, _ = write_until(in_turn(CHUNKS)[:24], 500, 2, 10, ask, passes)
    assert [len(r) for r in rounds] == [24] and len(asked) == 24


def test_any_beginning_is_balanced_and_the_drawing_is_the_old_one():
    groups = Counter(c.group for c in in_turn(CHUNKS)[:21])
    assert groups == {"a": 8, "b": 5, "c": 8}
    assert {c.id for c in in_turn(CHUNKS)[:21]} == {c.id for c in draw_chunks(CHUNKS, 21)}


def test_what_is_too_many_is_taken_from_the_large_groups():
    pairs = [Pair(f"p{c.id}", c.id, c.page_id, "q", "a", "quote", "call") for c in CHUNKS]
    kept, spare = draw_pairs(pairs, {c.id: c.group for c in CHUNKS}, 25)
    assert Counter(p.chunk_id[0] for p in kept) == {"a": 10, "b": 5, "c": 10}
    assert len(kept) + len(spare) == 100 and kept == [p for p in pairs if p in kept]
    assert draw_pairs(pairs, {}, None) == draw_pairs(pairs, {}, 100) == (pairs, [])


def test_the_funnel_says_what_was_wanted():
    counts = funnel("x", {"documents": 1, "pages": 1}, CHUNKS, [], 0, [], {"train": []}, wanted=7)
    assert counts["wanted"] == 7
