"""The report as one HTML file: everything in it, nothing fetched, readable on paper, on a phone and without script.

The template gets plain values and escapes them all: answers, questions and page addresses are other people's text.
Only the SVGs go in as they are, after a check that they are drawings and nothing else; they come from our own rules.
"""

from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from tuneproof.errors import InputError
from tuneproof.report import verdict
from tuneproof.report.figures import arm_colours
from tuneproof.report.verdict import ScoreRow
from tuneproof.scores.agreement import ALL_ARMS
from tuneproof.study import TEST_SPLITS, Config
from tuneproof.trials.table import footnotes, marked

Row = Mapping[str, Any]

QUESTIONS_SHOWN = 20
FIGURES = ("scores", "loss", "memory", "funnel")


@dataclass(frozen=True)
class Figure:
    """A drawing that is part of the page; `source` is where its file and its data lie."""

    svg: str
    source: str


@dataclass(frozen=True)
class Sources:
    """All that the report is made from, as read from the files."""

    config: Config
    manifest: dict[str, Any]
    scores: list[ScoreRow]
    answers: list[dict[str, Any]]
    figures: dict[str, Figure]
    funnels: list[dict[str, Any]]
    retrieval: list[dict[str, Any]]
    costs: dict[str, list[dict[str, str]]]
    usage: list[dict[str, Any]]
    estimate: dict[str, Any] | None = None
    leaks: list[dict[str, str]] = field(default_factory=list)
    cards: list[dict[str, Any]] = field(default_factory=list)
    agreement: list[dict[str, str]] = field(default_factory=list)
    tunes: list[dict[str, str]] = field(default_factory=list)
    trials: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, str]] = field(default_factory=list)
    sweeps: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Line:
    """One arm's row in a table of scores; `low`, `high` and `at` place the interval on the metric's scale, in %."""

    score: ScoreRow
    colour: str
    low: float | None
    high: float | None
    at: float | None

    @property
    def clear(self) -> bool:
        """Whether the difference to the base counts: it was tested, and holds after Holm's correction."""
        return self.score.p_holm is not None and self.score.effect in ("above", "below")

    @property
    def clear_of_retrieval(self) -> bool:
        """The same of the difference to retrieval."""
        return self.score.rag_p_holm is not None and self.score.against_retrieval in ("above", "below")


@dataclass(frozen=True)
class Metric:
    """The rows of one metric, with the ends of its scale; `marked` is a judge's that beat no metric on trial."""

    name: str
    low: float
    high: float
    lines: list[Line]
    marked: bool = False


@dataclass(frozen=True)
class Table:
    """All metrics of one data set's test set."""

    dataset: str
    split: str
    metrics: list[Metric]


@dataclass(frozen=True)
class Cost:
    """What a rule cost, over its jobs; None where Snakemake measured nothing."""

    rule: str
    jobs: int
    seconds: float
    cpu_seconds: float | None
    peak_mb: float | None


def render(template: str, sources: Sources) -> str:
    """Fill the template."""
    colours = score_colours(sources.scores)
    colours |= {k: v for k, v in arm_colours(map(_arm_of, sources.answers)).items() if k not in colours}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "signed": verdict.signed,
        "plain": plain,
        "duration": duration,
        "dollars": dollars,
        "link": link,
        "percent": percent,
        "loss": loss,
        "p_value": verdict.p_value,
    }
    costs = cost_table(sources.costs)
    return environment.from_string(template).render(
        config=sources.config,
        manifest=sources.manifest,
        config_json=json.dumps(sources.config.model_dump(mode="json"), indent=2, ensure_ascii=False),
        verdict=verdict.judge(sources.scores),
        rules=verdict.RULES,
        tables=score_tables(sources.scores, colours),
        tunes=tune_lines(sources.tunes, sources.scores),
        colours=colours,
        figures={name: inline_svg(f.svg, name) for name, f in sources.figures.items()},
        figure_sources={name: f.source for name, f in sources.figures.items()},
        funnels=sources.funnels,
        retrieval=retrieval_lines(sources.retrieval),
        retrievers=retriever_lines(sources.retrieval),
        questions=pick_questions(sources.answers, QUESTIONS_SHOWN, list(colours)),
        leaks=leak_lines(sources.leaks),
        cards=sources.cards,
        agreement=agreement_lines(sources.agreement),
        marked={judge for judge, mark in marked(sources.trials).items() if mark},
        marks=[mark for judge, mark in footnotes(sources.trials).items() if judge in sources.config.study.judges],
        runs=run_lines(sources.runs),
        sweeps=sources.sweeps,
        costs=costs,
        total=total_cost(costs),
        usage=usage_table(sources.usage),
        estimate=estimate_table(sources.estimate, usage_table(sources.usage), costs),
    )


def score_colours(scores: Sequence[ScoreRow]) -> dict[str, str]:
    """Map arm labels to the figures' colours; a row over seeds has that of the first of them, and comes last."""
    colours = arm_colours((r.run, r.mode, r.arm) for r in scores if r.seeds == 1)
    for pooled in (r for r in scores if r.seeds > 1):
        seeds = [r.arm for r in scores if r.run.startswith(f"{pooled.run}/seed") and r.mode == pooled.mode]
        colours.setdefault(pooled.arm, colours[seeds[0]])
    return colours


def _arm_of(row: Row) -> tuple[str, str, str]:
    return row["run"], row["mode"], row["arm"]


_METRICS = {
    "fact_recall": ("Facts recalled (0 to 1)", 0.0, 1.0),
    "trained_fact_recall": ("Facts recalled that a training row states (0 to 1)", 0.0, 1.0),
    "accuracy": ("The right product is named (0 to 1)", 0.0, 1.0),
    "rouge_1": ("ROUGE-1 (0 to 1)", 0.0, 1.0),
    "rouge_2": ("ROUGE-2 (0 to 1)", 0.0, 1.0),
    "rouge_l": ("ROUGE-L (0 to 1)", 0.0, 1.0),
    "rouge_lsum": ("ROUGE-Lsum (0 to 1)", 0.0, 1.0),
    "bertscore": ("BERTScore F (0 to 1)", 0.0, 1.0),
    "refused": ("Answers that decline (0 to 1)", 0.0, 1.0),
}


def score_tables(scores: Sequence[ScoreRow], colours: Mapping[str, str]) -> list[Table]:
    """Group the rows by data set and split, then by metric; trained pages first, facts before judges before ROUGE.

    Precision, recall, other references and lengths are for scores.csv and the studies' tables.
    """
    groups: dict[tuple[str, str], dict[str, list[ScoreRow]]] = defaultdict(lambda: defaultdict(list))
    for row in scores:
        if row.metric in _METRICS or row.metric.startswith("judge:"):
            groups[row.dataset, row.split][row.metric].append(row)
    known = [key for dataset in dict.fromkeys(r.dataset for r in scores) for key in ((dataset, s) for s in TEST_SPLITS)]
    order = {"fact_recall": 0, "trained_fact_recall": 1, "accuracy": 1, **dict.fromkeys(list(_METRICS)[3:], 3)}
    arms = list(colours)
    return [
        Table(
            *key,
            [
                _metric(name, sorted(rows, key=lambda r: arms.index(r.arm)), colours)
                for name, rows in sorted(groups[key].items(), key=lambda item: order.get(item[0], 2))
                if any(r.mean is not None for r in rows)
            ],
        )
        for key in known
        if key in groups
    ]


def _metric(metric: str, rows: Sequence[ScoreRow], colours: Mapping[str, str]) -> Metric:
    name, low, high = _title(metric)

    def place(value: float | None) -> float | None:
        return None if value is None else round(min(100.0, max(0.0, 100 * (value - low) / (high - low))), 2)

    lines = [Line(r, colours[r.arm], place(r.ci_low), place(r.ci_high), place(r.mean)) for r in rows]
    return Metric(name, low, high, lines, any(r.marked for r in rows))


def _title(metric: str) -> tuple[str, float, float]:
    return _METRICS.get(metric, (f"Judge {metric.removeprefix('judge:')} (1 to 5)", 1.0, 5.0))


def tune_lines(tunes: Iterable[Mapping[str, str]], scores: Sequence[ScoreRow]) -> list[dict[str, Any]]:
    """What tunes less tunes are by the metric of the verdict and by the judges, numbers as numbers, None where empty.

    Asked closed book, unless there is nothing else; the other modes and metrics are in the table.
    """
    numbers = ("diff", "diff_low", "diff_high", "diff_worst", "diff_best", "p_holm", "detectable")
    lines: list[dict[str, Any]] = [
        {**row, **{key: float(row[key]) if row[key] else None for key in numbers}, "title": _title(row["metric"])[0]}
        for row in tunes
        if row["metric"] == verdict.choose_metric(scores, row["dataset"]) or row["metric"].startswith("judge:")
    ]
    for line in lines:
        line["effect"] = verdict.effect_of(line["diff_low"], line["diff_high"], line["p_holm"])
    return [line for line in lines if line["mode"] == "closed"] or lines


def pick_questions(rows: Sequence[Row], count: int, arms: Sequence[str]) -> list[dict[str, Any]]:
    """Choose questions by the hash of their ids, half per split, and gather every arm's answer to each.

    A hash, so that neither a person nor the alphabet picks what is shown, and a rerun shows the same ones. Where one
    split has too few questions, the other fills up.
    """
    questions: dict[str, dict[tuple[str, str], list[Row]]] = {split: defaultdict(list) for split in TEST_SPLITS}
    for row in rows:
        if row["split"] in questions:
            questions[row["split"]][row["dataset"], row["example_id"]].append(row)
    queues = [sorted(q.items(), key=lambda item: _hash(*item[0])) for q in questions.values()]
    shares = _halves([len(q) for q in queues], count)
    return [
        {key: answers[0][key] for key in _QUESTION} | {"answers": sorted(answers, key=lambda a: arms.index(a["arm"]))}
        for queue, share in zip(queues, shares, strict=True)
        for _, answers in queue[:share]
    ]


_QUESTION = ("dataset", "split", "example_id", "question", "reference", "url", "group")


def _halves(available: Sequence[int], count: int) -> tuple[int, int]:
    first = min(available[0], max(count - count // 2, count - available[1]))
    return first, min(available[1], count - first)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def retrieval_lines(files: Iterable[Row]) -> list[dict[str, Any]]:
    """How often the chunk a question was written from is among the top k, with Wilson's 95 % interval."""
    return [
        {
            "dataset": file["dataset"],
            "split": split,
            "top_k": file["top_k"],
            "questions": counts["questions"],
            "found": counts["source_found"],
            "interval": wilson(counts["source_found"], counts["questions"]),
        }
        for file in files
        for split, counts in file["splits"].items()
    ]


def retriever_lines(files: Iterable[Row]) -> list[dict[str, Any]]:
    """Each data set's retrievers over all of its questions, with a sentence that compares them with the first."""
    tables = []
    for file in files:
        rows = [row for row in file["retrievers"] if row["group"] is None]
        first, *others = (row["retriever"] for row in rows)
        said = [
            f"{row['retriever']} {_EFFECT[_sign(row['gain'])]} {first} (mean reciprocal rank "
            f"{verdict.signed(row['gain']['mean'])}{_interval(row['gain'])})"
            for row in rows
            if row["gain"]
        ]
        tables.append({**file, "rows": rows, "sentence": "; ".join(said) if others else ""})
    return tables


_EFFECT = {1: "finds the source further up than", 0: "cannot be told from", -1: "finds the source further down than"}


def _sign(gain: Row) -> int:
    """1 or -1 where the interval of a difference excludes zero."""
    if gain["low"] is None:
        return 0
    return int(gain["low"] > 0) - int(gain["high"] < 0)


def _interval(gain: Row) -> str:
    if gain["low"] is None:
        return ""
    return f", 95\u00a0% interval {verdict.signed(gain['low'])} to {verdict.signed(gain['high'])}"


def wilson(hits: int, n: int) -> tuple[float, float] | None:
    """Wilson's score interval at 95 % (Wilson 1927); None for no trials. It stays sound at 0 and at n hits."""
    from scipy.stats import binomtest

    if n == 0:
        return None
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def leak_lines(cells: Iterable[Mapping[str, str]]) -> list[dict[str, Any]]:
    """For each test set, the training set that holds the most of it: rows, and how many each kind of likeness finds."""
    worst: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in cells:
        line = {
            **{key: cell[key] for key in ("train", "test", "split")},
            **{key: int(cell[key]) for key in ("rows", "leaked", "question_exact")},
            "question_near": max(int(cell["question_minhash"]), int(cell["question_embedding"])),
            "answer": max(int(cell[key]) for key in cell if key.startswith("answer_")),
        }
        key = cell["test"], cell["split"]
        if line["rows"] and (key not in worst or _held(line) > _held(worst[key])):
            worst[key] = line
    return list(worst.values())


def _held(line: Mapping[str, Any]) -> tuple[int, int]:
    return line["leaked"], line["question_near"] + line["answer"]


def agreement_lines(rows: Iterable[Mapping[str, str]]) -> list[dict[str, Any]]:
    """How far judges agree over all arms, numbers as numbers, None where a cell is empty; arms are in the table."""
    words = ("dataset", "split", "judges", "measure")
    return [
        {k: row[k] for k in words}
        | {k: float(row[k]) if row[k] else None for k in ("n", "missing", "value", "ci_low", "ci_high")}
        for row in rows
        if row["arm"] == ALL_ARMS
    ]


def run_lines(rows: Iterable[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Each training's row with its numbers as numbers, None where a cell is empty."""
    words = ("run", "memory_of")
    return [{k: v if k in words else float(v) if v else None for k, v in row.items()} for row in rows]


def cost_table(files: Mapping[str, Sequence[Mapping[str, str]]]) -> list[Cost]:
    """Sum Snakemake's benchmark files by rule, from {file name: rows}; the dearest rule first.

    A file's path begins with its rule: train.X.seed1.tsv, answer/X/base/Y.tsv.
    """
    rows: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for name, lines in files.items():
        rows[re.split(r"[./]", name)[0]] += lines
    costs = [
        Cost(
            rule,
            len(lines),
            sum(_numbers(lines, "s")),
            sum(_numbers(lines, "cpu_time")) if _numbers(lines, "cpu_time") else None,
            max(_numbers(lines, "max_rss"), default=None),
        )
        for rule, lines in rows.items()
    ]
    return sorted(costs, key=lambda c: (-c.seconds, c.rule))


def _numbers(lines: Iterable[Mapping[str, str]], column: str) -> list[float]:
    # Snakemake writes "-" or "NA" for a job that ended before it was measured
    return [float(line[column]) for line in lines if re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", line.get(column) or "")]


def total_cost(costs: Sequence[Cost]) -> Cost:
    """Sum seconds and jobs; the peak is the highest of them, since jobs need not run at once."""
    return Cost(
        "total",
        sum(c.jobs for c in costs),
        sum(c.seconds for c in costs),
        sum(c.cpu_seconds for c in costs if c.cpu_seconds is not None),
        max((c.peak_mb for c in costs if c.peak_mb is not None), default=None),
    )


def usage_table(files: Iterable[Row]) -> list[dict[str, Any]]:
    """Calls, tokens and dollars by stage and LLM; the dollars are None where an LLM has no price."""
    sums: dict[tuple[str, str], dict[str, float | None]] = {}
    for file in files:
        line = sums.setdefault((file["stage"], file["llm"]), dict.fromkeys(_USAGE, 0))
        for name in _USAGE:
            line[name] = _sum(line[name], file.get(name, 0))
    return [{"stage": stage, "llm": llm, **line} for (stage, llm), line in sums.items()]


def _sum(a: float | None, b: float | None) -> float | None:
    """The sum, None where one of the two is not known."""
    return None if a is None or b is None else a + b


_USAGE = ("calls", "prompt_tokens", "completion_tokens", "dollars", "repairs", "unusable")


def estimate_table(
    estimate: Row | None, usage: Sequence[Mapping[str, Any]], costs: Sequence[Cost]
) -> list[dict[str, Any]]:
    """Expected against actual by rule: calls, tokens, dollars, hours; each a pair, None where it is not known."""
    actual: dict[str, dict[str, Any]] = defaultdict(lambda: dict.fromkeys(("calls", "tokens", "dollars"), 0))
    for line in usage:
        # a stage begins with its rule's name in words: "judge qwen", "write pairs"
        rule = next((r for r in _CALLING if line["stage"].startswith(r.replace("_", " "))), None)
        if rule:
            actual[rule]["calls"] += line["calls"]
            actual[rule]["tokens"] += line["prompt_tokens"] + line["completion_tokens"]
            actual[rule]["dollars"] = _sum(actual[rule]["dollars"], line["dollars"])
    hours = {cost.rule: cost.seconds / 3600 for cost in costs}
    return [
        {
            "rule": line["rule"],
            "calls": (line["calls"], actual[line["rule"]]["calls"]),
            "tokens": (line["tokens_in"] + line["tokens_out"], actual[line["rule"]]["tokens"]),
            "dollars": (line["dollars"], actual[line["rule"]]["dollars"]),
            "hours": (line["hours"], hours.get(line["rule"])),
        }
        for line in (estimate or {"lines": []})["lines"]
        if line["calls"] or line["rule"] in hours
    ]


_CALLING = ("write_pairs", "rephrase_questions", "answer", "judge", "try_judge", "compare")


def plain(value: float | None) -> str:
    """Two decimals with a true minus, a dash where there is no value."""
    return "–" if value is None else f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def loss(value: float | None) -> str:
    """Four decimals: variants of a sweep differ in the third."""
    return "–" if value is None else f"{value:.4f}"


def dollars(value: float | None) -> str:
    """Four decimals, a dash where no price is known."""
    return "–" if value is None else f"{value:.4f}"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def percent(share: float) -> str:
    """`85 %`, with a space that does not break."""
    return f"{100 * share:.0f}\u00a0%"


def link(url: str) -> Markup:
    """A link to a page of the corpus; an address that is no web address stays text (`javascript:` would run)."""
    if re.match(r"https?://", url):
        return Markup('<a href="{0}" rel="noreferrer">{0}</a>').format(url)
    return escape(url)


def inline_svg(svg: str, name: str) -> Markup:
    """Check that an SVG only draws, and make it part of the page: its ids get a prefix, its title becomes the label."""
    root = _parsed(svg, name)
    for element in root.iter():
        tag = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
        active = [a for a in element.attrib if a.rpartition("}")[2].lower() == "href" or a.lower().startswith("on")]
        if tag.lower() in ("script", "foreignobject", "style", "image") or active:
            raise InputError(f"figure {name}: <{tag}> {' '.join(active)}".rstrip() + ", expected a drawing and no more")
    body = svg[svg.index("<svg") :]
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    width, height = root.get("width", "700"), root.get("height", "300")
    view = root.get("viewBox") or f"0 0 {width} {height}"
    opening = Markup('<svg viewBox="{}" style="--width:{}px" role="img" aria-label="{}">').format(
        view, width, svg_title(svg) or name
    )
    # the label says it already; a <title> in a page would also pop up under the mouse everywhere
    return opening + Markup(re.sub(r"^<svg[^>]*>(<title>[^<]*</title>)?", "", body))


def svg_title(svg: str) -> str:
    """The drawing's <title>: what it shows, for those who cannot see it."""
    return ET.fromstring(svg).findtext("{http://www.w3.org/2000/svg}title") or ""


def _parsed(svg: str, name: str) -> ET.Element:
    try:
        root = ET.fromstring(svg)
    except ET.ParseError as error:
        raise InputError(f"figure {name}: {error}, expected an SVG") from None
    if root.tag.rpartition("}")[2] != "svg":
        raise InputError(f"figure {name}: <{root.tag}>, expected an SVG")
    return root
