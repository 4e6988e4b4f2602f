"""A sweep's figure: validation loss by variant with its intervals, and by each hyper-parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from tuneproof.report.figures import INK, MUTED, PALETTE, styled

Row = dict[str, Any]


def sweep_rows(table: Mapping[str, Any]) -> list[Row]:
    """A row per variant and seed, with the variant's mean and interval, from results/tables/sweep.X.json."""
    return [
        {
            "variant": row["variant"],
            **row["parameters"],
            "seed": int(seed),
            "loss": loss,
            "mean": row["best"]["mean"],
            "low": row["best"]["low"],
            "high": row["best"]["high"],
            "effect": row["effect"],
        }
        for row in table["variants"]
        for seed, loss in row["seeds"].items()
    ]


def sweep_chart(table: Mapping[str, Any], data: Sequence[Row]) -> alt.TopLevelMixin:
    """Variants, the best on top: seeds as rings, mean and interval; below, a panel for each key of the grid."""
    drawn = [row for row in data if row["mean"] is not None]
    if not drawn:
        return styled(alt.Chart(alt.InlineData(values=[{}])).mark_point(opacity=0), ["Every training diverged"])
    keys = [key for key in table["variants"][0]["parameters"] if len({str(row[key]) for row in data}) > 1]
    order = list(dict.fromkeys(row["variant"] for row in drawn))
    names = {row["variant"]: _name(row, keys) for row in drawn}
    values = [{**row, "name": names[row["variant"]]} for row in drawn]
    one = [v for i, v in enumerate(values) if i == 0 or v["variant"] != values[i - 1]["variant"]]
    ordered = [names[variant] for variant in order]
    x = alt.X("mean:Q", title="lowest validation loss (nats per token)", scale=alt.Scale(zero=False, nice=True))
    y = alt.Y("name:N", title=None, sort=ordered, axis=alt.Axis(labelLimit=0, ticks=False, grid=True))
    colour = _effects([row["effect"] for row in one])
    base = alt.Chart(alt.InlineData(values=one)).encode(y=y, color=colour)
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=alt.Scale(zero=False)), x2="high:Q")
    means = base.mark_point(filled=True, size=70, opacity=1).encode(x=x)
    seeds = alt.Chart(alt.InlineData(values=values)).mark_point(size=26, opacity=0.75, color=MUTED, strokeWidth=1)
    rings = seeds.encode(y=y, x=alt.X("loss:Q", scale=alt.Scale(zero=False)))
    top = alt.layer(bars, rings, means).properties(width=620, height={"step": 22})
    panels = [_by_key(one, key, keys) for key in keys]
    chart = alt.vconcat(top, alt.concat(*panels, columns=2, spacing=28), spacing=28) if panels else top
    return styled(chart, [table["sentences"][0].rstrip(".")])


def _by_key(one: Sequence[Row], key: str, keys: Sequence[str]) -> Any:
    """Mean loss by one key's values: a faint line for each combination of the other keys, and their mean."""
    values = [{**row, "others": _name(row, [k for k in keys if k != key]), "value": str(row[key])} for row in one]
    ordered = [str(v) for v in sorted({row[key] for row in one}, key=lambda v: (isinstance(v, str), v))]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("value:O", title=key, sort=ordered, axis=alt.Axis(labelAngle=0, grid=False)),
        y=alt.Y(
            "mean:Q",
            title="lowest validation loss",
            scale=alt.Scale(zero=False, padding=10),
            axis=alt.Axis(tickCount=5),
        ),
    )
    faint = base.mark_line(strokeWidth=1, opacity=0.55, color=MUTED).encode(detail="others:N")
    points = base.mark_point(filled=True, size=30, opacity=1).encode(color=_effects([row["effect"] for row in one]))
    layers = [faint, points]
    if len(keys) > 1:
        average = base.encode(y=alt.Y("mean(mean):Q", scale=alt.Scale(zero=False)))
        layers.insert(1, average.mark_line(strokeWidth=2.5, color=INK))
    return alt.layer(*layers).properties(width=290, height=190)


_COLOURS = {"best": PALETTE[2], "cannot tell": PALETTE[1], "worse": PALETTE[0], "diverged": PALETTE[5]}


def _effects(effects: Sequence[str]) -> alt.Color:
    there = [effect for effect in _COLOURS if effect in effects]
    words = "{'cannot tell': 'cannot be told from the best', 'diverged': 'diverged in some seed'}"
    return alt.Color(
        "effect:N",
        title=None,
        scale=alt.Scale(domain=there, range=[_COLOURS[effect] for effect in there]),
        legend=alt.Legend(
            orient="bottom",
            symbolType="circle",
            labelLimit=0,
            labelExpr=f"{words}[datum.label] || datum.label",
            symbolOpacity=1,
        ),
    )


def _name(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {row[key]}" for key in keys) or str(row["variant"])
