"""The report's charts, and the rows behind each of them.

A chart is made from plain rows that are also written beside it as CSV, so that a figure can be checked and redrawn.
The SVGs are drawn by vl-convert, which carries Vega and needs no browser and no network. Colours are Okabe and Ito's,
told apart with the common colour blindnesses; an arm has one colour in all of a report.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt
from markupsafe import escape

from tuneproof.study import TEST_SPLITS

Row = dict[str, Any]

# Okabe and Ito (2008) without black and yellow: invisible on a dark and on a white page
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
SPLIT_NAMES = {"test_trained_pages": "trained pages", "test_new_pages": "new pages"}
INK, MUTED, LINE = "#1c1f24", "#5b616b", "#dfe2e7"
# the reader's sans-serif may be wider than the one that vl-convert measures with
PADDING = {"left": 32, "right": 32, "top": 14, "bottom": 14}
FONT = "Helvetica Neue, Helvetica, Arial, sans-serif"


def arm_colours(rows: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """Map arm labels to colours, from (run, mode, arm): by model, base before tunes, so every file agrees."""
    arms = sorted(set(rows), key=lambda r: (r[0].partition("/")[0], not r[0].endswith("/base"), r[0], r[1]))
    labels = list(dict.fromkeys(arm for _, _, arm in arms))
    # past the palette's end the same hues come back lighter: two arms never share a colour up to 21 of them
    return {arm: lighter(PALETTE[i % len(PALETTE)], i // len(PALETTE)) for i, arm in enumerate(labels)}


def lighter(colour: str, times: int) -> str:
    """Return the same hue nearer to white."""
    channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    mixed = [round(c + (255 - c) * min(0.35 * times, 0.7)) for c in channels]
    return "#" + "".join(f"{c:02X}" for c in mixed)


def score_distribution(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Share of answers per score 1..5, by data set, split, judge and arm: the mean of the judge's distributions.

    Of a judge that is asked Yes or No, Yes is 5 and No is 1. An answer whose judge gave a score but no distribution
    counts wholly for the rounded score; one without a score is left out. Shares of an arm add up to 1.
    """
    sums: dict[tuple[str, str, str, str], list[float]] = defaultdict(lambda: [0.0] * 5)
    means: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for row in rows:
        for judge, score in row["scores"].items():
            if score is None:
                continue
            given = _by_score(row.get("distributions", {}).get(judge) or {}, score)
            key = (row["dataset"], row["split"], judge, row["arm"])
            means[key].append(score)
            total = sum(given.values())
            for value, share in given.items():
                sums[key][value - 1] += share / total
    names = ("dataset", "split", "judge", "arm")
    return [
        dict(zip(names, key, strict=True))
        | {
            "score": value,
            "share": round(sums[key][value - 1] / len(means[key]), 4),
            "answers": len(means[key]),
            "mean_score": round(sum(means[key]) / len(means[key]), 4),
        }
        for key in sums
        for value in range(1, 6)
    ]


def _by_score(distribution: Mapping[str, float], score: float) -> dict[int, float]:
    """What a judge gave to each score, by its distribution over replies, or all of it to the score itself."""
    scores = {**{str(value): value for value in range(1, 6)}, "Yes": 5, "No": 1}
    given = {scores[said]: share for said, share in distribution.items() if share and said in scores}
    return given or {min(5, max(1, round(score))): 1.0}


def score_chart(data: Sequence[Row], colours: Mapping[str, str]) -> alt.TopLevelMixin:
    """Bars per score, arms side by side, one panel per judge, data set and split."""
    many = {name: len({r[name] for r in data}) > 1 for name in ("judge", "dataset")}
    answers: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for row in data:
        answers[row["judge"], row["dataset"], row["split"]].add(row["answers"])

    def panel(row: Row) -> str:
        scored = sorted(answers[row["judge"], row["dataset"], row["split"]])
        count = f"{scored[0]} answers" if len(scored) == 1 else f"{scored[0]} to {scored[-1]} answers"
        parts = [f"judge {row['judge']}"] if many["judge"] else []
        parts += [row["dataset"]] if many["dataset"] else []
        return ", ".join([*parts, f"{SPLIT_NAMES.get(row['split'], row['split'])} ({count} an arm)"])

    ordered = sorted(data, key=lambda r: (r["judge"], r["dataset"], _split_order(r["split"])))
    values = [{**row, "panel": panel(row)} for row in ordered]
    arms = [arm for arm in colours if any(r["arm"] == arm for r in data)]
    bars = (
        alt.Chart(alt.InlineData(values=values))
        .mark_bar()
        .encode(
            x=alt.X("score:O", title="score (1 worst, 5 best)", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("arm:N", sort=arms),
            y=alt.Y("share:Q", title="share of answers (%)", axis=alt.Axis(format=".0%", tickCount=5)),
            color=alt.Color(
                "arm:N",
                title=None,
                scale=alt.Scale(domain=arms, range=[colours[a] for a in arms]),
                legend=alt.Legend(orient="bottom", columns=1, labelLimit=0, symbolType="square"),
            ),
        )
        .properties(width=400, height=220)
        .facet(facet=alt.Facet("panel:N", title=None, sort=list(dict.fromkeys(v["panel"] for v in values))), columns=2)
    )
    return styled(bars, _score_title(data))


def _score_title(data: Sequence[Row]) -> list[str]:
    lines = []
    for judge in sorted({r["judge"] for r in data}):
        means = [r["mean_score"] for r in data if r["judge"] == judge]
        lines.append(f"Judge {judge}: the arms' mean scores lie between {min(means):.2f} and {max(means):.2f}")
    return lines or ["No judge gave a score"]


def _split_order(split: str) -> int:
    return TEST_SPLITS.index(split) if split in TEST_SPLITS else len(TEST_SPLITS)


def funnel_steps(funnels: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The steps of each data set's funnel, numbered in the order they were taken."""
    return [
        {"dataset": funnel["dataset"], "order": order, "step": step["step"], "count": step["count"]}
        for funnel in funnels
        for order, step in enumerate(funnel["steps"], 1)
    ]


def funnel_chart(data: Sequence[Row]) -> alt.TopLevelMixin:
    """One bar a step, top to bottom, the count at its end; one panel per data set."""
    datasets = list(dict.fromkeys(r["dataset"] for r in data))
    panels = []
    for dataset in datasets:
        rows = [r for r in data if r["dataset"] == dataset]
        base = alt.Chart(alt.InlineData(values=rows)).encode(
            x=alt.X("count:Q", title="count (documents, chunks, pairs or rows, as named)", axis=alt.Axis(tickCount=6)),
            y=alt.Y("step:N", title=None, sort=[r["step"] for r in rows], axis=alt.Axis(labelLimit=0, ticks=False)),
        )
        bars = base.mark_bar(color=PALETTE[0], height={"band": 0.72})
        counts = base.mark_text(align="left", dx=5, color=INK).encode(text=alt.Text("count:Q", format=","))
        panel = alt.layer(bars, counts).properties(width=620, height={"step": 26})
        panels.append(panel.properties(title=dataset) if len(datasets) > 1 else panel)
    chart = alt.vconcat(*panels) if len(panels) != 1 else panels[0]
    return styled(chart, _funnel_title(data, datasets))


def _funnel_title(data: Sequence[Row], datasets: Sequence[str]) -> list[str]:
    if len(datasets) != 1:
        return [f"From documents to training rows, {len(datasets)} data sets"]
    return [f"From {data[0]['count']:,} {data[0]['step']} to {data[-1]['count']:,} {data[-1]['step']}"]


def styled(chart: Any, title: list[str]) -> alt.TopLevelMixin:
    """Give a chart the report's title, font and colours."""
    drawn: alt.TopLevelMixin = (
        chart.properties(title=alt.Title(title, anchor="start", fontSize=14, fontWeight=600, offset=14, color=INK))
        .configure(font=FONT, background="#ffffff", padding=PADDING, aria=False)
        .configure_view(stroke=None)
        .configure_axis(
            gridColor=LINE,
            domainColor=MUTED,
            tickColor=MUTED,
            labelColor=MUTED,
            titleColor=MUTED,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            titlePadding=8,
        )
        .configure_axisY(domain=False, ticks=False)
        .configure_axisX(grid=False)
        .configure_legend(labelFontSize=12, labelColor=INK)
        .configure_header(labelFontSize=12, labelColor=INK, labelFontWeight="bold", labelAnchor="start")
    )
    return drawn


def to_svg(chart: alt.TopLevelMixin) -> str:
    """Draw a chart with vl-convert; its title is also the drawing's <title>, which screen readers read."""
    stream = io.StringIO()
    chart.save(stream, format="svg")
    title = escape(" ".join(chart.to_dict()["title"]["text"]))
    return stream.getvalue().replace("><", f"><title>{title}</title><", 1)
