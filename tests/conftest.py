"""Where things are, and the models that some tests need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuneproof.corpus.sample_site import render

ROOT = Path(__file__).parents[1]

# Tests that run side by side share the cores: OpenMP's threads wait for one another, and many more threads than cores
# are slower by tens. Before torch is imported, and for the scripts that tests start.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def run_script(root):
    """Run scripts/NAME.py as a rule would, without the machine's proxies."""
    own = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}

    def run(name, *args, env=None, cwd=None):
        command = [sys.executable, root / "scripts" / f"{name}.py", *map(str, args)]
        return subprocess.run(
            command, env={**own, **(env or {})}, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
        )

    return run


@pytest.fixture(scope="session")
def haldrune(root, tmp_path_factory):
    """The sample site as (folder of HTML, facts)."""
    site = tmp_path_factory.mktemp("haldrune")
    return site, render(root / "sample_site", site)


@pytest.fixture(scope="session")
def encoder(root):
    """Folder of the default study's encoder."""
    folder = root / "resources" / "models" / "all-minilm-l6-v2"
    if not (folder / "tokenizer.json").exists():
        pytest.skip(f"{folder} is not there: `make setup` fetches it")
    return folder
