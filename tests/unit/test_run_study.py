"""The starter: whose processes it looks at, and which of them it ends."""

import signal
import subprocess
import uuid

import pytest

import run_study

RUN = uuid.uuid4().hex


@pytest.fixture
def sleepers(tmp_path):
    """One run's processes, on this machine and in a Slurm job, and a process of another run."""
    environments = {
        "here": {"TUNEPROOF_RUN": RUN},
        "slurm": {"TUNEPROOF_RUN": RUN, "SLURM_JOB_ID": "7"},
        "other": {"TUNEPROOF_RUN": uuid.uuid4().hex},
    }
    started = {
        name: subprocess.Popen(["/bin/sleep", "60"], cwd=tmp_path, env=environment)
        for name, environment in environments.items()
    }
    yield started
    for process in started.values():
        process.kill()
        process.wait()


def test_processes_of_slurm_jobs_are_not_seen(sleepers, tmp_path):
    seen = {process.pid: process for process in run_study.processes_outside_slurm()}
    assert sleepers["slurm"].pid not in seen
    here = seen[sleepers["here"].pid]
    assert here.folder == tmp_path.resolve()
    assert here.command[:2] == [b"/bin/sleep", b"60"] and f"TUNEPROOF_RUN={RUN}".encode() in here.environment


def test_what_is_left_of_the_run_before_is_ended(sleepers, tmp_path):
    with (tmp_path / "lock").open("a+") as lock:
        lock.write(RUN)
        run_study.end_processes_of_the_run_before(lock)
    assert sleepers["here"].wait(timeout=10) == -signal.SIGKILL
    assert sleepers["slurm"].poll() is None and sleepers["other"].poll() is None
