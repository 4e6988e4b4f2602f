"""Judges on trial in the plan: a job per judge and one table; what a change tries again: no more, no less."""

import json

import pytest
from dag.test_costs import jobs_of, planned
from dag.test_default_study import FROM_TABLE

TRIAL = {"file": "judged.json", "judges": ["qwen", "asks"], "encoder": "all-minilm-l6-v2", "questions": 10}
API = {"engine": "openai", "model": "gpt-x", "key_env": None}


def write(workflow, trials=("nq",), registry=None, **changed):
    overlay = {
        "study": {"trials": list(trials)},
        "judges": {"asks": {"llm": "qwen", "scoring": "yes_no"}, **(registry or {})},
        "llms": {"gpt": API},
        "trials": {"nq": {**TRIAL, **changed}},
    }
    (workflow.folder / "trial.yaml").write_text(json.dumps(overlay))
    (workflow.folder / "judged.json").write_text("[]")


def jobs(workflow, profile="local"):
    return workflow.planned("--configfile", "trial.yaml", profile=profile)


# the tables say which judges are marked
AGAIN = {"tabulate_trial": 1, **FROM_TABLE, "resolve_study": 1}


@pytest.fixture
def tried(done):
    write(done)
    done.pretend_done("--configfile", "trial.yaml")
    return done


def test_a_trial_is_a_job_a_judge_and_one_table(done):
    write(done)
    assert jobs(done) == {"try_judge": 2, **AGAIN}


def test_a_trial_that_the_study_does_not_name_tries_nobody(done):
    write(done, trials=())
    assert jobs(done) == {"resolve_study": 1, "write_report": 1}


def test_without_the_file_a_plan_is_made_all_the_same(done):
    write(done)
    (done.folder / "judged.json").unlink()
    assert jobs(done)["try_judge"] == 2


@pytest.mark.parametrize(
    ("changed", "tries"),
    [
        ({"questions": 12}, 2),
        ({"seed": 2}, 2),
        ({"layer": 4}, 0),
        ({"judges": ["qwen"]}, 0),
        (
            {"registry": {"asks": {"llm": "qwen", "scoring": "yes_no", "prompt": "prompts/judge.yes-no-examples.txt"}}},
            1,
        ),
        ({"registry": {"asks": {"llm": "qwen", "scoring": "yes_no", "max_failed": 0.5}}}, 0),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_change_tries_again_what_it_concerns(tried, changed, tries):
    assert jobs(tried) == {}
    write(tried, **changed)
    found = jobs(tried)
    assert found.get("try_judge", 0) == tries
    assert found.get("tabulate_trial", 0) == (0 if "registry" in changed and not tries else 1)
    assert not {"judge", "train", "answer"} & found.keys()


def test_on_a_cluster_trials_run_with_the_judges_or_on_the_login_node_where_an_api_judges(workflow):
    def line():
        plan, _ = planned(workflow, "trial.yaml", "slurm")
        return next(line for line in plan["lines"] if line["rule"] == "try_judge")

    write(workflow)
    assert (line()["jobs"], line()["where"], line()["slurm_jobs"]) == (2, "CPU", 1), "with the judges of the arms"
    write(workflow, registry={"asks": {"llm": "gpt", "scoring": "yes_no"}}, judges=["asks"])
    assert (line()["jobs"], line()["where"], line()["slurm_jobs"]) == (1, "API", 0), "no compute node has internet"


def test_the_plan_counts_five_answers_a_question(workflow):
    write(workflow)
    plan, printed = planned(workflow, "trial.yaml")
    assert jobs_of(plan)["try_judge"] == 2
    [line] = [line for line in plan["lines"] if line["rule"] == "try_judge"]
    assert line["calls"] == 2 * 10 * 5
    assert "answers to each question of a trial" in printed


ARMS = ["smollm2-135m-instruct/lora/haldrune/seed1/haldrune.closed", "smollm2-135m-instruct/base/haldrune.rag"]


def test_a_comparison_is_a_job_and_one_table(done):
    overlay = {"study": {"comparisons": {"tune-or-look-up": {"judge": "qwen", "arms": ARMS}}}}
    (done.folder / "pairs.yaml").write_text(json.dumps(overlay))
    assert done.planned("--configfile", "pairs.yaml") == {
        "compare": 1,
        "tabulate_comparisons": 1,
        "resolve_study": 1,
        "write_manifest": 1,
        "write_report": 1,
    }
    plan, _ = planned(done, "pairs.yaml")
    [line] = [line for line in plan["lines"] if line["rule"] == "compare"]
    assert line["calls"] > 0
    assert line["calls"] % 2 == 0
