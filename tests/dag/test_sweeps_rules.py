"""What a sweep plans, and what a change of its grid trains: the new variants and no other run."""

import pytest
import yaml
from dag.test_costs import jobs_of, planned

GRID = {"rank": [8, 32], "learning_rate": [1e-4, 2e-4]}


def write(workflow, grid, seeds=(1, 2), registry=True):
    sweep = {"model": "smollm2-135m-instruct", "method": "lora", "dataset": "haldrune", "grid": grid}
    overlay = {"study": {"sweeps": ["rank"]}, "sweeps": {"rank": {**sweep, "seeds": list(seeds)}}}
    text = yaml.safe_dump(overlay if registry else {"sweeps": overlay["sweeps"]})
    (workflow.folder / "studies" / "sweep.yaml").write_text(text)


def jobs(workflow):
    return workflow.planned("--configfile", "studies/sweep.yaml")


TABLES = {"tabulate_sweep": 1, "plot_sweep": 1, "write_manifest": 1, "write_report": 1, "resolve_study": 1}


@pytest.fixture
def swept(done):
    """The default study and a sweep of four variants with two seeds, all done."""
    write(done, GRID)
    done.pretend_done("--configfile", "studies/sweep.yaml")
    return done


def test_a_sweep_is_trained_and_tabulated_and_neither_answered_nor_judged(done):
    write(done, GRID)
    assert jobs(done) == {"train": 8, **TABLES}


def test_a_sweep_that_the_study_does_not_name_trains_nothing(done):
    write(done, GRID, registry=False)
    assert jobs(done) == {"resolve_study": 1, "write_report": 1}


def test_a_new_value_trains_the_new_variants_only(swept):
    assert jobs(swept) == {}
    write(swept, {**GRID, "rank": [8, 16, 32]})
    assert jobs(swept) == {"train": 4, **TABLES}
    write(swept, GRID, seeds=(1, 2, 3))
    assert jobs(swept) == {"train": 4, **TABLES}
    write(swept, {**GRID, "rank": [8]})
    assert jobs(swept) == TABLES


def test_a_key_of_the_method_trains_its_variants_again_unless_the_grid_sets_it(swept):
    swept.edit("config.yaml", "rank: 32", "rank: 64")
    planned = jobs(swept)
    assert planned["train"] == 1
    swept.edit("config.yaml", "epochs: 8", "epochs: 4")
    assert jobs(swept)["train"] == 9


def test_the_plan_counts_a_sweeps_jobs(workflow):
    write(workflow, GRID)
    plan, printed = planned(workflow, "studies/sweep.yaml")
    assert jobs_of(plan) == jobs(workflow)
    assert jobs_of(plan)["train"] == 9
    assert "| tabulate_sweep" in printed
    alone = {line["rule"]: line["hours"] for line in planned(workflow)[0]["lines"]}["train"]
    assert {line["rule"]: line["hours"] for line in plan["lines"]}["train"] == pytest.approx(9 * alone)


def test_a_wrong_grid_is_named_before_anything_runs(workflow):
    write(workflow, {"rnak": [8]})
    printed = workflow.snakemake("-n", "--configfile", "studies/sweep.yaml", check=False)
    assert "sweeps.rank.grid.rnak: unknown key, did you mean 'rank'?" in printed
    assert "Traceback" not in printed
