"""The manifest holds what a study was made with, and what it took."""

import json
import os

import pytest

from tuneproof.arithmetic import hardware_of
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
    write_json(tmp_path / "load0.json", {"engines": {}, "gpus": 1, "hardware": "1 × NVIDIA H200"})
    write_json(tmp_path / "judge.usage.json", {"dollars": 0, "gpus": 0})  # from before hardware was written down
    (tmp_path / "wrong.tsv").write_text("no\tnumbers\n1\t2\n")
    write_json(tmp_path / "a.usage.json", {"dollars": 1.25, "llm": "gpt-x", "served": ["gpt-x-2030-01-31"]})
    write_json(tmp_path / "b.usage.json", {"dollars": 0.5, "llm": "gpt-x", "served": ["gpt-x-2031-01-31"]})
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
    assert content["hardware"] == {
        **{"gpu": "4 × NVIDIA A100-SXM4-80GB", "cpu": "2 cores of Intel Xeon"},
        **{"load0.json": "1 × NVIDIA H200", "judge.usage.json": None},
    }
    assert content["gpu_hours"] == {"training": 2.0, "other": 0.25}, "4 GPUs for half an hour; a CPU has none"
    assert content["dollars"] == 1.75


def test_a_prompt_that_lies_elsewhere_is_recorded_too(made, manifest):
    (made / "mine.txt").write_text("Judge.")
    assert manifest("--prompts", "prompts", "mine.txt", "prompts/a.txt").returncode == 0
    found = json.loads((made / "manifest.json").read_text())["prompts"]
    assert found == {name: file_sha256(made / name) for name in ("mine.txt", "prompts/a.txt")}


def test_a_model_behind_an_api_has_the_names_under_which_it_answered(made, manifest):
    asked = json.dumps({"judge": "gpt-x", "idle": "gpt-y"})
    assert manifest("--apis", asked, "--usage", "a.usage.json", "b.usage.json", "free.usage.json").returncode == 0
    assert json.loads((made / "manifest.json").read_text())["apis"] == {
        "judge": {"model": "gpt-x", "served": ["gpt-x-2030-01-31", "gpt-x-2031-01-31"]},
        "idle": {"model": "gpt-y", "served": []},
    }


def test_a_job_says_what_it_computed_on(tmp_path):
    (tmp_path / "cpuinfo").write_text("model\t\t: 167\nmodel name\t: Intel(R) Xeon(R) Processor\n")
    gpu = tmp_path / "driver/nvidia/gpus/0000:01:00.0/information"
    gpu.parent.mkdir(parents=True)
    gpu.write_text("Model: \t\t NVIDIA H200\nIRQ:   \t\t 42\n")
    assert hardware_of("openvino", tmp_path) == f"{len(os.sched_getaffinity(0))} cores of Intel(R) Xeon(R) Processor"
    assert hardware_of("vllm", tmp_path) == "1 × NVIDIA H200"
    gpu.unlink()
    assert hardware_of("vllm", tmp_path) == "1 × GPU", "a container may not see the driver's files"
    assert hardware_of("openai", tmp_path) is None


def test_a_cost_that_is_not_known_is_not_taken_for_nothing(made, manifest):
    assert manifest("--usage", "a.usage.json", "free.usage.json").returncode == 0
    assert json.loads((made / "manifest.json").read_text())["dollars"] is None


def test_a_benchmark_without_times_is_named(manifest):
    done = manifest("--time", "wrong.tsv", "--gpus", "load0.json")
    assert done.returncode == 1
    assert "wrong.tsv: 's', expected Snakemake's benchmark" in done.stderr
