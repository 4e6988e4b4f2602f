"""Facts and the table, against numbers that can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tuneproof.records import Answer, Chunk, Example, Score
from tuneproof.scores.facts import Fact, facts_asked
from tuneproof.scores.judge import expected_score
from tuneproof.scores.measure import measure
from tuneproof.scores.statistics import holm
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


def test_the_expected_score_is_the_mean_of_the_distribution():
    assert expected_score({"1": 0.5, "2": 0.0, "3": 0.0, "4": 0.0, "5": 0.5}) == 3.0


def tables_of(arms, questions=12, marked=None, split="test_new_pages"):
    """Both tables; arms: label -> (run, mode, scores by judge j), a page for each question."""
    examples = [replace(example(f"e{i}", page=f"g{i}"), split=split) for i in range(questions)]
    chunks = {"c1": Chunk("c1", "g1", "http://x.test/cv1.html", "a", [], "t", 3)}
    rows = []
    for label, (run, mode, scores) in arms.items():
        answers = [answer(e.id, "x", run, mode, ["c1"] if mode == "rag" else []) for e in examples]
        judged = [Score(f"s{a.id}", a.id, a.example_id, "j", s, "") for a, s in zip(answers, scores, strict=True)]
        rows += join(examples, "d", label, answers, measure(answers, examples, [], {}), judged, chunks)
    return summarise(rows, 1000, 0.05, marked or {})


def table_of(arms):
    """The lines of scores.csv by arm and metric."""
    return {(line["arm"], line["metric"]): line for line in tables_of(arms).scores}


LOW = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]
HIGH = [3, 3, 4, 5, 2, 4, 4, 5, 3, 2, 5, 4]
BASE = {"base": ("m/base", "closed", LOW)}
RETRIEVAL = {"rag": ("m/base", "rag", [s + 1 for s in LOW])}


def test_differences_are_paired_by_question():
    table = table_of({**BASE, **RETRIEVAL, "tune": ("m/lora/d/seed1", "closed", [None, *LOW[1:]])})
    rag = table["rag", "judge:j"]
    assert (rag["diff"], rag["p"]) == (1.0, rag["p_permutation"]), "every pair differs by one"
    differ = 1 - 0.025 ** (1 / 12)  # of pages that have not been seen
    assert (rag["diff_low"], rag["diff_high"]) == pytest.approx((1 - 5 * differ, 1 + 3 * differ))
    assert rag["mean"] == pytest.approx(np.mean(LOW) + 1)
    assert rag["sd"] == pytest.approx(np.std(LOW, ddof=1))
    assert table["base", "judge:j"]["diff"] is rag["rag_diff"] is None, "no arm is compared with itself"
    tune = table["tune", "judge:j"]
    assert (tune["n"], tune["missing"], tune["diff_n"], tune["diff"]) == (11, 1, 11, 0.0)


def test_an_answers_row_says_whether_its_source_was_in_the_prompt():
    answers = [answer("e1", "x", mode="rag", context=["c1"])]
    chunks = {"c1": Chunk("c1", "g1", "http://x.test/cv1.html", "a", [], "t", 3)}
    [row] = join([example()], "d", "rag", answers, measure(answers, [example()], [], {}), [], chunks)
    assert row["context_hit"] is True and row["context_urls"] == ["http://x.test/cv1.html"]


def test_a_tune_is_compared_with_retrieval_directly():
    tune = table_of({**BASE, **RETRIEVAL, "tune": ("m/lora/d/seed1", "closed", HIGH)})["tune", "judge:j"]
    direct = stats.ttest_rel(HIGH, [s + 1 for s in LOW])
    assert tune["rag_diff"] == pytest.approx(np.mean(HIGH) - np.mean(LOW) - 1)
    assert tune["rag_p"] == pytest.approx(direct.pvalue)
    assert (tune["rag_diff_low"], tune["rag_diff_high"]) == pytest.approx(direct.confidence_interval(0.95))


def test_all_differences_of_the_table_are_one_family():
    table = table_of({**BASE, **RETRIEVAL, "tune": ("m/lora/d/seed1", "closed", HIGH)})
    p = [line[f"{prefix}p"] for line in table.values() for prefix in ("", "rag_")]
    adjusted = [line[f"{prefix}p_holm"] for line in table.values() for prefix in ("", "rag_")]
    assert len([value for value in p if value is not None]) == 15, "retrieval, the tune to base and to it; five metrics"
    assert adjusted == holm(p)
    assert table["tune", "judge:j"]["p_holm"] > table["tune", "judge:j"]["p"]


def test_missing_scores_are_bounded_by_the_worst_and_the_best_that_they_could_be():
    base = {"base": ("m/base", "closed", [*LOW[:-1], None])}
    tune = table_of({**base, "tune": ("m/lora/d/seed1", "closed", [None, *HIGH[1:]])})["tune", "judge:j"]
    assert tune["mean_worst"] == pytest.approx((1 + sum(HIGH[1:])) / 12)
    assert tune["mean_best"] == pytest.approx((5 + sum(HIGH[1:])) / 12)
    assert tune["diff_worst"] == pytest.approx((1 + sum(HIGH[1:]) - sum(LOW[:-1]) - 5) / 12)
    assert tune["diff_best"] == pytest.approx((5 + sum(HIGH[1:]) - sum(LOW[:-1]) - 1) / 12)
    assert tune["diff_worst"] < tune["diff"] < tune["diff_best"]


def test_rouge_has_no_missing_values_to_bound():
    line = table_of({**BASE, "tune": ("m/lora/d/seed1", "closed", HIGH)})["tune", "rouge_l"]
    assert line["missing"] == 0 and line["mean_worst"] is line["diff_best"] is None


def seeds(count):
    """Trainings that are the base plus 0, 1, 2, …; the second lacks the first question's score."""
    runs = {f"tune (seed{i})": (f"m/lora/d/seed{i}", "closed", [s + i for s in LOW]) for i in range(count)}
    runs["tune (seed1)"][2][0] = None
    return table_of({**BASE, **RETRIEVAL, **runs})


def test_three_seeds_have_a_row_over_all_of_them_and_that_is_tested():
    table = seeds(3)
    pooled = table["tune (3 seeds)", "judge:j"]
    assert (pooled["run"], pooled["seeds"], pooled["n"], pooled["missing"]) == ("m/lora/d", 3, 11, 1)
    assert (pooled["diff"], pooled["rag_diff"]) == (pytest.approx(1), pytest.approx(0, abs=1e-9))
    direct = stats.ttest_1samp([0, 1, 2], 0)
    assert pooled["p"] == pytest.approx(direct.pvalue), "nothing but the seeds varies here"
    for i in range(3):
        single = table[f"tune (seed{i})", "judge:j"]
        assert single["seeds"] == 1 and single["diff"] == i
        assert single["p"] is single["p_holm"] is None, "one training of several is not tested"


def test_two_seeds_are_too_few_for_a_row_over_them():
    table = seeds(2)
    assert not any("seeds" in arm for arm, _ in table)
    assert table["tune (seed1)", "judge:j"]["p"] is not None


def test_the_questions_that_a_wished_for_difference_needs_are_of_the_metrics_scale():
    tune = table_of({**BASE, "tune": ("m/lora/d/seed1", "closed", HIGH)})["tune", "judge:j"]
    wished, sd = 0.05 * 4, np.std(np.subtract(HIGH, LOW), ddof=1)
    assert tune["questions_needed"] == pytest.approx((2.8 * sd / wished) ** 2, rel=0.05), "as the textbook says"


# --- tunes beside each other ---

OTHER = [2, 3, 3, 4, 2, 3, 4, 4, 2, 2, 4, 4]


def test_two_tunes_of_two_data_sets_are_compared_question_by_question():
    tunes = {"on d": ("m/lora/d/seed1", "closed", HIGH), "on e": ("m/lora/e/seed1", "closed", [None, *OTHER[1:]])}
    tables = tables_of({**BASE, **tunes}, marked={"j": True})
    line = next(line for line in tables.tunes if line["metric"] == "judge:j")
    direct = stats.ttest_rel(HIGH[1:], OTHER[1:])
    assert (line["arm"], line["other_arm"], line["diff_n"]) == ("on d", "on e", 11)
    assert line["diff"] == pytest.approx(np.mean(HIGH[1:]) - np.mean(OTHER[1:]))
    assert line["p"] == pytest.approx(direct.pvalue)
    assert (line["diff_low"], line["diff_high"]) == pytest.approx(direct.confidence_interval(0.95))
    assert (line["diff_worst"], line["diff_best"]) == pytest.approx(
        [(sum(HIGH) - sum(OTHER[1:]) - missing) / 12 for missing in (5, 1)]
    )
    assert line["marked"] is True


def test_of_two_tunes_the_seeds_are_compared_that_both_have():
    def runs(**seeds):
        return {f"on {d} (seed{i})": (f"m/lora/{d}/seed{i}", "closed", HIGH if d == "d" else LOW)
                for d, numbers in seeds.items() for i in numbers}  # fmt: skip

    def compared(**seeds):
        return [line["seeds"] for line in tables_of({**BASE, **runs(**seeds)}).tunes if line["metric"] == "judge:j"]

    assert compared(d=(1, 2, 3, 4), e=(2, 3, 4)) == [3]
    assert compared(d=(1, 2, 3), e=(2, 3, 4)) == [], "two seeds are too few"
    assert compared(d=(1, 2, 3), e=(1, 2)) == []
    assert compared(d=(1, 2), e=(1, 2)) == [1, 1]


def test_on_trained_pages_two_data_sets_are_described_and_not_tested():
    def tests_of(split):
        tables = tables_of({**BASE, **{r: (f"m/{r}/seed1", "closed", HIGH) for r in ("lora/d", "lora/e", "qlora/d")}},
                           split=split)  # fmt: skip
        return {(line["arm"], line["other_arm"]): line["p"] is not None for line in tables.tunes}

    assert tests_of("test_new_pages") == {("lora/d", "lora/e"): True, ("lora/d", "qlora/d"): True}
    assert tests_of("test_trained_pages") == {("lora/d", "lora/e"): False, ("lora/d", "qlora/d"): True}


def test_tunes_that_differ_in_more_than_one_thing_are_not_compared():
    runs = ("m/lora/d", "m/qlora/d", "m/lora/e", "m/qlora/f", "n/lora/d")
    arms = {run: (f"{run}/seed1", "closed", HIGH) for run in runs}
    arms["with retrieval"] = ("m/lora/e/seed1", "rag", HIGH)
    compared = {(line["arm"], line["other_arm"]) for line in tables_of({**BASE, **arms}).tunes}
    assert compared == {("m/lora/d", "m/qlora/d"), ("m/lora/d", "m/lora/e"), ("m/qlora/d", "m/qlora/f")}


def test_both_tables_are_one_family_for_holm():
    arms = {**BASE, **{f"on {d}": (f"m/lora/{d}/seed1", "closed", s) for d, s in (("d", HIGH), ("e", OTHER))}}
    tables = tables_of(arms)
    lines = [(line, prefix) for line in tables.scores for prefix in ("", "rag_")] + [(t, "") for t in tables.tunes]
    assert {line["metric"] for line in tables.tunes} == {"judge:j", "rouge_1", "rouge_2", "rouge_l", "rouge_lsum"}
    assert [line[f"{prefix}p_holm"] for line, prefix in lines] == holm([line[f"{prefix}p"] for line, prefix in lines])


def test_several_seeds_of_two_tunes_are_compared_over_all_of_them():
    runs = {f"on {d} (seed{i})": (f"m/lora/{d}/seed{i}", "closed", [s + i * k for s in LOW])
            for d, k in (("d", 1), ("e", 0)) for i in range(3)}  # fmt: skip
    [line] = [line for line in tables_of({**BASE, **runs}).tunes if line["metric"] == "judge:j"]
    assert (line["arm"], line["other_arm"], line["seeds"]) == ("on d (3 seeds)", "on e (3 seeds)", 3)
    assert (line["diff"], line["p"]) == pytest.approx((1, stats.ttest_1samp([0, 1, 2], 0).pvalue))
    assert line["p_permutation"] is None, "of one training only"


def test_a_judges_lines_say_whether_it_beat_a_metric_on_trial():
    tune = {**BASE, "tune": ("m/lora/d/seed1", "closed", HIGH)}
    marks = {(line["metric"], line["marked"]) for line in tables_of(tune, marked={"j": False, "k": True}).scores}
    assert ("judge:j", False) in marks and ("rouge_l", None) in marks
    assert ("judge:j", None) in {(line["metric"], line["marked"]) for line in tables_of(tune).scores}, "never tried"
