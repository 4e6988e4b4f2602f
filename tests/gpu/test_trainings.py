"""Trainings through scripts/train.py on a GPU: every method learns, is resumed, and fits where it is said to fit."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from e2e.test_training import RECIPE, Bench, losses
from random_llama import make_shape, write_random_rows
from tiny import make_student, write_examples

pytestmark = pytest.mark.gpu

DISSERTATION = {
    "kind": "qlora", "rank": 64, "alpha": 16, "dropout": 0.1, "targets": ["q_proj", "v_proj"], "epochs": 1,
    "learning_rate": 2e-4, "batch_size": 8, "optimizer": "paged_adamw_32bit", "weight_decay": 0.001,
    "max_tokens": 2048, "warmup": 0.03, "evaluations": 1,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def gpu():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return torch


@pytest.fixture(scope="module")
def bench(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainings")
    student = make_student(folder / "student")
    rows = write_examples(folder / "train.jsonl", 44)
    return Bench(root, folder, student, rows, write_examples(folder / "val.jsonl", 9))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Folders of the 7B's widths with few layers, and of all of it, with rows of random words for both."""
    folder = tmp_path_factory.mktemp("shapes")
    few, whole = make_shape(folder / "few", num_hidden_layers=4), make_shape(folder / "whole")
    rows = write_random_rows(folder / "rows.jsonl", 48, 300, 40, seed=1)
    long = write_random_rows(folder / "long.jsonl", 24, 472, 40, seed=2, spread=0.0)
    val = write_random_rows(folder / "val.jsonl", 8, 300, 40, seed=3)
    return {"few": few, "whole": whole, "rows": rows, "long": long, "val": val, "folder": folder}


def train_shape(root, shapes, name, shape="few", rows="rows", memory_gb=None, **spec):
    """Train a random student in a process of its own; return what it used, its log and its telemetry."""
    folder = shapes["folder"]
    command = [sys.executable, root / "tests/random_llama.py"]
    command += ["--memory-gb", memory_gb] if memory_gb else []
    command += ["--", "--spec", json.dumps(spec), "--student", shapes[shape], "--train", shapes[rows]]
    command += ["--val", shapes["val"], "--seed", 1, "--checkpoints", folder / "checkpoints" / name]
    command += ["--out", folder / name]
    path = os.pathsep.join([str(root / "scripts"), str(root / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]

    def read(file):
        return [json.loads(line) for line in (folder / name / file).read_text().splitlines()]

    return json.loads(done.stdout.splitlines()[-1]), read("train_log.jsonl"), read("telemetry.jsonl")


def without(recipe, *keys):
    return {key: value for key, value in recipe.items() if key not in keys}


METHODS = {
    "lora": RECIPE,
    "qlora": {**RECIPE, "kind": "qlora", "optimizer": "paged_adamw_32bit"},
    "full": {**without(RECIPE, "rank", "alpha", "dropout"), "kind": "full", "learning_rate": 1e-2},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(bench, method):
    seen = losses(bench.run(f"learn-{method}", whole=True, **{**METHODS[method], "epochs": 6}))
    assert seen[-1] < 0.9 * seen[0], seen


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_training_ends_as_if_it_had_not_been(bench, method):
    recipe = {**METHODS[method], "dropout": 0.1} if method != "full" else METHODS[method]
    undisturbed = bench.run(f"undisturbed-{method}", whole=True, **recipe)
    name = f"killed-{method}"
    process = bench.start(name, whole=True, **recipe)
    while process.poll() is None and bench.steps_so_far(name) < 5:
        time.sleep(0.02)
    assert process.poll() is None, "it was done before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    log = bench.run(name, whole=True, **recipe)
    assert "resuming from" in bench.said(name)
    # rows of up to 128 tokens are one block of flash attention: nothing is summed in another order
    assert losses(log) == pytest.approx(losses(undisturbed), abs=1e-5)


def test_qlora_is_nf4_in_pages_under_an_adapter_and_uses_flash_attention(root, shapes):
    used, log, _ = train_shape(root, shapes, "used", **DISSERTATION)
    assert used["base_layers"] == ["Linear4bit"]
    assert used["optimizer"].startswith("bitsandbytes.optim.adamw")
    # two moments of A and B of q and v in 4 layers; bitsandbytes pages tensors of 100,000 values and more: all of them
    assert used["paged_tensors"] == 2 * 2 * 2 * 4
    assert used["attention"] == "tuneproof_varlen"
    assert all(row["grad_norm"] > 0 for row in log if "grad_norm" in row)


@pytest.mark.parametrize("kind", ["lora", "qlora"])
@pytest.mark.parametrize("switch", ["liger", "compile"])
def test_a_switch_is_used_and_changes_no_loss(root, shapes, switch, kind):
    if switch == "liger":
        pytest.importorskip("liger_kernel", reason="liger-kernel is not installed")
    spec = {**DISSERTATION, "kind": kind, "dropout": 0.0}
    plain, log, _ = train_shape(root, shapes, f"plain-{kind}-{switch}", **spec)
    used, fast, _ = train_shape(root, shapes, f"{switch}-{kind}", **spec, speed={switch: True})
    assert not plain["liger"] and plain["compiled_graphs"] == 0
    if switch == "liger":
        assert used["liger"]
    else:
        # bitsandbytes may cut a layer at each of its 7 matmuls; six lengths must not multiply that
        assert 1 <= used["compiled_graphs"] <= (12 if kind == "lora" else 40), "compiled anew for every length?"
    assert losses(fast) == pytest.approx(losses(log), abs=1e-2)


@pytest.mark.slow
def test_the_dissertations_setting_fits_a_gpu_of_24_gb(root, shapes):
    """Llama-2-7B's shape in NF4, 8 rows of 512 tokens, on a GPU that is told to have 24·10⁹ bytes."""
    used, _, telemetry = train_shape(
        root, shapes, "fits", shape="whole", rows="long", memory_gb=24, **{**DISSERTATION, "max_tokens": 512}
    )
    peak = max(row["gpu_reserved_mb"] for row in telemetry if "gpu_reserved_mb" in row)
    assert used["checkpointing"], "auto: what a batch keeps would not fit"
    assert peak * 2**20 < 24e9, f"{peak} MiB"
