"""Facts, intervals and the table, against numbers that can be worked out by hand."""

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from tuneproof.errors import InputError
from tuneproof.records import Answer, Chunk, Example, Score
from tuneproof.scores.facts import Fact, facts_asked
from tuneproof.scores.judge import expected_score
from tuneproof.scores.measure import measure
from tuneproof.scores.statistics import estimate
from tuneproof.scores.table import join, summarise

POWER = Fact("f1", "/cv1.html", "CV1", "power", "7.7 MW", ["7.7 megawatts"])
OPENED = Fact("f2", "/cv1.html", "CV1", "opening", "14 March 2019", ["March 14, 2019"])
FACTS = {"/cv1.html": [POWER, OPENED]}


def example(identity="e1", question="What is the power of CV1?", answer="It is 7.7 MW.", page="g1"):
    return Example(identity, "p", "c1", page, "http://x.test/cv1.html", "a", "test_new_pages", question, answer, [])


def answer(identity, text, run="m/base", mode="closed", context=()):
    return Answer(
        f"a-{run}-{mode}-{identity}", identity, run, mode, "test_new_pages", text, 5, True, list(context), "k"
    )


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("It is 7.7 MW.", True),
        ("7.7 megawatts", True),
        ("7.7  mw", True),
        ("It is 17.7 MW.", False),
        ("7.7 MWh", False),
        ("It is 7.75 MW", False),
        ("", False),
    ],
)
def test_a_fact_is_found_as_a_whole_word_in_any_of_its_spellings(text, stated):
    assert POWER.stated_in(text) is stated


def test_a_fact_that_the_question_gives_away_is_not_asked_for():
    asked = example(question="What opened on 14 March 2019?", answer="CV1, with 7.7 MW, opened on 14 March 2019.")
    assert facts_asked(asked, FACTS) == [POWER]


def test_facts_recalled_and_facts_trained_are_counted():
    test = example(answer="7.7 MW since 14 March 2019")
    [row] = measure([answer("e1", "7.7 megawatts")], [test], [example("t", answer="7.7 MW")], FACTS)
    assert (row.facts, row.facts_recalled, row.trained_facts, row.trained_facts_recalled) == (2, 1, 1, 1)


def test_rouge_is_the_librarys_own_number():
    test = example()
    [row] = measure([answer("e1", "The power is 7.7 MW")], [test], [], {})
    direct = RougeScorer(["rougeL"], use_stemmer=True).score(test.answer, "The power is 7.7 MW")["rougeL"].fmeasure
    assert row.rouge_l == pytest.approx(direct, abs=1e-12)


def test_a_missing_answer_is_an_error():
    with pytest.raises(InputError, match="1 answers for 2 test examples"):
        measure([answer("e1", "x")], [example(), example("e2")], [], {})


def test_the_expected_score_is_the_mean_of_the_distribution():
    assert expected_score({"1": 0.5, "2": 0.0, "3": 0.0, "4": 0.0, "5": 0.5}) == 3.0


def test_an_interval_covers_the_true_mean_about_95_times_in_100_with_clustered_values():
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        pages = np.repeat(np.arange(40), 3)
        values = 3 + random.normal(0, 0.7, 40)[pages] + random.normal(0, 0.7, 120)
        found = estimate(list(values), [str(p) for p in pages], 1000, seed=trial)
        covered += found.low <= 3 <= found.high
    assert 0.90 <= covered / 200 <= 0.99


def test_an_estimate_of_few_values_says_what_it_cannot_say():
    assert estimate([], [], 1000).mean is None
    one_page = estimate([1.0, 2.0], ["a", "a"], 1000)
    assert (one_page.mean, one_page.low) == (1.5, None)


def test_differences_are_paired_by_question():
    examples = [example(f"e{i}", page=f"g{i}") for i in range(10)]
    chunks = {"c1": Chunk("c1", "g1", "http://x.test/cv1.html", "a", [], "t", 3)}

    def arm(label, run, mode, scores, context=()):
        answers = [answer(e.id, "x", run, mode, context) for e in examples]
        judged = [Score(f"s{a.id}", a.id, a.example_id, "j", s, "") for a, s in zip(answers, scores, strict=True)]
        return join(examples, "d", label, answers, measure(answers, examples, [], {}), judged, chunks)

    low = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]
    rows = arm("base", "m/base", "closed", low)
    rows += arm("rag", "m/base", "rag", [s + 1 for s in low], ["c1"])
    rows += arm("tune", "m/lora/d/seed1", "closed", [None, *low[1:]])
    table = {(line["arm"], line["metric"]): line for line in summarise(rows, 1000)}
    rag = table["rag", "judge:j"]
    assert (rag["diff"], rag["diff_low"], rag["diff_high"]) == (1.0, 1.0, 1.0), "every pair differs by one"
    assert rag["mean"] == pytest.approx(np.mean(low) + 1)
    assert rag["sd"] == pytest.approx(np.std(low, ddof=1))
    assert table["base", "judge:j"]["diff"] is None
    tune = table["tune", "judge:j"]
    assert (tune["n"], tune["missing"], tune["diff_n"], tune["diff"]) == (9, 1, 9, 0.0)
    assert [r["context_hit"] for r in rows[:11]] == [None] * 10 + [True]
