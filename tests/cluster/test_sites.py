"""Sites that differ: one without an accounting database, one whose partitions preempt."""

import pytest
from cluster.conftest import ClusterStudy, wait_for
from cluster.private_slurm import PrivateSlurm
from copies import copy_workflow, give_image, link_models

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

STUDENT = "resources/models/smollm2-135m-instruct/student/lock.json"


def study_on(slurm, apptainer, image, folder):
    copy_workflow(folder)
    link_models(folder)
    give_image(folder, image)
    return ClusterStudy(folder, slurm, apptainer)


def test_without_accounting_squeue_tells_how_jobs_end(small_disk, apptainer, image, tmp_path):
    with PrivateSlurm(tmp_path / "bare", accounting=False) as slurm:
        study = study_on(slurm, apptainer, image, tmp_path / "study")
        printed = study.run(STUDENT)
    assert "has been submitted with SLURM jobid" in printed
    assert (study.folder / STUDENT).exists()


def test_a_preempted_job_is_started_again_by_slurm_and_by_nobody_else(slurm, apptainer, image, tmp_path):
    study = study_on(slurm, apptainer, image, tmp_path / "study")
    study.edit("profiles/slurm/config.yaml", "slurm_partition: cpu", "slurm_partition: scav")
    snakemake = study.start(STUDENT, "--workflow-profile", "profiles/slurm-preempt")

    def running():
        return [row for row in slurm.squeue() if row["partition"] == "scav" and row["state"] == "RUNNING"]

    wait_for(running, 60, "the job runs")
    slurm.submit("sleep 3", "--partition=cpu", "--account=lab", "--nodes=3", "--exclusive")
    wait_for(lambda: not running(), 60, "it is preempted")
    assert snakemake.wait() == 0, study.log()[-3000:]
    assert (study.folder / STUDENT).exists()
    assert study.log().count("has been submitted with SLURM jobid") == 1, "one job, which Slurm has requeued"
