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


def test_the_manifest_is_told_of_all_that_the_results_rest_on(workflow):
    (workflow.folder / "judge.txt").write_text("{instruction}{response}{reference_answer}")
    (workflow.folder / "judged.json").write_text("[]")
    (workflow.folder / "mine.yaml").write_text(
        """
study: {judges: [qwen, gpt], trials: [nq]}
judges: {qwen: {prompt: judge.txt}, gpt: {llm: gpt}}
llms: {gpt: {engine: openai, model: gpt-x, key_env: null}}
trials: {nq: {file: judged.json, judges: [qwen], encoder: all-minilm-l6-v2}}
"""
    )
    plan = workflow.snakemake("-n", "-p", "results/manifest.json", "--configfile", "mine.yaml")
    [command] = [line for line in plan.splitlines() if "write_manifest.py" in line]
    corpus = "resources/corpora/haldrune"
    for told in (
        f"{corpus}/pages.jsonl {corpus}/chunks.jsonl resources/sites/haldrune/facts.jsonl",
        " judged.json report/published.csv --prompts prompts judge.txt prompts/judge.paper.txt --model",
        """--apis '{"gpt": "gpt-x"}'""",
    ):
        assert told in command
