"""A copy of the workflow's rules in a folder of its own, with models and inputs that exist only by name.

A dry run looks at names, times and checksums of small files, so the DAG can be tested without any work being done.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_PARTS = ("Snakefile", "config.yaml", "rules", "scripts", "prompts", "report", "sample_site", "profiles", "studies")


@dataclass
class Workflow:
    folder: Path

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", *arguments]
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, output
        return output

    def planned(self, *arguments: str) -> dict[str, int]:
        """Return the number of jobs of each rule that would run."""
        output = self.snakemake("-n", "--quiet", "rules", *arguments)
        if "Nothing to be done" in output:
            return {}
        # --quiet rules still prints the table of jobs
        rows = re.findall(r"^(\w+)\s+(\d+)\s*$", output, re.MULTILINE)
        assert rows, output
        return {rule: int(count) for rule, count in rows if rule not in ("total", "all")}

    def pretend_done(self, *arguments: str) -> None:
        """Make every output as an empty file and let Snakemake believe that it was made: `--touch` needs the files."""
        listing = self.snakemake("--summary", *arguments)
        for line in listing.splitlines():
            name = line.split("\t")[0]
            if "/" in name and not line.startswith("output_file"):
                path = self.folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix or path.name not in ("site",):
                    path.touch()
                else:
                    path.mkdir(exist_ok=True)
        self.snakemake("--touch", *arguments)

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new))


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    for part in _PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, tmp_path / part)
    return Workflow(tmp_path)
