"""The starter: whose processes it looks at, and which of them it ends; and what becomes of locks that are not kept."""

import errno
import fcntl
import hashlib
import signal
import subprocess
import uuid

import pytest

import run_study
from tuneproof.errors import InputError
from tuneproof.fetch.weights import fetch_model, read_lock
from tuneproof.study import ModelSpec

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


@pytest.fixture
def no_locks(monkeypatch):
    """Lustre, mounted without -o flock."""

    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_run_takes_no_folder_that_keeps_no_locks(no_locks, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "lock").open("a+") as lock, pytest.raises(InputError) as error:
        run_study.taken(lock)
    assert str(error.value) == (
        f"{tmp_path}: its file system keeps no locks (function not implemented), expected one that does: Lustre has to "
        "be mounted with `-o flock`"
    )


def test_a_model_is_fetched_into_a_cache_that_keeps_no_locks(no_locks, monkeypatch, tmp_path):
    content = b"not really weights"
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "cache" / "files").mkdir(parents=True)
    (tmp_path / "cache" / "files" / digest).write_bytes(content)
    monkeypatch.setenv("TUNEPROOF_CACHE", str(tmp_path / "cache"))
    file = {"name": "m.gguf", "sha256": digest, "size": len(content)}
    spec = ModelSpec(licence="MIT", format="gguf", context=8, hub={"repo": "a/b", "revision": "0" * 40}, files=[file])
    fetch_model("m", spec, tmp_path / "m" / "lock.json")
    assert read_lock(tmp_path / "m" / "lock.json")["files"] == [file]
