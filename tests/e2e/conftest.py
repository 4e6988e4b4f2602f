"""The small study in a folder of its own: real models, real HTTP, real training.

The 1.5B generator's replies are recorded (tests/e2e/recorded), because it takes minutes; whatever is not recorded is
asked of the real model. One test always asks the real one.
"""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from copies import copy_workflow, link_models


@dataclass
class Study:
    folder: Path

    def start(self, *arguments: str, config: str = "tiny.yaml") -> subprocess.Popen:
        """Start the study as `make demo` does, in a process group of its own."""
        command = [sys.executable, "scripts/run_study.py", "--profile", "profiles/local", *arguments]
        command += ["--configfile", config]
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        with (self.folder / "run.log").open("a") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def run(self, *arguments: str, config: str = "tiny.yaml") -> str:
        """Run to the end and return what was printed."""
        log = self.folder / "run.log"
        before = log.stat().st_size if log.exists() else 0
        code = self.start(*arguments, config=config).wait()
        output = log.read_text()[before:]
        assert code == 0, output[-5000:]
        return output

    def kill_after(self, seconds: float, jobs_too: bool) -> bool:
        """Start, and kill it after some seconds with SIGKILL: starter and Snakemake, and the job that runs or not.

        False where the study was done by then.
        """
        process = self.start()
        try:
            assert process.wait(seconds) == 0, self.read("run.log")[-3000:]
            return False
        except subprocess.TimeoutExpired:
            if jobs_too:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                for pid in (*map(int, children), process.pid):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            return True

    def read(self, path: str) -> str:
        return (self.folder / path).read_text()


def make_study(folder: Path) -> Study:
    copy_workflow(folder)
    link_models(folder)
    shutil.copy(Path(__file__).with_name("tiny.yaml"), folder)
    shutil.copytree(Path(__file__).with_name("recorded"), folder / "store" / "llm")
    return Study(folder)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Study:
    """The small study, run once without a disturbance."""
    study = make_study(tmp_path_factory.mktemp("study") / "undisturbed")
    study.run()
    return study


@pytest.fixture
def new_study(tmp_path) -> Study:
    return make_study(tmp_path / "study")
