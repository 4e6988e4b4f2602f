"""The profiles: every key is explained, the overlays go with profiles/slurm, other schedulers by a profile alone."""

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from dag.conftest import Workflow

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "profiles" / "slurm" / "config.yaml"
OVERLAYS = ["slurm-preempt"]


def test_two_lines_are_to_be_edited():
    assert sum("EDIT" in line for line in SLURM.read_text().splitlines()) == 2


def test_the_audit_waits_for_no_group_so_that_it_can_end_a_study_before_the_trainings(workflow):
    """A job of a group waits for all that its group needs: with the report, for every score."""
    assert "audit_leaks" not in yaml.safe_load(SLURM.read_text())["groups"]
    printed = workflow.snakemake("-n", profile="slurm")
    (audit,) = re.findall(r"^rule audit_leaks:.*?(?=\n\n)", printed, re.MULTILINE | re.DOTALL)
    assert "results/datasets/" in audit and "results/runs/" not in audit
    assert "priority: 1\n" in audit


@pytest.mark.parametrize("profile", ["slurm", "local", *OVERLAYS])
def test_every_key_of_a_profile_is_explained(profile):
    explained = (ROOT / "profiles" / "README.md").read_text()
    keys = yaml.safe_load((ROOT / "profiles" / profile / "config.yaml").read_text())
    assert not [key for key in keys if f"`{key}" not in explained]


def test_the_table_has_the_order_of_the_file():
    table = re.findall(r"^\| `([\w-]+)", (ROOT / "profiles" / "README.md").read_text(), re.MULTILINE)
    keys = list(yaml.safe_load(SLURM.read_text()))
    assert [key for key in dict.fromkeys(table) if key in keys] == keys


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_goes_with_the_cluster_profile(workflow, overlay):
    together = workflow.planned("--workflow-profile", f"profiles/{overlay}", profile="slurm")
    assert together == workflow.planned(profile="slurm")


def test_jobs_that_may_be_requeued_must_not_be_retried_too(workflow):
    """Without `slurm-no-requeue: false` in the overlay the executor refuses both, even in a dry run."""
    (workflow.folder / "profiles/slurm-preempt/config.yaml").write_text("slurm-requeue: true\nretries: 0\n")
    arguments = ("-n", "--workflow-profile", "profiles/slurm-preempt")
    assert "mutually exclusive" in workflow.snakemake(*arguments, profile="slurm", check=False)


def test_no_job_asks_for_more_than_the_ceiling_of_the_profile(workflow):
    """`resources: mem_mb` is a ceiling for each job: docs/cluster.md says to raise it with a training's memory."""
    workflow.edit("profiles/slurm/config.yaml", "mem_mb: 24000 * attempt", "mem_mb: 400000 * attempt")
    assert "mem_mb=250000" in train_of(workflow)
    workflow.edit("profiles/slurm/config.yaml", "  mem_mb: 250000", "  mem_mb: 500000")
    assert "mem_mb=400000" in train_of(workflow)


def test_a_retry_asks_for_more_memory_whatever_the_rule(workflow):
    def asked(attempt: int) -> dict[str, int]:
        printed = workflow.snakemake("-n", "--attempt", str(attempt), profile="slurm")
        jobs = re.findall(r"^ *(?:local)?rule (\w+):$.*?^ *resources: (.*?)$", printed, re.MULTILINE | re.DOTALL)
        found = {rule: re.search(r"\bmem_mb=(\d+)", resources) for rule, resources in jobs}
        return {rule: int(mem[1]) for rule, mem in found.items() if mem}

    once, twice = asked(1), asked(2)
    assert {"prepare_student", "prepare_llm", "measure", "train", "judge"} <= once.keys()
    assert twice == {rule: 2 * mem for rule, mem in once.items()}


def test_an_image_that_was_copied_in_is_kept_however_old_it_looks(workflow):
    """Snakemake deletes an output before it is made again, and here nothing may be able to make it."""
    assert workflow.planned("staged")["build_image"] == 1
    for name in ("cpu.sif", "cpu.sif.json"):
        (workflow.folder / "containers" / name).touch()
        os.utime(workflow.folder / "containers" / name, (1e9, 1e9))
    assert "build_image" not in workflow.planned("staged")


def test_a_run_with_an_overlay_is_resumed_with_it():
    make = ["make", "-n", "resume", "PROFILE=slurm", "STUDY=studies/mine.yaml"]

    def said(*arguments: str) -> str:
        return subprocess.run([*make, *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    overlay = "--profile profiles/slurm --workflow-profile profiles/slurm-preempt"
    assert overlay in said("OVERLAY=slurm-preempt") and "--workflow-profile" not in said()


def test_what_was_fetched_on_the_login_node_is_not_fetched_again_by_the_run(done, tmp_path):
    """`make stage` uses no container, the run does: nothing is made again, and the image is what is not there yet."""
    apptainer = tmp_path / "bin" / "apptainer"
    apptainer.parent.mkdir()
    apptainer.write_text("#!/bin/sh\necho apptainer version 1.4.5\n")
    apptainer.chmod(0o755)
    staged = done.snakemake("-n", "staged", "models", profile="slurm", path=apptainer.parent)
    rules = set(re.findall(r"^rule (\w+):", staged, re.MULTILINE)) - {"staged", "models"}
    assert rules == {"build_image"}


@pytest.mark.skipif(
    not importlib.util.find_spec("snakemake_executor_plugin_cluster_generic"), reason="the plugin is not installed"
)
def test_another_scheduler_is_a_profile(workflow):
    (profile,) = re.findall(r"```yaml\n(# profiles/pbs/.*?)```", (ROOT / "docs/cluster.md").read_text(), re.DOTALL)
    (workflow.folder / "profiles/pbs").mkdir()
    (workflow.folder / "profiles/pbs/config.yaml").write_text(profile)
    assert workflow.planned(profile="pbs") == workflow.planned()


def train_of(workflow: Workflow) -> str:
    printed = workflow.snakemake("-n", profile="slurm")
    (resources,) = re.findall(r"^rule train:.*?^    resources: (.*?)$", printed, re.MULTILINE | re.DOTALL)
    return resources
