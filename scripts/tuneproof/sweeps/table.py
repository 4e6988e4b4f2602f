"""A sweep's variants compared by validation loss: means over seeds, paired differences to the best, and in words.

With few seeds only Student's t is honest: at three seeds its 95 % quantile is 4.30, not 1.96. Seeds are paired, because
a seed fixes the order of the rows and the adapters' first weights for all variants alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError
from tuneproof.records import iter_json_lines
from tuneproof.study import SweepSpec

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over n values with its 95 % t-interval; None where there are too few values."""

    n: int
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Variant:
    """One row of the table: a combination of the grid over its seeds.

    `best` and `final` are over the seeds that ended with a finite loss; `diverged` counts the others. `seeds` maps a
    seed to its lowest validation loss. `difference` is that to the best variant over the seeds that both have.
    """

    variant: str
    parameters: dict[str, Any]
    best: Interval
    final: Interval
    difference: Interval | None
    diverged: int
    seeds: dict[int, float | None]

    @property
    def effect(self) -> str:
        """`diverged` in some seed; `best`; `worse`, the difference's interval is above zero; else `cannot tell`."""
        if self.diverged:
            return "diverged"
        if self.difference is None:
            return "best"
        return "worse" if self.difference.low is not None and self.difference.low > 0 else "cannot tell"


def t_interval(values: Sequence[float]) -> Interval:
    """Return the mean and its t-interval (Student 1908); one value gives no interval."""
    if not values:
        return Interval(0, None, None, None)
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Interval(1, mean, None, None)
    from scipy import stats

    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(n, mean, mean - half, mean + half)


def validation_losses(log: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """Return the lowest and the last validation loss of a run; None for a run that diverged or was never evaluated.

    The evaluation before the first step is the base model's, not the run's.
    """
    if any(row.get("diverged") for row in log):
        return None, None
    losses = [row["eval_loss"] for row in log if row.get("eval_loss") is not None and row["step"] > 0]
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite or not math.isfinite(losses[-1]):
        return None, None
    return min(finite), losses[-1]


def read(spec: SweepSpec, points: Mapping[str, Mapping[str, Any]], runs: Path) -> tuple[list[Variant], list[str]]:
    """Return a sweep's table and what it says, from the logs below `runs`: MODEL/VARIANT/DATASET/seedN.

    Raises InputError where a log has no validation loss.
    """
    losses: dict[str, dict[int, tuple[float | None, float | None]]] = {variant: {} for variant in points}
    for variant in points:
        for seed in spec.seeds:
            log = runs / spec.model / variant / spec.dataset / f"seed{seed}" / "train_log.jsonl"
            rows = [row for _, row in iter_json_lines(log)]
            if not any(row.get("eval_loss") is not None for row in rows):
                raise InputError(f"{log}: no row with 'eval_loss', expected the log of a training that was evaluated")
            losses[variant][seed] = validation_losses(rows)
    compared = compare(points, losses)
    grid = {key: list(dict.fromkeys(point[key] for point in points.values())) for key in spec.grid}
    return compared, sentences(compared, grid)


def compare(
    parameters: Mapping[str, Mapping[str, Any]],
    losses: Mapping[str, Mapping[int, tuple[float | None, float | None]]],
) -> list[Variant]:
    """Return the variants, the lowest mean of the lowest validation losses first, those that diverged last.

    `parameters` maps a variant to its point of the grid, `losses` to (lowest, last) by seed. A variant of which a seed
    diverged comes behind all that did not: a mean over the seeds that went well would flatter it.
    """

    def lowest(variant: str) -> dict[int, float | None]:
        return {seed: best for seed, (best, _) in losses[variant].items()}

    def order(variant: str) -> tuple[int, float]:
        values = [v for v in lowest(variant).values() if v is not None]
        return len(losses[variant]) - len(values), t_interval(values).mean or 0.0

    ordered = sorted(parameters, key=order)
    reference = lowest(ordered[0])
    rows = []
    for variant in ordered:
        seeds = lowest(variant)
        finals = [last for _, last in losses[variant].values() if last is not None]
        best = t_interval([v for v in seeds.values() if v is not None])
        paired = [v - base for s, v in seeds.items() if v is not None and (base := reference.get(s)) is not None]
        rows.append(
            Variant(
                variant,
                dict(parameters[variant]),
                best,
                t_interval(finals),
                None if variant == ordered[0] or not paired else t_interval(paired),
                sum(v is None for v in seeds.values()),
                seeds,
            )
        )
    return rows


def sentences(rows: Sequence[Variant], grid: Mapping[str, Sequence[Any]]) -> list[str]:
    """Say which variant is best, how sure that is, and what the grid does not show."""
    best = rows[0]
    if best.best.mean is None:
        return ["Every training diverged: none is best."]
    if best.diverged:
        return ["Every variant diverged in some seed: none is best."]
    said = [f"Best: {best.variant}, validation loss {_value(best.best)}, mean of {_seeds(best.best.n)}."]
    if len(rows) > 1 and rows[1].difference and not rows[1].diverged:
        said.append(_runner_up(best, rows[1]))
    level = [
        row.variant
        for row in rows[2:]
        if row.effect == "cannot tell" and row.difference and row.difference.low is not None
    ]
    if level:
        said.append(f"Nor can these be told from the best: {', '.join(level)}.")
    if best.best.n == 1:
        said.append("One seed each: no interval, and a difference may be the seed's. Three seeds or more would tell.")
    elif len(rows) > 2:
        said.append(f"The intervals are not corrected for {len(rows) - 1} comparisons.")
    if any(row.diverged for row in rows):
        said.append(f"Diverged, in some seed at least: {', '.join(row.variant for row in rows if row.diverged)}.")
    said += [_edge(key, values, best.parameters[key]) for key, values in grid.items()]
    said.append(
        "Evaluation and variant were both chosen by these validation rows: on other rows expect the best to lose some "
        "of its lead."
    )
    return [sentence for sentence in said if sentence]


def _runner_up(best: Variant, second: Variant) -> str:
    difference = second.difference
    assert difference and difference.mean is not None
    said = f"Runner-up: {second.variant}, {_value(second.best)}; {_signed(difference.mean)} to the best"
    if difference.low is None or difference.high is None:
        return f"{said}, over one seed that both have: how sure that is, cannot be said."
    said += f" over {_seeds(difference.n)} that both have (95 % interval {_signed(difference.low)} to "
    said += f"{_signed(difference.high)})"
    if second.effect == "worse":
        return f"{said}: worse."
    overlap = second.best.low is not None and best.best.high is not None and second.best.low <= best.best.high
    return f"{said}: it cannot be told from the best{', and their intervals overlap' if overlap else ''}."


def _edge(key: str, values: Sequence[Any], chosen: Any) -> str:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < 2 or len(numbers) < len(values) or chosen not in (min(numbers), max(numbers)):
        return ""
    end = "smallest" if chosen == min(numbers) else "largest"
    return f"{key} {chosen} is the {end} of the grid: what is best may lie beyond."


def to_rows(rows: Sequence[Variant]) -> list[dict[str, Any]]:
    """Return the table as flat rows for CSV."""
    return [
        {
            "variant": row.variant,
            **row.parameters,
            "seeds": len(row.seeds),
            "diverged": row.diverged,
            **_flat("best", row.best),
            **_flat("final", row.final),
            **_flat("difference", row.difference or Interval(0, None, None, None)),
            "effect": row.effect,
        }
        for row in rows
    ]


def to_json(sweep: str, model: str, dataset: str, rows: Sequence[Variant], said: Sequence[str]) -> dict[str, Any]:
    """Return the table with all that figure and report need, as plain data."""
    return {
        "sweep": sweep,
        "model": model,
        "dataset": dataset,
        "sentences": list(said),
        "variants": [{**asdict(row), "effect": row.effect} for row in rows],
    }


def to_markdown(sweep: str, model: str, dataset: str, rows: Sequence[Variant], said: Sequence[str]) -> str:
    """Return the table and its sentences for people."""
    keys = list(rows[0].parameters)
    head = [*keys, "seeds", "lowest validation loss", "last validation loss", "difference to the best"]
    lines = [f"| {' | '.join(head)} |", "|" + "---:|" * len(head)]
    for row in rows:
        cells = [*(str(row.parameters[key]) for key in keys), str(len(row.seeds))]
        cells += [_value(row.best), _value(row.final), _difference(row)]
        if row is rows[0]:
            cells = [f"**{cell}**" for cell in cells]
        lines.append(f"| {' | '.join(cells)} |")
    about = f"{model} on {dataset}. Loss in nats per token; means over seeds with 95 % t-intervals."
    return "\n".join([f"# Sweep {sweep}", "", about, "", *lines, "", *(f"- {s}" for s in said)]) + "\n"


def _difference(row: Variant) -> str:
    if row.difference is None:
        return row.effect
    mean, low, high = row.difference.mean, row.difference.low, row.difference.high
    assert mean is not None
    return _signed(mean) + ("" if low is None or high is None else f" ({_signed(low)} to {_signed(high)})")


def _flat(name: str, interval: Interval) -> dict[str, Any]:
    return {f"{name}_{key}": value for key, value in asdict(interval).items() if key != "n"}


def _value(interval: Interval) -> str:
    if interval.mean is None:
        return "–"
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _seeds(n: int) -> str:
    return "one seed" if n == 1 else f"{n} seeds"
