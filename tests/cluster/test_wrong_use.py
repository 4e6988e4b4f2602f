"""What a site does not have is named before the first job, with what it has instead."""

import pytest
from cluster.conftest import ClusterStudy
from copies import copy_workflow

pytestmark = pytest.mark.cluster

# what is wrong in the profile: old, new -> what is said
WRONG = {
    "account": (
        "slurm_account: lab",
        "slurm_account: chemistry",
        "slurm_account: 'chemistry' is no account of root, expected one of lab, root (edit the profile)",
    ),
    "no account": ("slurm_account: lab, ", "", "slurm_account: none is given, expected one of lab"),
    "partition": (
        "slurm_partition: cpu",
        "slurm_partition: long",
        "slurm_partition: 'long' is no partition here, expected one of cpu, gpu, scav (edit the profile)",
    ),
    "GPU": (
        "gpu_model: a100",
        "gpu_model: h100",
        "gpu_model: partition 'gpu' has no 'h100', expected one of a100 (edit the profile)",
    ),
}


@pytest.fixture
def study(slurm, apptainer, tmp_path):
    return ClusterStudy(copy_workflow(tmp_path / "study"), slurm, apptainer)


def test_the_image_is_missing(study):
    output = study.run(code=1)
    assert "containers/cpu.sif: no such image, expected `make image IMAGE=cpu` to have built it" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("wrong", WRONG)
def test_the_site_does_not_have_it(study, wrong):
    old, new, sentence = WRONG[wrong]
    study.edit("profiles/slurm/config.yaml", old, new)
    output = study.run(code=1)
    assert sentence in output
    assert "Traceback" not in output
    assert "no such image" in output, "every problem is told at once"
    assert study.slurm.squeue() == []
