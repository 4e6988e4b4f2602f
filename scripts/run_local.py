"""Run Snakemake on this machine, one run at a time, going on where a killed run stopped.

    python scripts/run_local.py --profile profiles/local [any option of snakemake]

A run that was killed can leave two things behind: Snakemake's own lock, and jobs that still write. This starter
holds a lock of the operating system's (it cannot be left behind), ends the orphans of the run before, and only then
unlocks and starts.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import IO

_MARK = "TUNEPROOF_RUN"


def main() -> None:
    """Take the lock, clear up after a killed run, start Snakemake and hand on its exit code."""
    folder = Path(".snakemake")
    folder.mkdir(exist_ok=True)
    with (folder / "tuneproof.lock").open("a+") as lock:
        if not taken(lock):
            sys.exit("error: another run is under way in this folder; wait for it or stop it")
        lock.seek(0)
        end_orphans(lock.read().strip())
        run = uuid.uuid4().hex
        lock.truncate(0)
        lock.write(run)
        lock.flush()
        command = [sys.executable, "-m", "snakemake", *sys.argv[1:]]
        environment = {**os.environ, _MARK: run}
        if any((folder / "locks").glob("*")):
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
    return False


def end_orphans(run: str) -> None:
    """Kill what is left of an earlier run; its processes carry the run's id in their environment."""
    if not run:
        return
    mark = f"{_MARK}={run}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                print(f"ending process {process.name}, left over from a run that was killed", file=sys.stderr)
                os.kill(int(process.name), signal.SIGKILL)
        except (OSError, ValueError):  # gone by now, or somebody else's
            continue


if __name__ == "__main__":
    main()
