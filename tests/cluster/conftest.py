"""A Slurm, an image, and studies that run through both."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import private_apptainer
from cluster.private_slurm import PrivateSlurm, install, why_not
from copies import ROOT, copy_workflow, give_image, link_models

from tuneproof.records import file_sha256

AT_PACE = str(Path(__file__).with_name("snakemake_at_pace.py"))
RECORDED = ROOT / "tests" / "e2e" / "recorded"


@pytest.fixture(scope="session")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 600 MB, to be filled. Slurm's nodes see only what was mounted before they started."""
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("small_disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="session")
def slurm(small_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSlurm]:
    """One private Slurm with the defaults, for all tests."""
    with PrivateSlurm(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


@pytest.fixture(scope="session")
def apptainer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment in which Apptainer is on PATH."""
    install()
    folder = private_apptainer.install(tmp_path_factory.mktemp("apptainer"))
    # a sandbox without CAP_SYS_RESOURCE cannot hand all of root's privileges to a container
    return {"PATH": f"{Path(sys.executable).parent}:{folder}:{os.environ['PATH']}", "APPTAINER_NO_PRIVS": "1"}


@pytest.fixture(scope="session")
def image(apptainer: dict[str, str]) -> Path:
    """The CPU image, built from its definition unless the one at hand is of this definition and this lock."""
    sif = ROOT / "containers" / "cpu.sif"
    if not _is_of_this_checkout(sif):
        command = [sys.executable, str(ROOT / "scripts" / "build_image.py"), "cpu", "--base", "debian"]
        done = subprocess.run(command, env={**os.environ, **apptainer}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return sif


def _is_of_this_checkout(sif: Path) -> bool:
    record = Path(f"{sif}.json")
    if not (sif.exists() and record.exists()):
        return False
    made_of = json.loads(record.read_text())
    files = {
        "definition_sha256": ROOT / "containers" / "cpu.def",
        "lock_sha256": ROOT / "envs" / "cpu.lock",
    }
    return all(made_of[key] == file_sha256(path) for key, path in files.items())


@dataclass
class ClusterStudy:
    """A copy of the workflow whose jobs go through the private Slurm into containers."""

    folder: Path
    slurm: PrivateSlurm
    apptainer: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        shims = self.slurm.environment["PATH"].split(":")[0]
        return {
            **os.environ,
            **self.slurm.environment,
            **self.apptainer,
            "PATH": f"{shims}:{self.apptainer['PATH']}",
        }

    def start(self, *arguments: str, program: tuple[str, ...] = (AT_PACE,)) -> "subprocess.Popen[bytes]":
        """Start Snakemake as a user does, but for the pace of asking Slurm; its output goes to run.log."""
        pace = ["--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "10"]
        command = [sys.executable, *program, "--profile", "profiles/slurm", *arguments, *pace]
        with (self.folder / "run.log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def run(self, *arguments: str, program: tuple[str, ...] = (AT_PACE,), code: int = 0) -> str:
        """Run to the end and return what was printed."""
        before = len(self.log())
        process = self.start(*arguments, program=program)
        try:
            assert process.wait() == code, self.log()[before:][-6000:]
        finally:
            self.kill(process)
        return self.log()[before:]

    def resume(self, *arguments: str) -> str:
        """`make resume`."""
        return self.run(*arguments, program=("scripts/run_study.py",))

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        """Kill -9, as when the login node is taken down: Slurm's jobs go on."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def log(self) -> str:
        path = self.folder / "run.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def read(self, path: str) -> str:
        return (self.folder / path).read_text()

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new))

    def jobs(self, rule: str) -> list[dict[str, str]]:
        """This study's Slurm jobs of a rule ("": of any), in the order of their start."""
        fields = ("JobID", "JobName", "State", "ExitCode", "Start", "End", "ReqMem", "ReqTRES", "WorkDir", "ElapsedRaw")
        rows = [row for row in self.slurm.sacct(*fields) if row["WorkDir"] == str(self.folder)]
        # `train` is not `train_types`
        named = re.compile(rf"rule_{rule}(_wildcards|\W|$)")
        chosen = (row for row in rows if not rule or named.search(row["Comment"]))
        return sorted(chosen, key=lambda row: int(row["JobID"]))


# old and new, in config.yaml. A CPU without AVX-512 takes seconds for a judgement and minutes for an epoch. In fp32, so
# that one process and two learn the same.
_SMALLER = {
    "max_new_page_questions: 24": "max_new_page_questions: 6",
    "max_trained_page_questions: 40": "max_trained_page_questions: 10",
    "leaks: {max_share: 0.25}": "leaks: {max_share: 1}",
    "epochs: 8": "epochs: 3\n    precision: fp32",
    "max_new_tokens: 48": "max_new_tokens: 48\n  precision: fp32",
}


def copy_default_study(folder: Path) -> Path:
    """Copy the workflow with every rule of the default study, its models and recorded replies, but fewer questions."""
    copy_workflow(folder)
    config = folder / "config.yaml"
    text = config.read_text()
    for old, new in _SMALLER.items():
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in config.yaml"
        text = text.replace(old, new)
    config.write_text(text)
    link_models(folder)
    shutil.copytree(RECORDED, folder / "store" / "llm")
    return folder


def wait_for(check: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until something is so; fail when it takes too long."""
    began = time.monotonic()
    while not check():
        assert time.monotonic() - began < seconds, f"after {seconds:.0f} s still not: {what}"
        time.sleep(0.3)


@pytest.fixture(scope="session")
def new_study(slurm, apptainer, image, tmp_path_factory) -> Callable[[str], ClusterStudy]:
    """Return a function that makes a study's folder, with image and models, nothing done."""

    def make(name: str) -> ClusterStudy:
        folder = copy_default_study(tmp_path_factory.mktemp(name) / "study")
        give_image(folder, image)
        return ClusterStudy(folder, slurm, apptainer)

    return make


@pytest.fixture(scope="session")
def default_here(tmp_path_factory) -> Path:
    """The default study, run on this machine without Slurm and without a container.

    $TUNEPROOF_DEFAULT_STUDY names a folder where that was done already: it saves five minutes of work on a test.
    """
    if done_before := os.environ.get("TUNEPROOF_DEFAULT_STUDY"):
        return Path(done_before)
    folder = copy_default_study(tmp_path_factory.mktemp("here") / "study")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "scripts/run_study.py", "--profile", "profiles/local"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return folder


@pytest.fixture(scope="session")
def default_on_slurm(new_study) -> ClusterStudy:
    """The default study, run through Slurm in containers."""
    study = new_study("default")
    study.run()
    return study
