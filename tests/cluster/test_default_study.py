"""The whole default study through Slurm, in containers, on nodes without a network."""

import csv
import json
import re

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]

LOCAL_RULES = {"all", "fetch_model", "render_sample_site", "crawl", "resolve_study"}
GPU_RULES = ("train", "answer")
RUN = "results/runs/smollm2-135m-instruct/lora/haldrune/seed1"


def test_every_rule_but_the_local_ones_is_completed_in_sacct(default_on_slurm):
    started = set(re.findall(r"^\s*rule (\w+):", default_on_slurm.log(), re.MULTILINE))
    assert {"train", "answer", "judge", "write_report", "measure"} <= started
    rows = default_on_slurm.slurm.sacct("JobID", "State", "WorkDir")
    mine = [row for row in rows if row["WorkDir"] == str(default_on_slurm.folder)]
    assert {row["State"] for row in mine} == {"COMPLETED"}
    assert len(mine) <= 24, "small jobs are grouped"
    assert not {row["Comment"].split("_wildcards")[0].removeprefix("rule_") for row in mine} & LOCAL_RULES


def test_gpu_rules_get_a_gpu_that_their_container_sees(default_on_slurm):
    for rule in GPU_RULES:
        for row in default_on_slurm.jobs(rule):
            assert "gres/gpu:a100=1" in row["ReqTRES"]
    (begin,) = [row for row in journal(default_on_slurm) if row["event"] == "begin"]
    assert begin["container"].endswith("containers/cpu.sif")
    assert begin["gpus"].isdecimal()


def test_the_report_equals_the_local_one(default_on_slurm, default_here):
    for name in (
        "results/tables/scores.csv",
        "results/tables/rows.jsonl",
        "results/figures/loss.csv",
        "results/figures/scores.csv",
        "results/figures/funnel.csv",
        f"{RUN}/train_log.jsonl",
    ):
        assert default_on_slurm.read(name) == (default_here / name).read_text(), name
    adapter = f"{RUN}/adapter/adapter_model.safetensors"
    assert (default_on_slurm.folder / adapter).read_bytes() == (default_here / adapter).read_bytes()
    assert without_costs(default_on_slurm.read("results/report.html")) == without_costs(
        (default_here / "results/report.html").read_text()
    )


def test_nothing_is_left_to_do_and_nothing_is_left_behind(default_on_slurm):
    assert "Nothing to be done" in default_on_slurm.run("-n")
    assert not list(default_on_slurm.folder.glob("checkpoints/*"))
    assert not (default_on_slurm.folder / ".cache").exists() or not list(default_on_slurm.folder.rglob("*.tmp"))


def test_results_carry_the_digest_of_the_image_they_were_made_in(default_on_slurm, image):
    record = json.loads(image.with_name(f"{image.name}.json").read_text())
    manifest = json.loads(default_on_slurm.read("results/manifest.json"))
    assert manifest["images"]["containers/cpu.sif"]["sha256"] == record["sha256"]
    assert record["sha256"][:12] in default_on_slurm.read("results/report.html")


def test_every_arm_was_judged(default_on_slurm):
    rows = list(csv.DictReader(default_on_slurm.read("results/tables/scores.csv").splitlines()))
    assert len([row for row in rows if row["metric"] == "judge:qwen"]) == 3 * 2


def journal(study):
    return [json.loads(line) for line in study.read(f"{RUN}/journal.jsonl").splitlines()]


_BY_MACHINE = (
    r'<section id="cost">.*?</section>|<p id="made-with">.*?</p>|<!-- by machine -->.*?<!-- by machine: end -->'
)


def without_costs(report):
    """A report less what differs from machine to machine: seconds, memory, and what it was made with."""
    return re.sub(_BY_MACHINE, "", report, flags=re.DOTALL)
