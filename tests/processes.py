"""Several processes of one program, with the environment that torchrun gives them.

They are forked once the program's imports are done: on two busy cores these take longer than what is tested.
"""

import importlib
import multiprocessing
import multiprocessing.connection
import os
import socket
import subprocess
import sys
from pathlib import Path


def run_together(program: str, processes: int, *arguments, limit_s: float = 150, **environment) -> str:
    """Run tests/PROGRAM.py's main(*arguments) in each of them; AssertionError with what they printed if one fails.

    Among the arguments, "--" begins those of another run, which follows with new processes.
    """
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, __file__, program, str(processes), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root / 'scripts'}:{root / 'tests'}", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


def _process(main, rank: int, arguments: list[str]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    main(*arguments)


def main() -> None:
    program, processes, *arguments = sys.argv[1:]
    target = importlib.import_module(program).main
    os.environ.update(WORLD_SIZE=processes, LOCAL_WORLD_SIZE=processes)
    for one in " ".join(arguments).split(" -- "):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
        _together(target, int(processes), one.split())


def _together(target, processes: int, arguments: list[str]) -> None:
    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=_process, args=(target, rank, arguments)) for rank in range(processes)]
    for process in started:
        process.start()
    waiting = list(started)
    while waiting:
        multiprocessing.connection.wait([process.sentinel for process in waiting])
        waiting = [process for process in waiting if process.exitcode is None]
        if any(process.exitcode for process in started):
            for process in waiting:
                process.join(2)  # it may be about to say why
                process.kill()
            sys.exit(1)


if __name__ == "__main__":
    main()
