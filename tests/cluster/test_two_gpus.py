"""One training job on two GPUs: two processes under torchrun in the container, and the batch stays what it is."""

import json
import shutil
import subprocess
import sys

import pytest
from cluster.conftest import ClusterStudy
from copies import clone, give_image

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

RUN = "results/runs/smollm2-135m-instruct/lora/haldrune/seed1"
TWO_DEVICES = """
methods:
  lora: {devices: 2, batch_size: 4, epochs: 1}
"""


def losses(log):
    return [row["loss"] for row in map(json.loads, log.splitlines()) if "loss" in row]


def test_two_processes_share_a_step_and_learn_what_one_learns(default_here, image, slurm, apptainer, tmp_path):
    folder = clone(default_here, tmp_path / "study")
    (folder / "two.yaml").write_text(TWO_DEVICES)
    give_image(folder, image)
    shutil.rmtree(folder / "results" / "runs")
    study = ClusterStudy(folder, slurm, apptainer)
    study.run(f"{RUN}/train_log.jsonl", "--configfile", "two.yaml")

    (job,) = study.jobs("train")
    assert "gres/gpu:a100=2" in job["ReqTRES"]
    (begin,) = [
        row for row in map(json.loads, study.read(f"{RUN}/journal.jsonl").splitlines()) if row["event"] == "begin"
    ]
    assert (begin["processes"], begin["gpus"]) == (2, "0,1")

    spec = json.loads(study.read(f"{RUN}/spec.json"))
    command = [sys.executable, "scripts/train.py", "--spec", json.dumps(spec["method"]), "--devices", "1"]
    command += ["--student", "resources/models/smollm2-135m-instruct/student/lock.json", "--seed", "1"]
    command += ["--train", "results/datasets/haldrune/train.jsonl", "--val", "results/datasets/haldrune/val.jsonl"]
    command += ["--checkpoints", "checkpoints/alone", "--out", "alone"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    together, alone = losses(study.read(f"{RUN}/train_log.jsonl")), losses(study.read("alone/train_log.jsonl"))
    assert len(together) == len(alone) == spec["steps"]
    assert together == pytest.approx(alone, rel=0.01), "a step sees the same examples, whatever the number of processes"
