"""What is missing is said before the first job, one sentence each; a plan needs none of it."""

import os
import shutil
import sys
from pathlib import Path

import pytest


@pytest.fixture
def bare_path(tmp_path):
    """A PATH with nothing but this Python and the system's basics: no Slurm, no Apptainer."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("bash", "sh", "env", "git", "grep", "uname", "cat", "tail", "which", "id"):
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    (folder / "python").symlink_to(sys.executable)
    return folder


def refused(workflow, path, *arguments, profile="slurm"):
    output = workflow.snakemake(*arguments, profile=profile, check=False, whole_path=str(path))
    assert "Traceback" not in output
    return output


def test_a_plan_needs_neither_slurm_nor_apptainer_nor_an_image(workflow, bare_path):
    assert "write_report" in workflow.snakemake("-n", "--quiet", "rules", profile="slurm", whole_path=str(bare_path))


def test_no_slurm_no_apptainer(workflow, bare_path):
    output = refused(workflow, bare_path)
    assert "no sbatch on PATH, expected Slurm: start this on the cluster's login node" in output
    assert "no apptainer on PATH, though the profile asks for containers" in output


def test_the_scratch_cannot_be_written(workflow, bare_path, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TUNEPROOF_CACHE", str(tmp_path / "file" / "cache"))
    assert f"{tmp_path / 'file' / 'cache'}: not a directory, expected a folder that can be written" in refused(
        workflow, bare_path, profile="local"
    )


def test_jobs_inherit_no_network_and_caches_outside_the_home(workflow, monkeypatch):
    for name in ("HF_HOME", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    workflow.edit(
        "rules/report.smk",
        "\"printf '%s\\\\n' {params.study:q} > {output} 2> {log}\"",
        '"env > {output}"',
    )
    workflow.snakemake("results/study.json", "--cores", "1")
    environment = dict(
        line.split("=", 1) for line in (workflow.folder / "results/study.json").read_text().splitlines() if "=" in line
    )
    assert environment["HF_HUB_OFFLINE"] == "1"
    for name in ("HF_HOME", "XDG_CACHE_HOME", "TRITON_CACHE_DIR"):
        assert Path(environment[name]).is_relative_to(workflow.folder), "never in the home"
    assert len(environment["TUNEPROOF_RUN"]) == 32
    assert environment["TUNEPROOF_DEPLOYMENT"] == "the caller's environment" and "TUNEPROOF_REVISION" in environment
    assert os.environ.get("TUNEPROOF_RUN") is None
