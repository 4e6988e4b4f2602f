"""A copy of the workflow's rules in a folder of its own, with models and inputs that exist only by name.

A dry run looks at names, times, parameters and checksums of small files, so the DAG can be tested without the work.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from copies import copy_workflow

# makes whatever output is missing; "site" and "classifier" are the ones that are folders
_STUB = """#!/bin/sh
while read -r file; do
    mkdir -p "$(dirname "$file")"
    case "$file" in */site | */classifier) mkdir -p "$file" ;; *) [ -e "$file" ] || : > "$file" ;; esac
done < outputs
"""


def cpu_seconds() -> float:
    """What this process's children have computed for: on a machine that does other things too, time says little."""
    times = os.times()
    return times.children_user + times.children_system


@dataclass
class Workflow:
    folder: Path

    def snakemake(
        self,
        *arguments: str,
        profile: str = "local",
        check: bool = True,
        path: Path = Path(sys.executable).parent,
        whole_path: str | None = None,
    ) -> str:
        """Run Snakemake and return what it printed. `path` comes first on PATH; `whole_path` is all of it."""
        command = [sys.executable, "-m", "snakemake", "--profile", f"profiles/{profile}", *arguments]
        environment = {**os.environ, "PATH": whole_path or f"{path}:{os.environ['PATH']}"}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, output
        return output

    def planned(self, *arguments: str, profile: str = "local") -> dict[str, int]:
        """Return the number of jobs of each rule that would run."""
        output = self.snakemake("-n", *arguments, "--quiet", "rules", profile=profile)
        if "Nothing to be done" in output:
            return {}
        # --quiet rules still prints the table of jobs
        rows = re.findall(r"^(\w+)\s+(\d+)\s*$", output, re.MULTILINE)
        assert rows, output
        return {rule: int(count) for rule, count in rows if rule not in ("total", "all")}

    def pretend_done(self, *arguments: str) -> None:
        """Run every job with a `python` that makes outputs as empty files: Snakemake then knows all that was done."""
        plan = self.snakemake("-n", *arguments)
        outputs = re.findall(r"^ +output: (.+)$", plan, re.MULTILINE)  # a group's jobs are indented
        (self.folder / "outputs").write_text("\n".join(name for line in outputs for name in line.split(", ")) + "\n")
        stub = self.folder / "stub" / "python"
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(_STUB)
        stub.chmod(0o755)
        self.snakemake("--cores", "1", *arguments, path=stub.parent)

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new))


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    """The workflow, with nothing done."""
    return Workflow(copy_workflow(tmp_path))


@pytest.fixture(scope="session")
def pretended(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    finished = Workflow(copy_workflow(tmp_path_factory.mktemp("pretended")))
    finished.pretend_done()
    return finished


@pytest.fixture
def done(pretended: Workflow, tmp_path: Path) -> Workflow:
    """The workflow, with everything done."""
    shutil.copytree(pretended.folder, tmp_path / "done")
    return Workflow(tmp_path / "done")
