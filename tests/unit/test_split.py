"""Splits are by page, in the same shares within each group, and nothing that is held out is trained on."""

import pytest

from tuneproof.errors import InputError
from tuneproof.pairs.split import make_examples, split_pages
from tuneproof.pairs.write import draw_chunks
from tuneproof.records import Chunk, Pair, Phrasing
from tuneproof.study import Splits

PAGES = {f"page{i}": f"group{i % 4}" for i in range(100)}


def rows(pages: int, wordings: int = 2):
    chunks = {f"c{i}": Chunk(f"c{i}", f"page{i}", f"u{i}", f"group{i % 4}", [], "text", 9) for i in range(pages)}
    pairs = [Pair(f"p{i}", f"c{i}", f"page{i}", f"Question {i}?", f"Answer {i}", "q", "call") for i in range(pages)]
    phrasings = [Phrasing(p.id, [f"{p.question} v{n}" for n in range(wordings)], "call") for p in pairs]
    return pairs, phrasings, chunks


def test_shares_hold_over_all_and_within_each_group():
    assigned = split_pages(PAGES, Splits(val_pages=0.1, test_pages=0.2))
    assert sum(s == "test_new_pages" for s in assigned.values()) == 20
    assert sum(s == "val" for s in assigned.values()) == 10
    for group in range(4):
        members = [p for p, g in PAGES.items() if g == f"group{group}"]
        assert 4 <= sum(assigned[p] == "test_new_pages" for p in members) <= 6


def test_a_further_page_leaves_most_of_the_split_as_it_was():
    before = split_pages(PAGES, Splits())
    after = split_pages({**PAGES, "new": "group0"}, Splits())
    assert sum(before[p] != after[p] for p in PAGES) < 50


def test_the_held_out_wording_is_never_trained_on():
    splits = make_examples(*rows(40), Splits())
    trained = {e.question for e in splits["train"]}
    assert not trained & {e.question for e in splits["test_trained_pages"]}
    assert {e.pair_id for e in splits["test_trained_pages"]} <= {e.pair_id for e in splits["train"]}
    assert len(splits["train"]) == 2 * len({e.pair_id for e in splits["train"]}), "the question and one more wording"


def test_a_pair_without_further_wordings_is_trained_on_but_not_tested():
    pairs, phrasings, chunks = rows(40)
    phrasings[0] = Phrasing("p0", [], "call")
    splits = make_examples(pairs, phrasings, chunks, Splits(test_pages=0.1, val_pages=0.1))
    assert all(e.pair_id != "p0" for e in splits["test_trained_pages"])


def test_test_sets_are_cut_to_their_size():
    splits = make_examples(*rows(100), Splits(max_new_page_questions=3, max_trained_page_questions=5))
    assert len(splits["test_new_pages"]) == 3
    assert len(splits["test_trained_pages"]) == 5


def test_too_few_pages_are_refused():
    with pytest.raises(InputError, match=r"split .* is empty: 2 pairs from 2 pages are too few"):
        make_examples(*rows(2), Splits())


def test_chunks_are_drawn_from_all_groups_in_turn():
    chunks = [Chunk(f"{g}{i}", "p", "u", g, [], "t", 9) for g, n in (("a", 50), ("b", 3), ("c", 10)) for i in range(n)]
    drawn = [c.group for c in draw_chunks(chunks, 12)]
    assert (drawn.count("a"), drawn.count("b"), drawn.count("c")) == (5, 3, 4)
    assert draw_chunks(chunks, None) == chunks
