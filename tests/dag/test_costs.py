"""The plan counts what Snakemake would run, the keys are asked for in time, and every rule is in the drawing."""

import json
import os
import shutil
import subprocess
import sys

import pytest

PAPER = "studies/beyond-qa-pairs.yaml"


@pytest.fixture(autouse=True)
def _no_key_no_corpus(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("TUNEPROOF_CORPUS", raising=False)


def script(workflow, name, *arguments, **environment):
    command = [sys.executable, f"scripts/{name}.py", *arguments]
    environ = {**os.environ, **environment}
    return subprocess.run(command, cwd=workflow.folder, capture_output=True, text=True, env=environ, check=False)


def planned(workflow, study="config.yaml", profile="local", **environment):
    """The plan as data, and what was printed."""
    arguments = ["--study", study, "--profile", f"profiles/{profile}", "--json", "plan.json"]
    done = script(workflow, "plan_study", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads((workflow.folder / "plan.json").read_text()), done.stdout + done.stderr


@pytest.fixture
def bare(workflow):
    """A PATH with the shell that Snakemake looks for and nothing else: no Apptainer, no graphviz."""
    folder = workflow.folder / "bare"
    folder.mkdir()
    for tool in ("bash", "sh", "which"):
        (folder / tool).symlink_to(shutil.which(tool))
    return str(folder)


def jobs_of(plan):
    return {line["rule"]: line["jobs"] for line in plan["lines"]}


@pytest.mark.parametrize("profile", ["local", "slurm"])
@pytest.mark.parametrize("study", ["config.yaml", PAPER])
def test_the_plan_counts_the_jobs_of_the_dag(workflow, study, profile):
    plan, printed = planned(workflow, study, profile)
    jobs = workflow.planned("--configfile", study, profile=profile)
    assert jobs_of(plan) == jobs
    assert plan["total"]["jobs"] == sum(jobs.values())
    assert "| total" in printed


def test_the_paper_asks_the_cluster_for_gpus_and_the_api_for_dollars(workflow):
    plan, printed = planned(workflow, PAPER, "slurm")
    lines = {line["rule"]: line for line in plan["lines"]}
    assert {rule: lines[rule]["where"] for rule in ("fetch_model", "write_pairs", "train", "measure")} == {
        "fetch_model": "login node",
        "write_pairs": "API",
        "train": "GPU",
        "measure": "CPU",
    }
    assert lines["write_pairs"]["calls"] == 7247, "four pairs a call, of which 69 % are kept, make 20,000"
    assert lines["train"]["asked_gpu_h"] > 0
    assert lines["fetch_model"]["slurm_jobs"] == 0
    assert 5 < plan["total"]["dollars"] < 500
    assert "7,247 chunks" in printed


def test_apis_are_called_from_the_login_node_because_compute_nodes_have_no_internet(workflow):
    lines = {line["rule"]: line for line in planned(workflow, PAPER, "slurm")[0]["lines"]}
    for rule in ("write_pairs", "rephrase_questions", "judge"):
        assert (lines[rule]["where"], lines[rule]["slurm_jobs"]) == ("API", 0)
    lines = {line["rule"]: line for line in planned(workflow, profile="slurm")[0]["lines"]}
    for rule in ("write_pairs", "rephrase_questions", "judge"):
        assert lines[rule]["slurm_jobs"] > 0, "a model of one's own needs a compute node"


def test_a_plan_is_what_is_left_to_do(done):
    script(done, "plan_study", "--study", "config.yaml", "--profile", "profiles/local")
    nothing = script(done, "plan_study", "--study", "config.yaml", "--profile", "profiles/local")
    assert nothing.stdout == "haldrune: nothing is left to do\n"
    done.edit("config.yaml", "learning_rate: 1.0e-3", "learning_rate: 2.0e-4")
    plan, _ = planned(done)
    assert jobs_of(plan) == done.planned()
    assert jobs_of(plan)["answer"] == 1


def test_jobs_that_a_profile_groups_share_slurm_jobs(workflow):
    profile = "profiles/slurm/config.yaml"

    def slurm_jobs():
        plan, _ = planned(workflow, profile="slurm")
        return {line["rule"]: line["slurm_jobs"] for line in plan["lines"]}["measure"], plan["total"]["slurm_jobs"]

    measures, total = slurm_jobs()
    assert measures == 1, "three arms, twelve to a Slurm job"
    workflow.edit(profile, "measures: 12", "measures: 2")
    assert slurm_jobs() == (2, total + 1)
    workflow.edit(profile, "  measure: measures\n", "")
    assert slurm_jobs() == (3, total + 4), "what was answered is still written in two"


def test_a_chain_of_rules_is_one_slurm_job_and_counted_once(workflow):
    (workflow.folder / "one.yaml").write_text("study: {also_make: []}\n")
    plan, _ = planned(workflow, "one.yaml", "slurm")
    lines = {line["rule"]: line["slurm_jobs"] for line in plan["lines"]}
    assert lines["extract_pages"] == lines["chunk_pages"] == lines["index_chunks"] == 1
    apart = sum(lines.values())
    # corpus 3, dataset 3, report 12 rules: 18 rules in 3 Slurm jobs
    assert plan["total"]["slurm_jobs"] == apart - 15


def test_answers_that_share_a_slurm_job_ask_for_one_gpu(workflow):
    plan, _ = planned(workflow, profile="slurm")
    (answer,) = (line for line in plan["lines"] if line["rule"] == "answer")
    # two runs in a row, two hours each
    assert (answer["jobs"], answer["slurm_jobs"], answer["asked_gpu_h"], answer["asked_cpu_h"]) == (2, 1, 4, 8 * 4)
    assert answer["calls"] == 3 * 63, "of three arms"


def test_the_plan_says_what_crossing_every_tune_with_every_test_set_costs(workflow):
    def judged(cross):
        datasets = ["haldrune", "haldrune-conceptual", "haldrune-factual"]
        study = {"study": {"datasets": datasets, "also_make": [], "cross": cross}}
        (workflow.folder / "cross.json").write_text(json.dumps(study))
        plan, _ = planned(workflow, "cross.json")
        return jobs_of(plan)["judge"], sum(line["calls"] for line in plan["lines"] if line["rule"] == "judge")

    # the base in two modes on three sets, and three tunes on one set each or on three
    (without, few), (crossed, many) = judged(False), judged(True)
    assert (without, crossed) == (2 * 3 + 3, 2 * 3 + 3 * 3)
    assert many > few


def test_a_study_of_many_runs_is_its_trainings_and_fewer_small_slurm_jobs(workflow):
    (workflow.folder / "many.yaml").write_text(f"study: {{seeds: {list(range(1, 101))}, also_make: []}}\n")
    plan, _ = planned(workflow, "many.yaml", "slurm")
    slurm_jobs = {line["rule"]: line["slurm_jobs"] for line in plan["lines"]}
    assert slurm_jobs["train"] == 100, "a training is never grouped"
    assert plan["total"]["jobs"] > 400
    assert plan["total"]["slurm_jobs"] < 100 + 60, "of 309 answers, measures and judges"


def test_a_full_tuning_is_planned_and_costed_as_a_training(workflow):
    full = {"kind": "full", "epochs": 3, "learning_rate": 1e-5, "batch_size": 8}
    study = {"study": {"methods": ["whole"], "also_make": []}, "methods": {"whole": full}}
    (workflow.folder / "full.json").write_text(json.dumps(study))
    plan, _ = planned(workflow, "full.json", "slurm")
    assert jobs_of(plan) == workflow.planned("--configfile", "full.json", profile="slurm")
    (line,) = (line for line in plan["lines"] if line["rule"].startswith("train"))
    assert (line["rule"], line["where"], line["jobs"], line["asked_gpu_h"]) == ("train_full", "GPU", 1, 12)
    assert line["hours"] > 45 / 3600, "more than the start of a job"
    assert line["disk_gb"] > 4 * 0.135, "a model, not an adapter"


def test_judges_share_slurm_jobs_unless_an_api_judges(workflow):
    own, _ = planned(workflow, profile="slurm")
    assert {line["rule"]: line["slurm_jobs"] for line in own["lines"]}["judge"] == 1
    paper, _ = planned(workflow, PAPER, "slurm")
    (judge,) = (line for line in paper["lines"] if line["rule"] == "judge")
    assert (judge["where"], judge["slurm_jobs"]) == ("API", 0), "no compute node has internet"


def test_a_machine_without_apptainer_plans_too(workflow, bare):
    profile = workflow.folder / "profiles" / "slurm" / "config.yaml"
    if "software-deployment-method" not in profile.read_text():
        profile.write_text(profile.read_text() + "\nsoftware-deployment-method: apptainer\n")
    plan, _ = planned(workflow, profile="slurm", PATH=bare)
    assert plan["total"]["jobs"] > 20


def test_a_wrong_study_is_named_in_one_sentence(workflow):
    (workflow.folder / "studies" / "wrong.yaml").write_text("methods: {lora: {rnak: 8}}\n")
    refused = script(workflow, "plan_study", "--study", "studies/wrong.yaml", "--profile", "profiles/local")
    assert refused.returncode == 1
    assert "methods.lora.rnak: unknown key, did you mean 'rank'?" in refused.stderr
    missing = script(workflow, "plan_study", "--study", "studies/none.yaml", "--profile", "profiles/local")
    assert "error: studies/none.yaml: no such file, expected a study" in missing.stderr


# --- keys ---

SENTENCE = "the environment has no OPENAI_API_KEY, expected the key of llms.gpt-judge and llms.gpt-writer"


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.md").write_text("# A\n")
    monkeypatch.setenv("TUNEPROOF_CORPUS", str(tmp_path / "corpus"))


def test_a_dry_run_warns_of_a_missing_key_and_goes_on(workflow):
    printed = workflow.snakemake("-n", "--configfile", PAPER)
    assert f"{SENTENCE}; a real run will stop before its first job." in printed
    assert printed.count("OPENAI_API_KEY") == 1
    assert "write_report" in printed


def test_a_run_without_its_key_ends_before_the_first_job(workflow, corpus):
    printed = workflow.snakemake("--cores", "1", "--configfile", PAPER, check=False)
    assert SENTENCE in printed
    assert "Traceback" not in printed
    assert "rule resolve_study" not in printed
    assert not (workflow.folder / "results").exists()


def test_jobs_that_call_no_api_need_no_key(workflow, corpus):
    workflow.snakemake("--cores", "1", "results/study.json", "--configfile", PAPER)
    assert (workflow.folder / "results" / "study.json").exists()


def test_with_its_key_the_dry_run_is_silent(workflow, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
    printed = workflow.snakemake("-n", "--configfile", PAPER, "--printshellcmds")
    assert "real run will stop" not in printed
    assert "sk-test-0123456789" not in printed


def test_api_jobs_are_bounded_by_a_resource_and_need_no_weights(workflow):
    printed = workflow.snakemake("-n", "--configfile", PAPER)
    assert printed.count("api=1") == 8 + 60, "what writes seven data sets and annotates one, and what judges 60 arms"
    assert "resources/models/gpt" not in printed
    assert "qwen" not in printed, "no model of the default study is fetched"


# --- the drawing ---


def test_every_rule_is_drawn_with_the_place_where_it_runs(workflow):
    pictures = script(workflow, "draw_dag", "--study", PAPER, "--profile", "profiles/slurm", "--out", "drawn")
    if shutil.which("dot"):
        assert pictures.returncode == 0, pictures.stderr
        assert "<svg" in (workflow.folder / "drawn" / "dag.svg").read_text()
    drawn = (workflow.folder / "drawn" / "dag.mmd").read_text()
    plan, _ = planned(workflow, PAPER, "slurm")
    for line in plan["lines"]:
        assert f'{line["rule"]}["{line["rule"]}"]:::{line["where"].split()[0].lower()}' in drawn


def test_without_graphviz_the_mermaid_is_drawn_and_one_sentence_says_what_is_not(workflow, bare):
    drawing = ["--study", "config.yaml", "--profile", "profiles/slurm", "--out", "drawn"]
    refused = script(workflow, "draw_dag", *drawing, PATH=bare)
    assert refused.returncode == 1
    assert "error: graphviz's `dot` is not on PATH: dag.svg is not drawn, dag.mmd is" in refused.stderr
    assert "flowchart" in (workflow.folder / "drawn" / "dag.mmd").read_text()
