"""A sweep's grid as methods, and what its table says and does not say."""

import copy
import json
import math

import pytest
import yaml
from scipy import stats

from tuneproof.plan import HERE, Job, cost_of, sizes_of
from tuneproof.report import figures, page
from tuneproof.report.sweep import sweep_chart, sweep_rows
from tuneproof.study import arms, expand_runs, load, made, methods_of, sweep_runs, variants
from tuneproof.sweeps import table

SWEEP = {"model": "smollm2-135m-instruct", "method": "lora", "dataset": "haldrune", "seeds": [1, 2]}


@pytest.fixture
def config(root):
    return yaml.safe_load((root / "config.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def content(config):
    raw = copy.deepcopy(config)
    raw["study"]["sweeps"] = ["rank"]
    raw["sweeps"] = {"rank": {**SWEEP, "grid": {"learning_rate": ["1e-4", 2e-4], "rank": [8, 32]}}}
    return raw


def test_every_combination_is_a_method_with_a_readable_id(content):
    study = load(content)
    found = variants(study, "rank")
    assert list(found) == [
        "lora-rank8-learning_rate0.0001",
        "lora-rank32-learning_rate0.0001",
        "lora-rank8-learning_rate0.0002",
        "lora-rank32-learning_rate0.0002",
    ]
    method = found["lora-rank8-learning_rate0.0002"]
    assert method == study.methods["lora"].model_copy(update={"rank": 8, "learning_rate": 2e-4})
    assert len(sweep_runs(study, "rank")) == 8
    assert sweep_runs(study, "rank")[1].id == ("smollm2-135m-instruct/lora-rank8-learning_rate0.0001/haldrune/seed2")


def test_runs_of_a_sweep_are_neither_answered_nor_judged(content, config):
    assert expand_runs(load(content)) == expand_runs(load(config))
    assert arms(load(content)) == arms(load(config))


def test_words_and_truths_stand_in_ids_too(content):
    grid = {"schedule": ["cosine", "linear"], "gradient_checkpointing": [True, "auto"], "evaluations": [4]}
    content["sweeps"]["rank"]["grid"] = grid
    assert "lora-schedulecosine-gradient_checkpointingtrue-evaluations4" in variants(load(content), "rank")


def test_sweeps_that_meet_share_a_variant(content):
    content["sweeps"]["other"] = {**SWEEP, "grid": {"rank": [8], "learning_rate": [1e-4]}}
    content["study"]["sweeps"].append("other")
    assert set(variants(load(content), "other")) < set(variants(load(content), "rank"))
    assert len(methods_of(load(content))) == 1 + 4


def test_a_sweep_of_which_the_study_does_not_speak_makes_nothing(content):
    content["study"]["sweeps"] = []
    assert list(methods_of(load(content))) == ["lora"]


def test_the_data_set_of_a_sweep_is_made(content):
    content["study"]["also_make"] = []
    content["sweeps"]["rank"]["dataset"] = "haldrune-factual"
    assert list(made(load(content))) == ["haldrune", "haldrune-factual"]


def test_a_variant_of_a_higher_rank_is_planned_larger(content):
    study = load(content)
    sizes = {"haldrune": sizes_of(study, "haldrune", {})}
    of = {"model": SWEEP["model"], "dataset": "haldrune", "seed": "1"}
    small, large = (
        cost_of(study, Job("train", {**of, "method": f"lora-rank{rank}-learning_rate0.0001"}, HERE), sizes)
        for rank in (8, 32)
    )
    assert large.disk == pytest.approx(4 * small.disk)


# --- the table ---

POINTS = {f"lora-rank{rank}": {"rank": rank} for rank in (8, 16, 32)}


def losses(*by_variant):
    """{variant: {seed: (lowest, last)}} from the lowest losses; None is a seed that diverged."""
    return {
        variant: {seed: (v, None if v is None else v + 0.1) for seed, v in enumerate(values, 1)}
        for variant, values in zip(POINTS, by_variant, strict=True)
    }


def test_the_t_interval_is_scipys():
    values = [1.50, 1.53, 1.49]
    found = table.t_interval(values)
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    assert (found.n, found.mean) == (3, pytest.approx(sum(values) / 3))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert table.t_interval([1.0]) == table.Interval(1, 1.0, None, None)
    assert table.t_interval([]) == table.Interval(0, None, None, None)


def test_the_base_models_evaluation_is_not_the_runs():
    log = [{"step": 0, "eval_loss": 0.1}, {"step": 1, "loss": 2.0}, {"step": 2, "eval_loss": 1.5}]
    assert table.validation_losses([*log, {"step": 4, "eval_loss": 1.6}]) == (1.5, 1.6)
    assert table.validation_losses([*log, {"step": 4, "eval_loss": math.nan}]) == (None, None)
    assert table.validation_losses([*log, {"step": 4, "diverged": True}]) == (None, None)
    assert table.validation_losses(log[:2]) == (None, None)


def test_variants_are_sorted_by_their_mean_and_compared_over_the_seeds_that_both_have():
    rows = table.compare(POINTS, losses([1.60, 1.70, 1.80], [1.50, 1.60, 1.70], [1.51, 1.60, 1.72]))
    assert [row.variant for row in rows] == ["lora-rank16", "lora-rank32", "lora-rank8"]
    assert [row.effect for row in rows] == ["best", "cannot tell", "worse"]
    assert rows[2].difference.mean == pytest.approx(0.1)
    assert rows[2].difference.low == pytest.approx(0.1, abs=1e-6), "seeds differ by more than variants, and are paired"
    assert rows[0].final.mean == pytest.approx(1.7)
    said = " ".join(table.sentences(rows, {"rank": [8, 16, 32]}))
    assert "Best: lora-rank16, validation loss 1.6000" in said
    assert "Runner-up: lora-rank32" in said
    assert "cannot be told from the best, and their intervals overlap" in said
    assert "not corrected for 2 comparisons" in said
    assert "may lie beyond" not in said


def test_a_runner_up_that_is_worse_is_said_to_be():
    rows = table.compare(POINTS, losses([1.9, 2.0, 2.1], [1.50, 1.60, 1.70], [1.71, 1.80, 1.91]))
    assert "over 3 seeds that both have (95 % interval " in table.sentences(rows, {"rank": [8, 16, 32]})[1]
    assert table.sentences(rows, {"rank": [8, 16, 32]})[1].endswith(": worse.")


def test_one_seed_gives_no_interval_and_that_is_said():
    rows = table.compare(POINTS, losses([1.6], [1.7], [1.5]))
    assert all(row.best.low is None for row in rows)
    said = " ".join(table.sentences(rows, {"rank": [8, 16, 32]}))
    assert "One seed each: no interval" in said
    assert "how sure that is, cannot be said" in said
    assert "rank 32 is the largest of the grid: what is best may lie beyond." in said
    assert "worse" not in said


def test_a_variant_that_diverges_comes_last_however_good_its_other_seeds():
    rows = table.compare(POINTS, losses([1.0, None], [1.5, 1.6], [1.55, 1.62]))
    assert [row.variant for row in rows] == ["lora-rank16", "lora-rank32", "lora-rank8"]
    assert (rows[2].diverged, rows[2].effect) == (1, "diverged")
    assert "Diverged, in some seed at least: lora-rank8." in table.sentences(rows, {"rank": [8, 16, 32]})
    none = table.compare(POINTS, losses([None], [None], [None]))
    assert table.sentences(none, {"rank": [8, 16, 32]}) == ["Every training diverged: none is best."]


def test_the_table_is_the_same_in_every_form(root, config):
    rows = table.compare(POINTS, losses([1.6, 1.7], [1.5, 1.6], [None, 1.6]))
    said = table.sentences(rows, {"rank": [8, 16, 32]})
    text = table.to_markdown("rank", "m", "d", rows, said)
    assert "| **16** | **2** | **1.5500 (" in text
    flat = table.to_rows(rows)
    assert [row["rank"] for row in flat] == [16, 8, 32]
    assert {"best_mean", "best_low", "final_mean", "difference_high", "effect"} <= flat[0].keys()
    data = json.loads(json.dumps(table.to_json("rank", "m", "d", rows, said)))
    svg = figures.to_svg(sweep_chart(data, sweep_rows(data)))
    assert "Best: lora-rank16" in svg and "diverged in some seed" in svg
    drawn = {"sweep.rank": page.Figure(svg, "sweep.rank.csv")}
    manifest = {"revision": None, "images": {}, "deployment": "conda", "locks": {}}
    sources = page.Sources(load(config), manifest, [], [], drawn, [], [], {}, [], sweeps=[data])
    html = page.render((root / "report/report.html.j2").read_text(encoding="utf-8"), sources)
    assert '<section id="sweeps">' in html and "cannot be told from the best" not in html.split('id="sweeps"')[0]
    assert "1.5500" in html and 'aria-label="Figure: sweep.rank"' in html


def test_a_figure_of_nothing_but_divergence_is_drawn():
    rows = table.compare(POINTS, losses([None], [None], [None]))
    data = json.loads(json.dumps(table.to_json("rank", "m", "d", rows, table.sentences(rows, {}))))
    assert "Every training diverged" in figures.to_svg(sweep_chart(data, sweep_rows(data)))
