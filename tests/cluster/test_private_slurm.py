"""The private Slurm behaves as the clusters it stands for: what the other tests of this folder rely on."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster.private_slurm import PrivateSlurm, SlurmError, why_not

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(why_not()), reason=str(why_not()))]

# 198.51.100.1 is reserved for documentation: nobody answers there. ENETUNREACH says that no packet was even sent.
_KNOCK = """
import errno, socket
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname(), 5)
try:
    socket.create_connection(("198.51.100.1", 80), 5)
except OSError as error:
    print("loopback works,", errno.errorcode[error.errno])
"""


def _ended(slurm, job):
    return slurm.state(job) not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")


def test_job_runs_and_is_accounted(slurm):
    job = slurm.submit("true", "--account=lab", "--comment=rule_train", "--mem=100")
    slurm.wait_until(lambda: _ended(slurm, job))

    def row():
        return [row for row in slurm.sacct() if row["JobID"] == job and row["State"] == "COMPLETED"]

    (row,) = slurm.wait_until(row)
    assert (row["Account"], row["Comment"], row["Partition"]) == ("lab", "rule_train", "cpu")


def test_unknown_account_is_refused(slurm):
    with pytest.raises(SlurmError, match="Invalid account"):
        slurm.submit("true", "--account=another")


def test_gpu_job_sees_its_gpus(slurm, tmp_path):
    seen = tmp_path / "seen"
    slurm.submit(f"echo $CUDA_VISIBLE_DEVICES > {seen}", "--partition=gpu", "--gpus=a100:2", "--wait")
    assert seen.read_text() == "0,1\n"


def test_jobs_have_loopback_and_no_route(slurm, tmp_path):
    script, batch, step = tmp_path / "knock.py", tmp_path / "batch", tmp_path / "step"
    script.write_text(_KNOCK)
    # Snakemake's executor drops every SLURM_* but a few before its inner srun
    inner = f"env --unset=SLURM_CONF srun -n1 --cpu-bind=q {sys.executable} {script} > {step}"
    slurm.submit(f"{sys.executable} {script} > {batch} && {inner}", "--wait")
    assert [batch.read_text(), step.read_text()] == ["loopback works, ENETUNREACH\n"] * 2


def test_node_lost(slurm, tmp_path):
    pulse = tmp_path / "pulse"
    # setsid: a process that left its job's session dies with the node as well
    script = f"setsid sh -c 'while :; do date +%N > {pulse}; sleep 0.1; done' & sleep 600"
    job = slurm.submit(script, "--no-requeue", "--nodelist=n2")
    other = slurm.submit("sleep 600", "--nodelist=n3")
    slurm.wait_until(lambda: pulse.exists() and slurm.state(other) == "RUNNING")
    slurm.kill_node("n2")
    last = pulse.read_text()
    slurm.wait_until(lambda: slurm.state(job) == "NODE_FAIL", seconds=10)
    assert slurm.node_states()["n2"].startswith("down")
    assert slurm.state(other) == "RUNNING"
    assert pulse.read_text() == last
    slurm.run("scancel", other)
    slurm.start_node("n2")
    slurm.submit("true", "--nodelist=n2", "--wait")


def test_controller_restarted(slurm, tmp_path):
    go, done = tmp_path / "go", tmp_path / "done"
    job = slurm.submit(f"until [ -e {go} ]; do sleep 0.1; done; echo $$ > {done}")
    slurm.wait_until(lambda: slurm.state(job) == "RUNNING")
    waiting = slurm.submit("true", f"--dependency=afterok:{job}")
    slurm.restart_controller()
    assert slurm.state(job) == "RUNNING"
    go.touch()
    slurm.wait_until(lambda: slurm.state(waiting) == "COMPLETED")
    assert done.exists()


def test_preempted_job_is_requeued(slurm):
    low = slurm.submit("sleep 600", "--partition=scav", "--exclusive", "--nodelist=n3")
    slurm.wait_until(lambda: slurm.state(low) == "RUNNING")
    slurm.submit("true", "--partition=cpu", "--exclusive", "--nodelist=n3", "--wait")
    slurm.wait_until(lambda: slurm.state(low) == "RUNNING", seconds=40)
    assert "Restarts=1" in slurm.run("scontrol", "show", "job", low)
    slurm.run("scancel", low)


def test_site_without_accounting(tmp_path):
    with PrivateSlurm(tmp_path, accounting=False) as slurm:
        job = slurm.submit("sleep 600", "--comment=rule_train")
        slurm.wait_until(lambda: [row["state"] for row in slurm.squeue()] == ["RUNNING"])
        assert slurm.squeue()[0]["comment"] == "rule_train"
        with pytest.raises(SlurmError, match="accounting storage is disabled"):
            slurm.sacct()
        slurm.start()  # again, in the same folder: a fresh one
        assert slurm.squeue() == []
        with pytest.raises(SlurmError, match="Invalid job id"):
            slurm.state(job)


def test_nothing_outlives_the_one_who_started_it(tmp_path):
    """A test run that is killed with SIGKILL leaves no daemon and no job."""
    pulse = tmp_path / "pulse"
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from private_slurm import PrivateSlurm
slurm = PrivateSlurm({str(tmp_path)!r}, accounting=False)
slurm.start()
slurm.submit("while :; do date +%N > {pulse}; sleep 0.1; done")
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as starter:
        while not pulse.exists() and starter.poll() is None:
            time.sleep(0.1)
        starter.kill()
    time.sleep(0.5)
    last = pulse.read_text()
    time.sleep(0.5)
    assert pulse.read_text() == last
    with pytest.raises(SlurmError, match="does not run: start it"):
        PrivateSlurm(tmp_path).squeue()
