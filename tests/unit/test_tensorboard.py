"""Runs as TensorBoard's event files: finished ones and those under way, written again only where something changed."""

import json

import pytest

from tuneproof.report import tensorboard

RUN = "m/lora/d/seed1"
LOG = [
    {"step": 1, "epoch": 0.5, "loss": 2.0, "learning_rate": 1e-3, "tokens": 100},
    {"step": 2, "epoch": 1.0, "eval_loss": 1.5},
]
TELEMETRY = [{"step": 1, "seconds": 3.0, "tokens_per_second": 50.0, "mfu": None, "memory_mb": 900.0}]


def write(folder, log=LOG, rest=""):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log) + rest)
    (folder / "telemetry.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TELEMETRY))


def test_every_number_of_a_run_is_a_scalar_and_null_is_none():
    assert tensorboard.scalars(LOG, TELEMETRY) == [
        ("train/epoch", 0.5, 1),
        ("train/loss", 2.0, 1),
        ("train/learning_rate", 1e-3, 1),
        ("train/tokens", 100.0, 1),
        ("train/epoch", 1.0, 2),
        ("validation/loss", 1.5, 2),
        ("speed and memory/tokens_per_second", 50.0, 1),
        ("speed and memory/memory_mb", 900.0, 1),
    ]


def test_finished_runs_and_those_under_way_are_written_once(tmp_path, run_script):
    pytest.importorskip("tensorboardX")
    write(tmp_path / "results/runs" / RUN)
    write(tmp_path / "checkpoints/m.lora.d.seed2.abc", rest='{"step": 3, "lo')
    out = tmp_path / "results/tensorboard"
    done = run_script("write_tensorboard", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = ["under-way/m.lora.d.seed2.abc", RUN]
    events = {name: list((out / name).glob("events.*")) for name in names}
    assert all(len(files) == 1 and files[0].stat().st_size > 100 for files in events.values())
    assert done.stdout.count(": written") == 2
    again = run_script("write_tensorboard", cwd=tmp_path)
    assert again.stdout.count(": as before") == 2
    assert {name: list((out / name).glob("events.*")) for name in names} == events
    write(tmp_path / "results/runs" / RUN, [*LOG, {"step": 3, "epoch": 1.5, "loss": 1.0}])
    for file in (tmp_path / "checkpoints/m.lora.d.seed2.abc").iterdir():
        file.unlink()
    third = run_script("write_tensorboard", cwd=tmp_path)
    assert third.stdout.count(": written") == 1
    assert len(list((out / RUN).glob("events.*"))) == 1
    assert not (out / names[0]).exists()


def test_nothing_to_write_is_one_sentence(tmp_path, run_script):
    done = run_script("write_tensorboard", cwd=tmp_path)
    assert done.returncode == 1
    assert "error: results/runs and checkpoints: no train_log.jsonl in either" in done.stderr
