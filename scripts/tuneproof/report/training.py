"""How runs went: loss by step, memory over time, a table with a row a run; from train_log.jsonl and telemetry.jsonl.

What a run computed (loss, evaluations, tokens) is in its train_log, and reproduces; how fast and in how much memory is
in its telemetry, and does not. An attempt that was resumed goes on in the same files, so its time is laid behind that
of the attempt before.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from tuneproof.report.figures import INK, MUTED, PALETTE, lighter, styled

Row = dict[str, Any]
Logs = Mapping[str, Sequence[Mapping[str, Any]]]

# Of the weight that a smoothed loss gives to what came before; shorter at the start (Adam's bias correction), so that
# it does not begin at zero. 0.9 is a window of some ten steps.
SMOOTHING = 0.9
# more points than pixels only make the file large
POINTS = 1200
LOSS_SERIES, MEMORY_SERIES = ("train", "validation"), ("GPU, allocated", "GPU, reserved", "resident")
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])


def parts_of(run: str) -> tuple[str, str, str, str]:
    """Return model, method, data set and seed of a run's id."""
    model, method, dataset, seed = run.split("/")
    return model, method, dataset, seed


def labels_of(runs: Sequence[str]) -> dict[str, str]:
    """Return what tells each run from the others within a data set: method, with model and seed where they differ."""
    parts = {run: parts_of(run) for run in runs}
    models, seeds = {p[0] for p in parts.values()}, {p[3] for p in parts.values()}
    return {
        run: " ".join(
            [
                *([model] if len(models) > 1 else []),
                method,
                *([seed.replace("seed", "seed ")] if len(seeds) > 1 else []),
            ]
        )
        for run, (model, method, _, seed) in parts.items()
    }


def smoothed(values: Sequence[float], weight: float = SMOOTHING) -> list[float]:
    """Return the exponential moving average of losses, corrected for its start."""
    result, average, share = [], 0.0, 0.0
    for value in values:
        average = weight * average + (1 - weight) * value
        share = weight * share + (1 - weight)
        result.append(average / share)
    return result


def loss_curve(logs: Logs) -> list[Row]:
    """Train and validation loss by step, from {run: rows of its train_log.jsonl}; `smoothed` of the train loss only."""
    data = []
    for run, rows in logs.items():
        trained = [row for row in rows if _finite(row.get("loss"))]
        smooth = iter(smoothed([row["loss"] for row in trained]))
        for row in rows:
            for key, kind in (("loss", "train"), ("eval_loss", "validation")):
                if _finite(row.get(key)):
                    data.append(
                        {
                            "dataset": parts_of(run)[2],
                            "run": run,
                            "step": row["step"],
                            "epoch": row.get("epoch"),
                            "kind": kind,
                            "loss": row[key],
                            "smoothed": round(next(smooth), 6) if kind == "train" else None,
                        }
                    )
    return data


def loss_chart(data: Sequence[Row]) -> alt.TopLevelMixin:
    """A panel a data set. Train loss smoothed, its raw values faint behind; validation loss dashed, with points."""
    runs = list(dict.fromkeys(r["run"] for r in data))
    labels = labels_of(runs)
    rows = thinned(data, ("run", "kind"))
    datasets = list(dict.fromkeys(r["dataset"] for r in data))
    panels = []
    for dataset in datasets:
        values = [{**r, "label": labels[r["run"]]} for r in rows if r["dataset"] == dataset]
        train = [{**v, "series": "train"} for v in values if v["kind"] == "train"]
        held_out = [{**v, "series": "validation"} for v in values if v["kind"] == "validation"]
        base = alt.Chart(alt.InlineData(values=train)).encode(
            x=alt.X("step:Q", title="optimiser step", axis=alt.Axis(tickMinStep=1, tickCount=8)),
            color=_colour(labels),
        )
        # logged values only differ by a factor of a few: a linear axis that need not start at zero
        scale = alt.Scale(zero=False, nice=True)
        raw = base.mark_line(strokeWidth=0.8, opacity=0.25).encode(
            y=alt.Y("loss:Q", title="loss (nats per token)", scale=scale)
        )
        smooth = base.mark_line(strokeWidth=1.8).encode(
            y=alt.Y("smoothed:Q", scale=scale), strokeDash=_dash(LOSS_SERIES)
        )
        validated = alt.Chart(alt.InlineData(values=held_out)).encode(
            x="step:Q", y=alt.Y("loss:Q", scale=scale), color=_colour(labels)
        )
        line = validated.mark_line(strokeWidth=1.8).encode(strokeDash=_dash(LOSS_SERIES))
        points = validated.mark_point(filled=True, size=36, opacity=1)
        panels.append(_panel(alt.layer(raw, smooth, line, points), dataset, len(datasets)))
    return styled(_grid(panels), _loss_title(data, runs, datasets))


def _loss_title(data: Sequence[Row], runs: Sequence[str], datasets: Sequence[str]) -> list[str]:
    if not runs:
        return ["No loss was logged"]
    if len(runs) > 1:
        return [
            f"Loss of {len(runs)} tuned runs by step" + (f", {len(datasets)} data sets" if len(datasets) > 1 else "")
        ]
    losses = [(r["loss"], r["step"]) for r in data if r["kind"] == "validation"]
    if not losses:
        return ["Training loss by step; nothing was evaluated"]
    low, step = min(losses)
    return [
        f"Validation loss {losses[0][0]:.2f} first, {low:.2f} at its lowest (step {step}), {losses[-1][0]:.2f} last"
    ]


def laid_end_to_end(telemetry: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return telemetry with `minutes` since the start of the first attempt, and the number of each row's `attempt`.

    `seconds` begin anew with every attempt: a new one is seen where they, or the steps, do not go on.
    """
    rows: list[Row] = []
    before, last, attempt = 0.0, None, 1
    for row in telemetry:
        if last is not None and (row["seconds"] < last["seconds"] or row["step"] <= last["step"]):
            before += last["seconds"]
            attempt += 1
        rows.append({**row, "minutes": (before + row["seconds"]) / 60, "attempt": attempt})
        last = row
    return rows


def memory_curve(telemetry: Logs) -> list[Row]:
    """Memory in GB over minutes: what the GPU has allocated and reserved where there is one, else the resident set."""
    data = []
    for run, rows in telemetry.items():
        for row in laid_end_to_end(rows):
            gpu = {"GPU, allocated": row.get("gpu_allocated_mb"), "GPU, reserved": row.get("gpu_reserved_mb")}
            known = {k: v for k, v in gpu.items() if v is not None} or {"resident": row.get("memory_mb")}
            data += [
                {
                    "dataset": parts_of(run)[2],
                    "run": run,
                    "attempt": row["attempt"],
                    "step": row["step"],
                    "minutes": round(row["minutes"], 3),
                    "kind": kind,
                    "gb": round(value / 1000, 4),
                }
                for kind, value in known.items()
                if value is not None
            ]
    return data


def memory_chart(data: Sequence[Row]) -> alt.TopLevelMixin:
    """A panel a data set, a colour a run; a thin line is where an attempt was resumed."""
    runs = list(dict.fromkeys(r["run"] for r in data))
    labels = labels_of(runs)
    rows = thinned(data, ("run", "kind", "attempt"))
    datasets = list(dict.fromkeys(r["dataset"] for r in data))
    kinds = [kind for kind in MEMORY_SERIES if any(r["kind"] == kind for r in data)]
    panels = []
    for dataset in datasets:
        values = [{**r, "label": labels[r["run"]], "series": r["kind"]} for r in rows if r["dataset"] == dataset]
        base = alt.Chart(alt.InlineData(values=values)).encode(
            x=alt.X("minutes:Q", title="minutes, attempts end to end", axis=alt.Axis(tickCount=8)),
            y=alt.Y("gb:Q", title="memory (GB)", scale=alt.Scale(zero=True)),
            color=_colour(labels),
        )
        lines = base.mark_line(strokeWidth=1.6).encode(strokeDash=_dash(kinds), detail="attempt:N")
        panels.append(_panel(alt.layer(lines, _resumptions(data, dataset, labels)), dataset, len(datasets)))
    return styled(_grid(panels), _memory_title(data))


def _resumptions(data: Sequence[Row], dataset: str, labels: Mapping[str, str]) -> Any:
    first: dict[tuple[str, int], float] = {}
    for row in data:
        if row["dataset"] == dataset and row["attempt"] > 1:
            first.setdefault((row["run"], row["attempt"]), row["minutes"])
    values = [{"minutes": minutes, "label": labels[run]} for (run, _), minutes in first.items()]
    marks = alt.Chart(alt.InlineData(values=values)).mark_rule(strokeWidth=1, opacity=0.6, strokeDash=[1, 3])
    return marks.encode(x="minutes:Q", color=_colour(labels))


def _memory_title(data: Sequence[Row]) -> list[str]:
    if not data:
        return ["No memory was logged"]
    peak = max(data, key=lambda r: r["gb"])
    what = {"GPU, reserved": "reserved on the GPU", "resident": "resident in memory"}.get(peak["kind"], "on the GPU")
    return [f"A training's peak: {peak['gb']:.1f} GB {what}"]


def run_table(logs: Logs, telemetry: Logs) -> list[Row]:
    """Return a row a run: steps, tokens, medians of speed, peak memory, minutes, losses. None where it is not known."""
    rows = []
    for run, log in logs.items():
        measured = laid_end_to_end(telemetry.get(run, ()))
        validated = [row for row in log if _finite(row.get("eval_loss"))]
        trained = [row for row in log if _finite(row.get("loss"))]
        tuned = [row["eval_loss"] for row in validated if row["step"] > 0]
        untuned = [row["eval_loss"] for row in validated if row["step"] == 0]
        gpu = [row["gpu_reserved_mb"] for row in measured if row.get("gpu_reserved_mb") is not None]
        memory = gpu or [row["memory_mb"] for row in measured if row.get("memory_mb") is not None]
        rows.append(
            {
                "run": run,
                "steps": max((row["step"] for row in log), default=0),
                "tokens": max((row["tokens"] for row in log if row.get("tokens") is not None), default=None),
                "tokens_per_second": _median(measured, "tokens_per_second"),
                "mfu": _median(measured, "mfu"),
                "peak_memory_mb": max(memory, default=None),
                "memory_of": "GPU" if gpu else "process" if memory else None,
                "minutes": round(measured[-1]["minutes"], 2) if measured else None,
                "attempts": measured[-1]["attempt"] if measured else None,
                "final_train_loss": round(smoothed([row["loss"] for row in trained])[-1], 4) if trained else None,
                "base_validation_loss": untuned[0] if untuned else None,
                "best_validation_loss": min(tuned, default=None),
            }
        )
    return rows


def _median(rows: Iterable[Mapping[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    return statistics.median(values) if values else None


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def thinned(data: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """Every n-th row of each line, the last one too, so that a line has no more points than a page has pixels."""
    lines: dict[tuple[Any, ...], list[Row]] = {}
    for row in data:
        lines.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [
        row
        for line in lines.values()
        for i, row in enumerate(line)
        if i % -(-len(line) // POINTS) == 0 or i == len(line) - 1
    ]


def _colour(labels: Mapping[str, str]) -> alt.Color:
    names = list(dict.fromkeys(labels.values()))
    return alt.Color(
        "label:N",
        title=None,
        scale=alt.Scale(
            domain=names, range=[lighter(PALETTE[i % len(PALETTE)], i // len(PALETTE)) for i in range(len(names))]
        ),
        legend=alt.Legend(
            orient="bottom",
            columns=4,
            labelLimit=0,
            symbolType="stroke",
            symbolSize=250,
            symbolStrokeWidth=4,
            symbolOpacity=1,
        )
        if len(names) > 1
        else None,
    )


def _dash(series: Sequence[str]) -> alt.StrokeDash:
    return alt.StrokeDash(
        "series:N",
        title=None,
        scale=alt.Scale(domain=list(series), range=list(_DASHES[: len(series)])),
        legend=alt.Legend(orient="top", symbolType="stroke", symbolStrokeColor=MUTED, symbolSize=400),
    )


def _panel(chart: Any, dataset: str, many: int) -> Any:
    if many == 1:
        return chart.properties(width=880, height=280)
    title = alt.Title(dataset, anchor="start", fontSize=12, fontWeight="bold", color=INK)
    return chart.properties(width=400, height=220, title=title)


def _grid(panels: Sequence[Any]) -> Any:
    if not panels:
        return alt.Chart(alt.InlineData(values=[{}])).mark_point(opacity=0)
    return panels[0] if len(panels) == 1 else alt.concat(*panels, columns=2, spacing=28)
