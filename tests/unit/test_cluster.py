"""What Slurm would refuse or put in the wrong place is said before the first job."""

import pytest

from tuneproof import cluster

# a site: `sinfo --format` of a partition -> lines
GRES = {"cpu": ["(null)"], "gpu": ["gpu:a100:4(S:0-1)"], "plain": ["gpu:4"]}


@pytest.fixture
def site(monkeypatch):
    def ask(program, *arguments):
        if program == "sacctmgr":
            return ["lab"]
        if "%R" in arguments:
            return list(GRES)
        return [line for name in arguments[-1].split(",") for line in GRES[name]]

    monkeypatch.setattr(cluster, "_ask", ask)
    monkeypatch.setattr(cluster.shutil, "which", lambda program: f"/usr/bin/{program}")


def job(**resources):
    return {"slurm_account": "lab", "rule": "judge", "slurm_partition": "cpu", **resources}


@pytest.mark.parametrize(
    "resources",
    [{}, {"gpu": 0}, {"gpu": 1, "slurm_partition": "gpu", "gpu_model": "a100"}, {"gpu": 2, "slurm_partition": "plain"},
     {"gpu": 1, "slurm_partition": "cpu,gpu"}],
)  # fmt: skip
def test_a_job_that_slurm_can_place(site, resources):
    assert cluster.slurm_problems([job(**resources)]) == []


def test_a_job_that_wants_a_gpu_where_there_is_none(site):
    [problem] = cluster.slurm_problems([job(gpu=1), job(gpu=1, rule="train"), job(rule="measure")])
    assert problem == (
        "slurm_partition: 'cpu' has no GPU, which is asked for by judge, train; expected the partition of GPU jobs for "
        "such a rule under set-resources (edit the profile)"
    )


def test_a_gpu_that_a_partition_does_not_have(site):
    [problem] = cluster.slurm_problems([job(gpu=1, gpu_model="h100", slurm_partition="gpu")])
    assert problem == "gpu_model: partition 'gpu' has no 'h100', expected one of a100 (edit the profile)"
