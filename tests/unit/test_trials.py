"""Judges on trial: EVOUNA's format, AUC and kappa against scikit-learn, intervals by question, and who is marked."""

import json
import os

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, cohen_kappa_score, roc_auc_score

from tuneproof.errors import InputError
from tuneproof.llm.api import engine_id
from tuneproof.llm.calls import Reply
from tuneproof.llm.prompts import read_prompt
from tuneproof.llm.store import Store
from tuneproof.scores import judge
from tuneproof.study import ApiLLM, JudgedAnswers
from tuneproof.trials import evouna, metrics, statistics, table
from tuneproof.trials.evouna import JudgedAnswer


def item(number, improper=False, **changed):
    return {
        "question": f"who built house {number}",
        "golden_answer": f"Ada {number}/Ada Builder {number}/Ada {number}",
        "answer_fid": f"Ada {number}",
        "judge_fid": True,
        "answer_gpt4": "Nobody knows.",
        "judge_gpt4": False,
        "improper": improper,
        **changed,
    }


def write(folder, items):
    path = folder / "NQ.json"
    path.write_text(json.dumps(items))
    return path


# --- the file ---


def test_a_question_brings_every_systems_answer_with_what_people_said(tmp_path):
    rows = evouna.draw(write(tmp_path, [item(n) for n in range(6)]), 6, 1)
    assert len(rows) == 12
    first = rows[0]
    number = first.question.split()[-1]
    assert (first.system, first.text, first.correct) == ("fid", f"Ada {number}", True)
    assert first.references == [f"Ada {number}", f"Ada Builder {number}"], "each once"
    answers, examples = evouna.as_asked(rows)
    assert [a.id for a in answers] == [r.id for r in rows]
    assert examples[answers[0].example_id].answer == f"Ada {number} or Ada Builder {number}"


def test_what_is_improper_or_not_judged_is_left_out(tmp_path):
    items = [
        item(0, improper=True, golden_answer=None),
        item(1, judge_fid=None),
        item(2, answer_gpt4=""),
        item(3, answer_fid=None),
        item(4),
        item(4, golden_answer="Another"),
    ]
    rows = evouna.draw(write(tmp_path, items), 4, 1)
    assert sorted((r.question[-1], r.system) for r in rows) == [
        ("1", "gpt4"),
        ("2", "fid"),
        ("3", "gpt4"),
        ("4", "fid"),
        ("4", "gpt4"),
    ]
    assert "Another" not in {reference for r in rows for reference in r.references}, (
        "a question is the first of its kind"
    )


def test_halves_hold_whole_questions_and_a_larger_draw_holds_the_smaller(tmp_path):
    path = write(tmp_path, [item(n) for n in range(40)])
    small, large = (evouna.draw(path, n, 1) for n in (10, 20))
    halves = {r.question_id: r.half for r in large}
    assert [list(halves.values()).count(h) for h in ("choose", "report")] == [10, 10]
    assert all(halves[r.question_id] == r.half for r in large + small)
    assert {r.id for r in small} < {r.id for r in large}
    assert {r.id for r in evouna.draw(path, 10, 2)} != {r.id for r in small}
    assert evouna.draw(path, 10, 1) == small


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"question": "?"}, "dict at the top, expected EVOUNA's list"),
        ([{"question": "?"}], r"question 1: no key 'golden_answer'"),
        ([{"question": "?", "golden_answer": "a", "improper": False}], r"question 1: no key 'answer_…'"),
        ([item(0), {**item(1), "judge_fid": "yes"}], r"question 2: judge_fid: 'yes' is wrong, expected true, false"),
        ([item(0, golden_answer=None)], r"question 1: golden_answer: None is wrong"),
        ([item(0)], "1 questions that are proper and judged, expected at least 4"),
    ],
)
def test_another_file_is_named_with_the_place(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        evouna.draw(write(tmp_path, content), 4, 1)


def test_the_published_file_is_read():
    data = os.environ.get("TUNEPROOF_DATA")
    if not data:
        pytest.skip("TUNEPROOF_DATA is not set: the folder that holds judge-calibration/evouna/NQ.json")
    spec = JudgedAnswers(file="$TUNEPROOF_DATA/judge-calibration/evouna/NQ.json", questions=3000)
    rows = evouna.draw(spec.path, spec.questions, spec.seed)
    assert {r.system for r in rows} == {"fid", "gpt35", "chatgpt", "gpt4", "newbing"}
    assert len(rows) > 14_900
    right = [metrics.string_match(r.text, r.references) == r.correct for r in rows]
    assert 0.8 < np.mean(right) < 0.95, "people and string match mostly agree"
    with pytest.raises(InputError, match="proper and judged"):
        evouna.draw(spec.path, 3610, 1)


# --- what a judge has to beat ---


@pytest.mark.parametrize(
    ("text", "references", "matches"),
    [
        ("It was The Beatles!", ["beatles"], 1.0),
        ("In 1945.", ["194"], 0.0),
        ("Wilhelm Röntgen", ["X", "wilhelm röntgen"], 1.0),
        ("the", ["a"], 0.0),
        ("Nobody", ["Wilhelm"], 0.0),
    ],
)
def test_string_match_is_of_whole_words_as_squad_compares_them(text, references, matches):
    assert metrics.string_match(text, references) == matches


def test_rouge_is_that_of_the_best_reference():
    row = JudgedAnswer("i", "q", "?", ["Rome", "the city of Rome"], "s", "It is the city of Rome", True, "choose")
    found = metrics.rouge_l([row])
    assert found == {"rouge_l": [pytest.approx(2 * 4 / 10)], "rouge_l_recall": [1.0]}


def test_cosine_is_that_of_the_nearest_reference():
    class Encoder:
        def embed(self, texts, what):
            return np.array([{"a": (1, 0), "b": (0, 1), "c": (0.6, 0.8)}[text] for text in texts])

    rows = [JudgedAnswer("i", "q", "?", references, "s", "c", True, "choose") for references in (["a"], ["a", "b"])]
    assert metrics.cosine(rows, Encoder()) == pytest.approx([0.6, 0.8])


def test_bertscore_is_bert_scores_own_number(root):
    bert_score = pytest.importorskip("bert_score")
    folder = root / "resources" / "models" / "all-minilm-l6-v2"
    if not (folder / "lock.json").exists():
        pytest.skip("the encoder is not here: run `make setup`")
    row = JudgedAnswer("i", "q", "?", ["Rome", "the city of Rome"], "s", "It is Rome", True, "choose")
    _, _, f = bert_score.score(["It is Rome"], [row.references], model_type=str(folder), num_layers=5)
    assert metrics.bertscore([row], folder / "lock.json", 5) == pytest.approx(f.tolist(), abs=1e-6)


# --- AUC, kappa, calibration ---


@pytest.fixture
def clustered():
    """Scores of 300 answers to 60 questions, with ties and with questions of very different size."""
    random = np.random.default_rng(3)
    questions = np.sort(random.integers(0, 60, 300))
    correct = random.random(300) < 0.3 + 0.5 * (questions % 2)
    scores = np.round(correct + random.normal(0, 1.2, 300), 1)
    return scores, correct, questions, 60


def test_auc_is_scikit_learns_for_any_weights_of_the_questions(clustered):
    scores, correct, questions, n = clustered
    drawn = statistics.draws(n, 20)
    ours = statistics.Auc(*clustered).of(np.vstack([np.ones(n), drawn]))
    assert ours[0] == pytest.approx(roc_auc_score(correct, scores), abs=1e-12)
    for weights, auc in zip(drawn, ours[1:], strict=True):
        copies = np.repeat(np.arange(300), weights[questions])
        assert auc == pytest.approx(roc_auc_score(correct[copies], scores[copies]), abs=1e-12)


def test_kappa_is_scikit_learns(clustered):
    scores, correct, questions, n = clustered
    drawn = statistics.draws(n, 20)
    ours = statistics.Kappa(*clustered, 0.5).of(np.vstack([np.ones(n), drawn]))
    assert ours[0] == pytest.approx(cohen_kappa_score(scores >= 0.5, correct), abs=1e-12)
    for weights, kappa in zip(drawn, ours[1:], strict=True):
        copies = np.repeat(np.arange(300), weights[questions])
        assert kappa == pytest.approx(cohen_kappa_score(scores[copies] >= 0.5, correct[copies]), abs=1e-12)


def test_the_threshold_is_the_best_of_all(clustered):
    scores, correct, *_ = clustered
    cut = statistics.best_threshold(scores, correct)
    best = max(cohen_kappa_score(scores >= value, correct) for value in np.unique(scores))
    assert cohen_kappa_score(scores >= cut, correct) == pytest.approx(best)
    assert statistics.best_threshold([0.0, 0.0, 1.0, 1.0], [False, False, True, True]) == 0.5
    assert statistics.best_threshold([0.3, 0.3], [False, True]) == 0.3


def test_the_interval_of_the_auc_covers_what_is_true():
    """Scores of wrong and of correct answers are N(0, 1) and N(1, 1) with an effect of the question: AUC is 0.760."""
    random, inside, studies = np.random.default_rng(1), 0, 200
    for _ in range(studies):
        questions = np.repeat(np.arange(60), 5)
        correct = random.random(300) < 0.6
        shared = random.normal(0, 0.5, 60)[questions]
        scores = correct + shared + random.normal(0, np.sqrt(0.75), 300)
        auc = statistics.Auc(scores, correct, questions, 60)
        found = statistics.interval(auc.of(np.ones(60)), auc.of(statistics.draws(60, 400)))
        inside += found.low <= 0.7602 <= found.high
    assert 0.90 <= inside / studies <= 0.99


def test_calibration_counts_how_far_scores_are_from_the_share_that_is_correct():
    p, correct, one = [0.05, 0.05, 0.95, 1.0], [False, True, True, True], np.ones(1)
    assert statistics.Brier(p, correct, [0] * 4, 1).of(one) == pytest.approx(brier_score_loss(correct, p))
    low, high = statistics.reliability(p, correct)
    assert (low.low, low.high, low.n, low.score, low.correct) == (0.0, 0.1, 2, pytest.approx(0.05), 0.5)
    assert (high.low, high.high, high.n, high.score, high.correct) == (0.9, 1.0, 2, pytest.approx(0.975), 1.0)
    assert statistics.CalibrationError(p, correct, [0] * 4, 1).of(one) == pytest.approx((0.45 + 0.025) / 2)


def test_brier_and_calibration_error_are_those_of_the_answers_drawn(clustered):
    scores, correct, questions, n = clustered
    p, drawn = (scores - scores.min()) / (scores.max() - scores.min()), statistics.draws(n, 20)
    of = (p, correct, questions, n)
    brier, error = statistics.Brier(*of).of(drawn), statistics.CalibrationError(*of).of(drawn)
    for i, weights in enumerate(drawn):
        copies = np.repeat(np.arange(300), weights[questions])
        bins = statistics.reliability(p[copies], correct[copies])
        assert brier[i] == pytest.approx(brier_score_loss(correct[copies], p[copies]), abs=1e-12)
        assert error[i] == pytest.approx(sum(b.n * abs(b.score - b.correct) for b in bins) / len(copies), abs=1e-12)


@pytest.mark.parametrize("excess", [0.05, 0.1, 0.2])
def test_the_intervals_of_brier_and_calibration_error_cover_what_is_true(excess):
    """Probabilities are 0.25 or 0.55, answers correct so much more often, with an effect of the question."""
    random, inside, studies = np.random.default_rng(1), [0, 0], 200
    brier = np.mean([(p - 1) ** 2 * (p + excess) + p**2 * (1 - p - excess) for p in (0.25, 0.55)])
    for _ in range(studies):
        questions = np.repeat(np.arange(60), 5)
        p = random.choice([0.25, 0.55], 300)
        correct = random.random(300) < p + excess + random.choice([-0.2, 0.2], 60)[questions]
        of = (p, correct, questions, 60)
        one, error, drawn = statistics.Brier(*of), statistics.CalibrationError(*of), statistics.draws(60, 400)
        ones = np.ones(60)
        found = statistics.interval(one.of(ones), one.of(drawn))
        inside[0] += found.low <= brier <= found.high
        found = error.interval(drawn)
        assert found.low <= found.value <= found.high
        inside[1] += found.low <= excess <= found.high
    assert 0.90 <= inside[0] / studies <= 0.99
    assert 0.90 <= inside[1] / studies <= 0.99


# --- the verdict ---


@pytest.fixture
def rows():
    random = np.random.default_rng(5)
    return [
        JudgedAnswer(f"a{q}.{s}", f"q{q}", "?", ["x"], s, "y", bool(random.random() < 0.6), ("choose", "report")[q % 2])
        for q in range(120)
        for s in ("one", "two", "three")
    ]


def noisy(rows, noise, seed, low=0.0, high=1.0):
    random = np.random.default_rng(seed)
    return [float(np.clip((r.correct + random.normal(0, noise) + 1) / 3, 0, 1) * (high - low) + low) for r in rows]


def judged(rows, noise, seed):
    return noisy(rows, noise, seed, 1.0, 5.0)


def test_a_judge_that_is_not_surely_above_the_best_metric_is_marked(rows):
    judges = {"good": judged(rows, 0.3, 1), "level": judged(rows, 0.9, 2), "chance": judged(rows, 50, 3)}
    trial = table.try_all(rows, judges, {"fair": noisy(rows, 0.9, 4), "poor": noisy(rows, 5, 5)}, 2000)
    found = {row.name: row for row in trial.rows}
    assert {name: row.marked for name, row in found.items()} == {
        "good": False,
        "level": True,
        "chance": True,
        "fair": False,
        "poor": False,
    }
    assert (trial.best_metric, trial.best_judge) == ("fair", "good")
    assert found["good"].difference.low > 0 > found["chance"].difference.high
    assert found["fair"].difference is None
    assert [row.name for row in trial.rows] == ["good", "level", "chance", "fair", "poor"]
    said = " ".join(table.sentences(trial))
    assert "Marked, because not surely above fair: level, chance." in said
    assert "Above fair: good." in said


def test_figures_are_of_the_half_that_nothing_was_chosen_by(rows):
    scores = judged(rows, 0.6, 1)
    trial = table.try_all(rows, {"j": scores}, {"m": noisy(rows, 2, 2)}, 1000)
    [judge] = [row for row in trial.rows if row.kind == "judge"]
    for half, auc in (("choose", judge.auc_chosen_by), ("report", judge.auc.value)):
        members = [i for i, row in enumerate(rows) if row.half == half]
        assert auc == pytest.approx(roc_auc_score([rows[i].correct for i in members], [scores[i] for i in members]))
    assert judge.n == trial.answers["report"] == 180
    spoiled = [5.0 - s if row.half == "report" else s for s, row in zip(scores, rows, strict=True)]
    again = table.try_all(rows, {"j": [max(1.0, s) for s in spoiled]}, {"m": noisy(rows, 2, 2)}, 1000)
    [turned] = [row for row in again.rows if row.kind == "judge"]
    assert turned.threshold == judge.threshold, "chosen by the other half"
    assert turned.auc.value < 0.5


def test_missing_scores_are_counted_and_bounded(rows):
    scores = judged(rows, 0.5, 1)
    some = [None if i % 10 == 0 else s for i, s in enumerate(scores)]
    trial = table.try_all(rows, {"j": some}, {"m": noisy(rows, 2, 2)}, 1000)
    [judge] = [row for row in trial.rows if row.kind == "judge"]
    [metric] = [row for row in trial.rows if row.kind == "metric"]
    assert judge.n + judge.missing == 180
    assert judge.missing == sum(s is None for s, row in zip(some, rows, strict=True) if row.half == "report")
    assert judge.worst < judge.auc.value < judge.best
    assert (metric.missing, metric.worst, metric.best) == (0, None, None)
    assert f"Answers without a score: j {judge.missing} of 180" in " ".join(table.sentences(trial))


def test_a_judge_that_scores_only_the_easy_answers_is_marked(rows):
    good = judged(rows, 0.3, 1)
    metrics, few = {"fair": noisy(rows, 0.9, 4)}, [s if i % 50 else None for i, s in enumerate(good)]
    pairs = enumerate(zip(good, rows, strict=True))
    easy = [s if i % 3 == 0 and (s > 3) == row.correct else None for i, (s, row) in pairs]
    found = {row.name: row for row in table.try_all(rows, {"easy": easy, "few": few}, metrics, 1000).rows}
    assert found["easy"].difference.low > 0 > found["easy"].worst_difference
    assert found["easy"].marked, "with each missing score the wrong way it would not be above the metric"
    assert found["few"].worst_difference == pytest.approx(found["few"].worst - found["fair"].auc.value)
    assert found["few"].worst_difference > 0 and not found["few"].marked, "a few that are missing change nothing"
    trial = table.try_all(rows, {"easy": easy}, metrics, 1000)
    assert "where it would not be above fair with each of them the wrong way" in " ".join(table.sentences(trial))
    assert "its missing scores taken for wrong" in table.footnotes([table.to_json("nq", "NQ.json", trial)])["easy"]


def test_a_judge_without_scores_is_marked_and_ends_no_trial(rows):
    judges = {"good": judged(rows, 0.3, 1), "silent": [None] * len(rows)}
    trial = table.try_all(rows, judges, {"m": noisy(rows, 2, 2)}, 1000)
    good, silent, _ = trial.rows
    assert (silent.name, silent.n, silent.missing, silent.auc.value, silent.worst, silent.best) == (
        *("silent", 0, 180, None, 0.0, 1.0),
    )
    assert silent.marked and not good.marked
    assert "| judge silent † | –; 0.000 to 1.000 with the missing |" in table.to_markdown("nq", "NQ.json", trial)


def test_a_half_that_is_all_correct_is_an_error(rows):
    alike = [JudgedAnswer(**{**vars(row), "correct": True}) for row in rows]
    with pytest.raises(InputError, match="people call the 180 answers to choose by all alike"):
        table.try_all(alike, {"j": judged(alike, 1, 1)}, {"m": noisy(alike, 2, 2)}, 1000)


def test_the_mark_goes_with_the_judge_into_other_tables(rows):
    judges = {"good": judged(rows, 0.3, 1), "chance": judged(rows, 50, 3)}
    trial = table.try_all(rows, judges, {"fair": noisy(rows, 0.9, 4)}, 2000)
    written = json.loads(json.dumps(table.to_json("nq", "NQ.json", trial)))
    notes = table.footnotes([written, {**written, "trial": "tq"}])
    assert list(notes) == ["chance"]
    assert "nq (fair), tq (fair)" in notes["chance"]
    text = table.to_markdown("nq", "NQ.json", trial)
    assert "| **judge good** |" in text
    assert "| judge chance † |" in text
    line = table.to_rows(trial)[0]
    assert {"name", "auc", "auc_low", "auc_high", "kappa", "marked"} <= line.keys()
    for figure in ("brier", "calibration_error"):
        assert 0 <= line[f"{figure}_low"] < line[figure] < line[f"{figure}_high"]
        low, high = (f"{line[f'{figure}_{end}']:.3f}" for end in ("low", "high"))
        assert f"| {line[figure]:.3f} ({low} to {high}) |" in text


# --- the scripts ---


def test_a_trial_goes_from_the_store_to_its_table(tmp_path, run_script, root):
    """The judge knows every answer from the store, as after a run that was killed behind its last call: replay."""
    encoder = root / "resources" / "models" / "all-minilm-l6-v2" / "lock.json"
    if not encoder.exists():
        pytest.skip("the encoder is not here: run `make setup`")
    items = [item(n, **({"judge_fid": False, "answer_fid": "Bob"} if n % 3 == 0 else {})) for n in range(40)]
    spec = {"file": str(write(tmp_path, items)), "questions": 40, "seed": 1}
    rows = evouna.draw(tmp_path / "NQ.json", 40, 1)
    llm = {"engine": "openai", "model": "gpt-x", "base_url": "http://127.0.0.1:9/v1", "key_env": None}
    judge_spec = {"llm": "gpt", "scoring": "generated", "parser": "lenient"}
    prompt = root / "prompts" / "judge.paper.txt"
    asked = judge.requests(*evouna.as_asked(rows), read_prompt(prompt, judge.GAPS), "generated")
    engine = engine_id(ApiLLM(**llm))
    said = ["Right. [RESULT] 5" if row.correct else "Wrong. [RESULT] **1**" for row in rows]
    said[0] = "I cannot say."
    Store(tmp_path / "store", engine).put(
        [(r.key(engine), r, Reply(text, 9, 9, "stop")) for r, text in zip(asked, said, strict=True)]
    )
    out = tmp_path / "scores.jsonl"
    done = run_script(
        "try_judge",
        *("--answers", json.dumps(spec), "--name", "gpt", "--judge", json.dumps(judge_spec), "--llm", json.dumps(llm)),
        *("--model", "--prompt", prompt, "--store", tmp_path / "store", "--out", out, "--usage", tmp_path / "u.json"),
        env={"TUNEPROOF_CALLS": json.dumps({"calls": {"mode": "replay"}})},
    )
    assert done.returncode == 0, done.stderr
    right = sum(row.correct for row in rows)
    strict = right - rows[0].correct
    assert "79 of 80 answers have a score" in done.stderr
    assert f"the strict parser reads {strict} of 80" in done.stderr
    assert "the lenient parser reads 79 of 80 (98.8%)" in done.stderr

    trial = {**spec, "judges": ["gpt"], "encoder": "all-minilm-l6-v2"}
    tables = {f"--{name}": tmp_path / f"trial.{name}" for name in ("table", "text", "data")}
    done = run_script(
        "tabulate_trial",
        *("--name", "nq", "--trial", json.dumps(trial), "--judge", "gpt", "--scores", out, "--encoder", encoder),
        *("--resamples", 1000, *(part for pair in tables.items() for part in pair)),
    )
    assert done.returncode == 0, done.stderr
    table_rows = {row["name"]: row for row in json.loads(tables["--data"].read_text())["rows"]}
    assert set(table_rows) == {"gpt", "string_match", "rouge_l", "rouge_l_recall", "cosine"}
    assert table_rows["gpt"]["auc"]["value"] == table_rows["string_match"]["auc"]["value"] == 1.0
    assert table_rows["gpt"]["marked"], "string match is as good"
    assert "| judge gpt † |" in tables["--text"].read_text() or "**judge gpt †**" in tables["--text"].read_text()
    assert tables["--table"].read_text().startswith("name,kind,n,missing,")
