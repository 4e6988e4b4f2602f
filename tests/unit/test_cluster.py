"""What Slurm would refuse or put in the wrong place is said before the first job."""

import json
from pathlib import Path

import pytest

from tuneproof import cluster
from tuneproof.records import file_sha256

# a site: the generic resources of each partition's nodes
GRES = {"cpu": "(null)", "gpu": "gpu:a100:4(S:0-1)", "plain": "gpu:4", "nvml": "gpu:nvidia_a100-sxm4-80gb:4"}


@pytest.fixture
def site(monkeypatch):
    """All partitions are hidden."""

    def ask(program, *arguments):
        if program == "sacctmgr":
            return ["lab"]
        if "--all" not in arguments or "--partition" in arguments:  # which print nothing together
            return []
        return list(GRES) if "%R" in arguments else [f"{name} {gres}" for name, gres in GRES.items()]

    monkeypatch.setattr(cluster, "_ask", ask)
    monkeypatch.setattr(cluster.shutil, "which", lambda program: f"/usr/bin/{program}")


def job(**resources):
    return {"slurm_account": "lab", "rule": "judge", "slurm_partition": "cpu", **resources}


@pytest.mark.parametrize(
    "resources",
    [{}, {"gpu": 0}, {"gpu": 1, "slurm_partition": "gpu", "gpu_model": "a100"}, {"gpu": 2, "slurm_partition": "plain"},
     {"gpu": 1, "slurm_partition": "cpu,gpu"}, {"gpu": 1, "slurm_partition": "nvml"}],
)  # fmt: skip
def test_a_job_that_slurm_can_place(site, resources):
    assert cluster.slurm_problems([job(**resources)]) == []


def test_a_job_that_wants_a_gpu_where_there_is_none(site):
    [problem] = cluster.slurm_problems([job(gpu=1), job(gpu=1, rule="train"), job(rule="measure")])
    assert problem == (
        "slurm_partition: 'cpu' has no GPU, which is asked for by judge, train; expected the partition of GPU jobs for "
        "such a rule under set-resources (edit the profile)"
    )


UNNAMED = "its GPUs have no names that can be asked for: leave gpu_model out"


@pytest.mark.parametrize(
    ("partition", "expected"),
    [
        ("gpu", "expected one of a100"),
        ("plain", UNNAMED),
        ("nvml", UNNAMED),
        ("cpu", "its nodes have no GPU"),
    ],
)
def test_a_gpu_that_a_partition_does_not_have(site, partition, expected):
    [problem] = cluster.slurm_problems([job(gpu=1, gpu_model="h100", slurm_partition=partition)])
    assert problem == f"gpu_model: partition {partition!r} has no 'h100', {expected} (edit the profile)"


@pytest.mark.parametrize("partition", ["nvml", "cpu,nvml"])
def test_a_name_that_the_executor_refuses_is_refused_before_the_first_job(site, partition):
    jobs = [
        job(gpu=1, gpu_model="nvidia_a100-sxm4-80gb", slurm_partition=partition, rule=r) for r in ("train", "answer")
    ]
    [problem] = cluster.slurm_problems(jobs)
    assert problem == (
        "gpu_model: 'nvidia_a100-sxm4-80gb' cannot be asked for, expected letters, digits, _ and . only, which is all "
        "that Snakemake's Slurm executor passes on: leave gpu_model out (edit the profile)"
    )


def test_an_image_of_another_definition_or_lock_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("containers/cpu.def", "envs/cpu.lock", "containers/cpu.sif"):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(path)
    built = {"definition_sha256": file_sha256(Path("containers/cpu.def")), "lock_sha256": "0" * 64}
    assert cluster.stale_images(["containers/cpu.sif"]) == [], "nothing is known of one without its record"
    Path("containers/cpu.sif.json").write_text(json.dumps(built))
    assert cluster.stale_images(["containers/cpu.sif", "docker://other"]) == [
        "containers/cpu.sif: built from another envs/cpu.lock than the one here; `make image IMAGE=cpu` builds it anew"
    ]
