"""The manifest holds what a study was made with, and what it took."""

import json

import pytest

from tuneproof.records import file_sha256, write_json

BENCHMARK = "s\th:m:s\tmax_rss\n{}\t0:00:30\t513.09\n"


@pytest.fixture
def made(tmp_path):
    """Files of a study of two trainings: one on four GPUs, one on a CPU."""
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "a.txt").write_text("Answer.")
    (tmp_path / "cpu.lock").write_text("x==1")
    (tmp_path / "train.jsonl").write_text("{}\n")
    write_json(tmp_path / "m/lock.json", {"files": [{"name": "w", "sha256": "ab", "size": 1}]})
    write_json(tmp_path / "gpu/spec.json", {"hardware": "4 × NVIDIA A100-SXM4-80GB", "train_seconds": 1800})
    write_json(tmp_path / "cpu/spec.json", {"hardware": "2 cores of Intel Xeon", "train_seconds": 7200})
    (tmp_path / "answer.tsv").write_text(BENCHMARK.format(900))
    (tmp_path / "judge.tsv").write_text(BENCHMARK.format(3600))
    write_json(tmp_path / "load0.json", {"engines": {}, "gpus": 1})
    write_json(tmp_path / "judge.usage.json", {"dollars": 0, "gpus": 0})
    (tmp_path / "wrong.tsv").write_text("no\tnumbers\n1\t2\n")
    write_json(tmp_path / "a.usage.json", {"dollars": 1.25})
    write_json(tmp_path / "b.usage.json", {"dollars": 0.5})
    write_json(tmp_path / "free.usage.json", {"dollars": None})
    return tmp_path


@pytest.fixture
def manifest(made, run_script):
    def write(*arguments):
        files = ["--lock", "cpu.lock", "--data", "train.jsonl", "--prompts", "prompts", "--model", "m/lock.json"]
        return run_script("write_manifest", *files, *arguments, "--out", "manifest.json", cwd=made)

    return write


def test_a_manifest_holds_digests_seeds_hardware_hours_and_dollars(made, manifest):
    runs = ["--seed", 1, 2, "--spec", "gpu/spec.json", "cpu/spec.json"]
    runs += ["--time", "answer.tsv", "judge.tsv", "--gpus", "load0.json", "judge.usage.json"]
    done = manifest(*runs, "--usage", "a.usage.json", "b.usage.json")
    assert done.returncode == 0, done.stderr
    content = json.loads((made / "manifest.json").read_text())
    assert content["data"] == {"train.jsonl": file_sha256(made / "train.jsonl")}
    assert content["prompts"] == {"prompts/a.txt": file_sha256(made / "prompts/a.txt")}
    assert content["models"] == {"m": {"w": "ab"}}
    assert content["seeds"] == [1, 2]
    assert content["hardware"] == {"gpu": "4 × NVIDIA A100-SXM4-80GB", "cpu": "2 cores of Intel Xeon"}
    assert content["gpu_hours"] == {"training": 2.0, "other": 0.25}, "4 GPUs for half an hour; a CPU has none"
    assert content["dollars"] == 1.75


def test_a_cost_that_is_not_known_is_not_taken_for_nothing(made, manifest):
    assert manifest("--usage", "a.usage.json", "free.usage.json").returncode == 0
    assert json.loads((made / "manifest.json").read_text())["dollars"] is None


def test_a_benchmark_without_times_is_named(manifest):
    done = manifest("--time", "wrong.tsv", "--gpus", "load0.json")
    assert done.returncode == 1
    assert "wrong.tsv: 's', expected Snakemake's benchmark" in done.stderr
