"""Loss and memory of trainings: what is drawn, and how attempts are laid end to end."""

import pytest

from tuneproof.report import figures, training

RUN = "m/lora/d/seed1"
LOG = [
    {"step": 0, "epoch": 0.0, "eval_loss": 3.0},
    {"step": 1, "epoch": 0.5, "loss": 2.0, "tokens": 100},
    {"step": 2, "epoch": 1.0, "loss": 1.0, "tokens": 210},
    {"step": 2, "epoch": 1.0, "eval_loss": 1.5},
    {"step": 3, "epoch": 1.5, "loss": float("nan"), "tokens": 330},
]


def telemetry(*points, **more):
    return [{"step": step, "seconds": seconds, "memory_mb": 800.0 + step, **more} for step, seconds in points]


def test_the_average_begins_at_the_first_value():
    assert training.smoothed([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert training.smoothed([2.0, 1.0]) == pytest.approx([2.0, (0.9 * 2 + 1) / 1.9])


def test_a_loss_that_is_no_number_is_left_out():
    rows = training.loss_curve({RUN: LOG})
    assert [(r["step"], r["kind"], r["loss"]) for r in rows] == [
        (0, "validation", 3.0),
        (1, "train", 2.0),
        (2, "train", 1.0),
        (2, "validation", 1.5),
    ]


def test_each_data_set_has_a_panel_and_each_run_a_colour():
    runs = [f"m/{method}/{dataset}/seed{seed}" for dataset in "de" for method in ("lora", "qlora") for seed in (1, 2)]
    svg = figures.to_svg(training.loss_chart(training.loss_curve(dict.fromkeys(runs, LOG))))
    assert "Loss of 8 tuned runs by step, 2 data sets" in svg
    assert {f">{m} seed {n}<" for m in ("lora", "qlora") for n in (1, 2)} <= set(
        f">{part}<" for part in svg.replace("</text>", "").replace("<", ">").split(">")
    )


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        (["m/lora/d/seed1"], ["lora"]),
        (["m/lora/d/seed1", "m/lora/d/seed2"], ["lora seed 1", "lora seed 2"]),
        (["m/lora/d/seed1", "n/lora/d/seed1"], ["m lora", "n lora"]),
    ],
)
def test_a_run_is_called_by_what_tells_it_from_the_others(runs, expected):
    assert list(training.labels_of(runs).values()) == expected


def test_attempts_are_laid_end_to_end():
    rows = training.laid_end_to_end(telemetry((1, 60), (2, 120), (3, 180), (3, 30), (4, 90), (5, 200)))
    assert [row["minutes"] for row in rows] == pytest.approx([1, 2, 3, 3.5, 4.5, 3 + 200 / 60])
    assert [row["attempt"] for row in rows] == [1, 1, 1, 2, 2, 2]


def test_an_attempt_that_was_slower_to_begin_than_the_one_before_was_long_is_seen_by_its_step():
    rows = training.laid_end_to_end(telemetry((1, 10), (2, 20), (2, 25)))
    assert [row["attempt"] for row in rows] == [1, 1, 2]


def test_memory_is_the_gpus_where_there_is_one():
    gpu = {"gpu_allocated_mb": 14000.0, "gpu_reserved_mb": 21500.0}
    rows = training.memory_curve({RUN: telemetry((1, 60), **gpu)})
    assert {r["kind"]: r["gb"] for r in rows} == {"GPU, allocated": 14.0, "GPU, reserved": 21.5}
    assert "A training's peak: 21.5 GB reserved on the GPU" in figures.to_svg(training.memory_chart(rows)).replace(
        "&#39;", "'"
    )
    none = {"gpu_allocated_mb": None, "gpu_reserved_mb": None}
    assert [r["kind"] for r in training.memory_curve({RUN: telemetry((1, 60), **none)})] == ["resident"]


def test_a_long_log_is_thinned_for_the_figure_and_whole_in_its_data():
    rows = training.memory_curve({RUN: telemetry(*((step, step) for step in range(1, 5001)))})
    assert len(rows) == 5000
    assert 1000 < len(thin := training.thinned(rows, ("run", "kind"))) <= training.POINTS + 1
    assert (thin[0], thin[-1]) == (rows[0], rows[-1])


def test_a_row_of_the_table_sums_a_run_up():
    more = {"tokens_per_second": 50.0, "mfu": 0.3}
    (row,) = training.run_table({RUN: LOG}, {RUN: telemetry((1, 60), (2, 120), (2, 30), **more)})
    assert row == {
        "run": RUN,
        "steps": 3,
        "tokens": 330,
        "tokens_per_second": 50.0,
        "mfu": 0.3,
        "peak_memory_mb": 802.0,
        "memory_of": "process",
        "minutes": 2.5,
        "attempts": 2,
        "final_train_loss": 1.4737,
        "base_validation_loss": 3.0,
        "best_validation_loss": 1.5,
    }


def test_logs_without_rows_are_drawn_as_such():
    assert "No loss was logged" in figures.to_svg(training.loss_chart([]))
    assert "No memory was logged" in figures.to_svg(training.memory_chart([]))
    assert training.run_table({RUN: []}, {RUN: []})[0]["peak_memory_mb"] is None
