"""Every study that is shipped is planned, on this machine and for Slurm, with or without its data at hand."""

from pathlib import Path

import pytest
from dag.conftest import cpu_seconds

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
@pytest.mark.parametrize("profile", ["local", "slurm"])
def test_a_study_is_planned(workflow, study, profile, monkeypatch):
    monkeypatch.delenv("TUNEPROOF_DATA", raising=False)
    began = cpu_seconds()
    planned = workflow.planned("--configfile", f"studies/{study.name}", profile=profile)
    assert cpu_seconds() - began < 6
    assert planned["train"] >= 1
    assert planned["write_report"] == 1
    assert "render_sample_site" not in planned, "the default corpus is not fetched for another study"


def test_the_default_study_is_planned_for_slurm(workflow):
    assert workflow.planned(profile="slurm") == workflow.planned()


def test_what_needs_the_network_is_staged(workflow):
    staged = {"fetch_model": 3, "build_image": 1, "render_sample_site": 1, "crawl": 1, "staged": 1}
    assert workflow.planned("staged", profile="slurm") == staged


def test_the_papers_three_judges_are_a_line_away(workflow):
    (workflow.folder / "three.yaml").write_text("study: {judges: [gpt, gemini, prometheus]}\n")
    study = ("--configfile", "studies/beyond-qa-pairs.yaml")
    planned = workflow.planned(*study, "three.yaml", profile="slurm")
    assert planned["judge"] == 3 * workflow.planned(*study, profile="slurm")["judge"]
    assert planned["tabulate_agreement"] == 1


def test_two_judges_are_compared_and_one_is_not(workflow):
    (workflow.folder / "two.yaml").write_text("study: {judges: [qwen, other]}\njudges: {other: {llm: qwen}}\n")
    planned = workflow.planned("--configfile", "two.yaml")
    assert planned["judge"] == 2 * workflow.planned()["judge"]
    assert planned["tabulate_agreement"] == 1
    assert "tabulate_agreement" not in workflow.planned()
    command = workflow.snakemake("-n", "-p", "results/report.html", "--configfile", "two.yaml")
    assert "--agreement results/tables/agreement.csv" in command
