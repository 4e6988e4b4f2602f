"""Run a study, or go on with one that was killed: one run at a time in a folder, on this machine or on a cluster.

    python scripts/run_study.py --profile profiles/slurm [any option of snakemake]

A run that was killed can leave three things behind: Snakemake's own lock, processes that still write, and Slurm jobs
that still write. This starter holds a lock of the operating system's (it cannot be left behind), ends what the run
before has left, and only then unlocks and starts: no file ever has two writers. A training that is ended so saves a
checkpoint, and a model call that was answered stays answered.
"""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tuneproof.cluster import leftover_jobs
from tuneproof.errors import InputError, report_errors

_MARK = "TUNEPROOF_RUN"


@dataclass(frozen=True)
class Process:
    """A process as /proc shows it."""

    pid: int
    command: list[bytes]
    environment: list[bytes]  # NAME=value
    folder: Path


@report_errors
def main() -> None:
    """Take the lock, clear up after a killed run, start Snakemake and hand on its exit code."""
    folder = Path(".snakemake")
    folder.mkdir(exist_ok=True)
    with (folder / "tuneproof.lock").open("a+") as lock:
        if not taken(lock):
            raise InputError("another run is under way in this folder; wait for it or stop it")
        end_processes_of_the_run_before(lock)
        locked = any((folder / "locks").glob("*"))
        if locked:
            refuse_if_alive(folder)
        end_slurm_jobs(Path.cwd())
        run = uuid.uuid4().hex
        lock.truncate(0)
        lock.write(run)
        lock.flush()
        command = [sys.executable, "-m", "snakemake", *sys.argv[1:]]
        environment = {**os.environ, _MARK: run}
        if locked:
            subprocess.run([*command, "--unlock", "--quiet"], check=False, env=environment, stdout=subprocess.DEVNULL)
        # Snakemake inherits the lock: should only this starter be killed, the folder stays taken.
        os.set_inheritable(lock.fileno(), True)
        with subprocess.Popen(command, pass_fds=[lock.fileno()], env=environment) as child:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, lambda n, _: child.send_signal(n))
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to Snakemake as well
            sys.exit(child.wait())


def taken(lock: IO[str]) -> bool:
    """Take the lock; a run that has just been killed needs a moment to let go of it."""
    for _ in range(30):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.1)
        except OSError as error:
            raise InputError(
                f"{Path.cwd()}: its file system keeps no locks ({os.strerror(error.errno or 0).lower()}), expected one "
                "that does: Lustre has to be mounted with `-o flock`"
            ) from None
    return False


def refuse_if_alive(folder: Path) -> None:
    """Refuse to go on where the Snakemake that holds the lock may live: here, or on a machine that cannot be seen."""
    host = folder / "tuneproof.host"  # rules/preflight.smk writes it
    there, here = host.read_text() if host.exists() else "", socket.gethostname()
    if there not in ("", here):
        raise InputError(
            f"the last run in this folder was started on {there}, this is {here}: resume there, or run "
            "`snakemake --unlock` here when you know that it is dead"
        )
    for process in processes_outside_slurm():
        is_snakemake = any(b"snakemake" in part for part in process.command[:3])
        if is_snakemake and process.folder == Path.cwd() and process.pid != os.getpid():
            raise InputError(f"Snakemake is running in this folder (process {process.pid}); wait for it or stop it")


def end_processes_of_the_run_before(lock: IO[str]) -> None:
    """Kill what is left of an earlier run on this machine; its processes carry the run's id in their environment."""
    lock.seek(0)
    run = lock.read().strip()
    if not run:
        return
    mark = f"{_MARK}={run}".encode()
    for process in processes_outside_slurm():
        if mark in process.environment:
            print(f"ending process {process.pid}, left over from a run that was killed", file=sys.stderr)
            with suppress(OSError):  # gone by now
                os.kill(process.pid, signal.SIGKILL)


def processes_outside_slurm() -> Iterator[Process]:
    """Yield this user's processes on this machine, without those of Slurm jobs: these are Slurm's to end."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = ((entry / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
            folder = (entry / "cwd").readlink()
        except OSError:  # gone by now, or somebody else's
            continue
        if not any(variable.startswith(b"SLURM_JOB_ID=") for variable in environment):
            yield Process(int(entry.name), command, environment, folder)


def end_slurm_jobs(folder: Path) -> None:
    """Cancel the Slurm jobs that a killed run has left, and wait until they have let go of their files."""
    jobs = leftover_jobs(folder)
    if not jobs:
        return
    names = ", ".join(f"{identity} ({state.lower()})" for identity, state in jobs.items())
    print(f"ending {len(jobs)} Slurm jobs, left over from a run that was killed: {names}", file=sys.stderr, flush=True)
    subprocess.run(["scancel", *jobs], check=False)
    began = time.monotonic()
    while jobs := leftover_jobs(folder):
        if time.monotonic() - began > 600:
            raise InputError(f"Slurm jobs {', '.join(jobs)} have not ended after ten minutes; see `squeue --me`")
        time.sleep(2)
    print(f"they ended after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
