"""The report says what the table says: the verdict's words, the page's sections, and nothing that could run."""

import csv
import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tuneproof.errors import InputError
from tuneproof.report import figures, page, training
from tuneproof.report.verdict import RULES, ScoreRow, Verdict, choose_metric, judge, parse_scores, signed
from tuneproof.study import load
from tuneproof.tables import to_csv

ROOT = Path(__file__).parents[2]
MANIFEST = {
    "revision": "0123456789abcdef-dirty",
    "deployment": "apptainer",
    "images": {"containers/cpu.sif": {"sha256": "feedc0de" * 8}},
    "locks": {"envs/cpu.lock": "ab" * 32},
}
TEMPLATE = ROOT / "report" / "report.html.j2"
TRAINED, NEW = "test_trained_pages", "test_new_pages"
ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>"

Interval = tuple[float, float]


def score(run: str, mode: str, split: str, mean: float | None, ci: Interval | None = None, **other: Any) -> ScoreRow:
    """A row whose difference to the base has the interval `ci` around its middle."""
    low, high = ci or (None, None)
    row: dict[str, Any] = {
        "split": split,
        "arm": f"{run} {mode}",
        "run": run,
        "mode": mode,
        "dataset": "d",
        "metric": "fact_recall",
        "n": 40,
        "missing": 0,
        "mean": mean,
        "sd": 0.1,
        "ci_low": mean,
        "ci_high": mean,
        "base_run": "m/base" if ci else "",
        "base_mode": "closed" if ci else "",
        "diff": (low + high) / 2 if ci and low is not None and high is not None else None,
        "diff_low": low,
        "diff_high": high,
        "seeds": 1,
    }
    return ScoreRow(**{**row, **other})


def study(
    tune: Interval | None,
    retrieval: Interval | None,
    split: str = TRAINED,
    less: Interval | None = None,
    p: tuple[float, float] | None = None,
    **other: Any,
) -> list[ScoreRow]:
    """One tune and, if its interval is given, retrieval, on one split.

    `less` is the interval of the tune less retrieval, `p` are the tune's after Holm: to the base and to retrieval.
    """
    against: dict[str, Any] = dict(zip(("p_holm", "rag_p_holm"), p, strict=True)) if p else {}
    if less:
        against |= {"rag_diff": sum(less) / 2, "rag_diff_low": less[0], "rag_diff_high": less[1]}
    rows = [
        score("m/base", "closed", split, 0.03, **other),
        score("m/lora/d/seed1", "closed", split, 0.6, tune, **against, **other),
    ]
    return rows + ([score("m/base", "rag", split, 0.8, retrieval, **other)] if retrieval else [])


@pytest.mark.parametrize(
    ("tune", "retrieval", "less", "word"),
    [
        ((0.5, 0.6), (0.1, 0.4), (0.2, 0.4), "tune"),
        ((0.1, 0.4), (0.5, 0.6), (-0.4, -0.2), "retrieval"),
        ((0.1, 0.5), (0.2, 0.6), (-0.2, -0.1), "retrieval"),  # both intervals overlap, their difference is clear
        ((0.5, 0.6), (0.1, 0.4), (-0.1, 0.5), "either"),
        ((0.1, 0.5), (0.4, 0.6), None, "either"),
        ((0.1, 0.4), (-0.1, 0.2), (0.1, 0.2), "tune"),
        ((0.1, 0.4), None, None, "tune"),
        ((-0.1, 0.4), (0.1, 0.2), (-0.1, 0.2), "retrieval"),
        ((-0.4, -0.1), (0.1, 0.2), (-0.6, -0.2), "retrieval"),
        ((-0.1, 0.4), (-0.1, 0.2), (-0.2, 0.2), "cannot tell"),
        ((0.0, 0.4), (-0.2, -0.1), None, "cannot tell"),  # an interval that ends at zero includes it
        ((-0.4, -0.1), (-0.2, -0.1), (-0.2, 0.1), "neither"),
        ((-0.4, -0.1), None, None, "neither"),
        (None, None, None, "cannot tell"),
    ],
)
def test_word_follows_the_rules(
    tune: Interval | None, retrieval: Interval | None, less: Interval | None, word: str
) -> None:
    (answer,) = judge(study(tune, retrieval, less=less)).answers
    assert (answer.split, answer.word) == (TRAINED, word)
    assert any(word in said for _, said in RULES)


@pytest.mark.parametrize(
    ("p", "word"), [((0.01, 0.01), "tune"), ((0.01, 0.2), "either"), ((0.2, 0.01), "retrieval"), ((0.05, 0.05), "tune")]
)
def test_a_difference_that_holm_does_not_let_pass_counts_for_nothing(p: tuple[float, float], word: str) -> None:
    verdict = judge(study((0.5, 0.6), (0.1, 0.4), less=(0.2, 0.4), p=p))
    assert verdict.answers[0].word == word
    assert ("p 0.200 after Holm: the data cannot tell" in verdict.evidence[0]) == (0.2 in p)


def test_the_row_over_all_seeds_speaks_for_them() -> None:
    rows = study((0.1, 0.3), (0.1, 0.4))
    rows.append(score("m/lora/d/seed2", "closed", TRAINED, 0.5, (-0.1, 0.3)))
    rows.append(score("m/lora/d", "closed", TRAINED, 0.55, (0.2, 0.3), seeds=3))
    verdict = judge(rows)
    assert verdict.tunes == len(verdict.evidence) == 1
    assert "the tune recalls 0.55 of the facts" in verdict.evidence[0]
    assert not any("a single training" in caveat for caveat in verdict.caveats)


def test_missing_scores_are_bounded() -> None:
    rows = study((0.1, 0.2), None, metric="judge:b", missing=3, mean_worst=2.9, mean_best=3.2)
    rows = [replace(row, mean=3.0) for row in rows]
    assert "no mean would change by more than 0.20" in " ".join(judge(rows).caveats)


def test_a_mean_over_seeds_may_lie_beyond_its_bounds() -> None:
    rows = study((0.1, 0.2), None, metric="judge:b", missing=3, mean_worst=3.67, mean_best=4.11)
    rows = [replace(row, mean=5.0) for row in rows]
    assert "no mean would change by more than 1.33" in " ".join(judge(rows).caveats)


def test_sentence_gives_means_differences_and_intervals() -> None:
    verdict = judge(
        study((0.47, 0.71), (0.72, 0.92), less=(-0.4, -0.1), p=(0.0001, 0.034))
        + study((-0.05, 0.03), (0.6, 0.8), NEW, less=(-0.9, -0.5))
    )
    assert verdict.evidence == [
        "On pages it was trained on, the tune recalls 0.60 of the facts against 0.03 for the base model "
        "(difference +0.59, 95 % interval +0.47 to +0.71, p < 0.001 after Holm); retrieval recalls 0.80 of the facts "
        "(+0.82, 95 % interval +0.72 to +0.92). Tune less retrieval: −0.25, 95 % interval −0.40 to −0.10, "
        "p 0.034 after Holm.",
        "On pages it never saw, the tune recalls 0.60 of the facts against 0.03 for the base model "
        "(difference −0.01, 95 % interval −0.05 to +0.03: the data cannot tell); "
        "retrieval recalls 0.80 of the facts (+0.70, 95 % interval +0.60 to +0.80). "
        "Tune less retrieval: −0.70, 95 % interval −0.90 to −0.50.",
    ]
    assert [a.word for a in verdict.answers] == ["retrieval", "retrieval"]
    assert verdict.answers[0].reason == (
        "tune and retrieval both do better than the base model, and retrieval does better than the tune"
    )
    assert verdict.answers[1].reason == (
        "the tune cannot be told from the base model; retrieval does better than the base model"
    )


def test_a_tune_that_does_worse_is_said_to() -> None:
    (answer,) = judge(study((-0.4, -0.1), None)).answers
    assert answer.reason == "the tune does worse than the base model; retrieval was not compared"


def test_metric_is_facts_then_first_judge_then_rouge() -> None:
    facts = study((0.1, 0.2), None)
    judges = study((0.1, 0.2), None, metric="judge:b") + study((0.1, 0.2), None, metric="judge:a")
    rouge = study((0.1, 0.2), None, metric="rouge_l")
    none = [score("m/lora/d/seed1", "closed", TRAINED, None, n=0)]  # a corpus without a table of facts
    assert choose_metric(rouge + judges + facts, "d") == "fact_recall"
    assert choose_metric(none + rouge + judges, "d") == "judge:b"
    assert choose_metric(none + rouge, "d") == "rouge_l"
    products = study((0.1, 0.2), None, metric="accuracy")
    assert choose_metric(products + rouge + judges, "d") == "accuracy", "of a list of products"
    elsewhere = study((0.1, 0.2), None, split=NEW, metric="judge:b")
    assert choose_metric(facts + judges + elsewhere, "d") == "judge:b", "facts say nothing of one of the test sets"
    assert "scores 0.60 of 5" in judge(none + judges).evidence[0]
    assert judge(judges).caveats[0] == "Measured by: score by judge b, 1 to 5."
    assert "the tune names the right product in 0.60 of the cases" in judge(products).evidence[0]


def test_several_runs_get_one_sentence_each() -> None:
    rows = [score("m/base", "closed", s, 0.0) for s in (TRAINED, NEW)]
    rows += [score("m/lora/d/seed1", "closed", s, 0.6, (0.5, 0.7)) for s in (TRAINED, NEW)]
    rows += [score("m/lora/d/seed2", "closed", s, 0.1, (-0.1, 0.3)) for s in (TRAINED, NEW)]
    rows += [score("m/lora/d/seed2", "rag", s, 0.9, (0.8, 0.95)) for s in (TRAINED, NEW)]  # stands in the table only
    verdict = judge(rows)
    assert verdict.tunes == len(verdict.evidence) == 2
    assert verdict.evidence[0] == (
        "m/lora/d/seed1 closed (share of facts recalled): trained pages 0.60 against 0.00 "
        "(+0.60, 95 % interval +0.50 to +0.70); new pages 0.60 against 0.00 (+0.60, 95 % interval +0.50 to +0.70)."
    )
    assert [a.word for a in verdict.answers] == ["depends on the run"] * 2
    assert verdict.answers[0].reason == "the rules say: tune for 1 of 2, cannot tell for 1 of 2"
    assert any("of a single training" in c for c in verdict.caveats), "two seeds are two trainings, not a row of both"


def test_caveats_name_few_questions_one_seed_and_missing() -> None:
    text = " ".join(judge(study((0.1, 0.2), (0.1, 0.2), n=24, missing=3)).caveats)
    assert "rests on 24 questions" in text and "a single training" in text and "Up to 3 answers" in text


def test_no_tune_no_answer() -> None:
    assert judge([score("m/base", "closed", TRAINED, 0.1)]) == Verdict(
        0, [], [], ["No tuned run has a score, so there is nothing to compare."]
    )


def test_signed() -> None:
    assert [signed(v) for v in (0.594, -0.05, 0.0, -0.001)] == ["+0.59", "−0.05", "0.00", "0.00"]


def test_scores_are_parsed_and_a_wrong_cell_is_named() -> None:
    (row,) = parse_scores([to_cells(score("m/base", "closed", TRAINED, 0.25))], "scores.csv")
    assert (row.n, row.mean, row.diff, row.tuned, row.model) == (40, 0.25, None, False, "m")
    (tune,) = parse_scores([to_cells(study((0.1, 0.2), None, less=(0.1, 0.3), p=(0.01, 0.02))[1])], "scores.csv")
    assert (tune.seeds, tune.p_holm, tune.rag_diff, tune.rag_p_holm) == (1, 0.01, 0.2, 0.02)
    with pytest.raises(InputError, match=r"scores.csv line 2: mean is 'x', expected a number"):
        parse_scores([to_cells(row) | {"mean": "x"}], "scores.csv")
    with pytest.raises(InputError, match=r"scores.csv line 2: no column 'split'"):
        parse_scores([{"arm": "a"}], "scores.csv")


def to_cells(row: ScoreRow) -> dict[str, str]:
    return {k: "" if v is None else str(v) for k, v in vars(row).items()}


ARMS = (("m/base", "closed"), ("m/base", "rag"), ("m/lora/d/seed1", "closed"))


def answers(count: int = 30) -> list[dict[str, Any]]:
    return [
        {
            "dataset": "d", "split": split, "example_id": f"{split}{i}", "question": f"Question {i} of {split}?",
            "reference": "It is 6.3 MW.", "url": "http://www.haldrune.test/a.html", "group": "metros",
            "arm": f"{run} {mode}", "run": run, "mode": mode, "answer": ATTACK, "stopped": True, "rouge_l": 0.5,
            "facts": 2, "facts_recalled": 1, "trained_facts": 0, "trained_facts_recalled": 0,
            "scores": {"qwen": 4.0 if i % 2 else 2.0}, "distributions": {"qwen": {"2": 0.5, "4": 0.5}},
            "context_urls": [], "context_hit": True if mode == "rag" else None,
        }
        for split in (TRAINED, NEW) for i in range(count) for run, mode in ARMS
    ]  # fmt: skip


FUNNEL = {
    "dataset": "d",
    "steps": [{"step": "documents fetched", "count": 47}, {"step": "training rows", "count": 318}],
    "dropped": {"quote is not in the text": 12},
    "splits": {"train": 318},
}


def retriever(name: str, mean: float, gain: Interval | None, group: str | None = None) -> dict[str, Any]:
    """A row of retrieval.json with one metric; the interval of its difference to the first retriever."""
    metric = {"n": 48, "mean": mean, "sd": 0.3, "low": mean - 0.1, "high": mean + 0.1}
    difference = gain and {"n": 48, "mean": sum(gain) / 2, "sd": 0.3, "low": gain[0], "high": gain[1]}
    return {"retriever": name, "group": group, "pages": 9, "metrics": {"recall@1": metric}, "gain": difference}


RETRIEVERS = [
    retriever("dense", 0.61, None),
    retriever("bm25", 0.58, (-0.05, 0.01)),
    retriever("fused", 0.72, (0.02, 0.12)),
    retriever("dense", 0.99, None, "metros"),
]
LOG = [
    {"step": 1, "epoch": 0.5, "loss": 2.0, "learning_rate": 1e-3, "grad_norm": 1.0},
    {"step": 2, "epoch": 1.0, "eval_loss": 1.5},
    {"step": 3, "epoch": 1.5, "eval_loss": 1.7},
]
TELEMETRY = [
    {"step": 1, "seconds": 2.0, "tokens_per_second": 1234.0, "memory_mb": 900.0, "mfu": None},
    {"step": 2, "seconds": 4.0, "tokens_per_second": 1234.0, "memory_mb": 4321.0, "mfu": None},
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a small study, as earlier stages leave them."""
    folder = tmp_path_factory.mktemp("study")
    config = load(yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8")))
    (folder / "study.json").write_text(json.dumps(config.model_dump(mode="json")))
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    rows = study((0.47, 0.71), (0.72, 0.92), less=(-0.4, -0.1), p=(0.0001, 0.034), detectable=0.17)
    rows += study((-0.05, 0.03), (0.6, 0.8), NEW)
    (folder / "scores.csv").write_text(to_csv([to_cells(r) for r in rows]))
    (folder / "rows.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers()))
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in LOG))
    (folder / "telemetry.jsonl").write_text("".join(json.dumps(r) + "\n" for r in TELEMETRY))
    (folder / "runs.csv").write_text(to_csv(training.run_table({"m/lora/d/seed1": LOG}, {"m/lora/d/seed1": TELEMETRY})))
    (folder / "funnel.json").write_text(json.dumps(FUNNEL))
    found = {"questions": 24, "source_found": 19}
    retrieval = {"dataset": "d", "top_k": 2, "retriever": "dense", "splits": {NEW: found}, "chunks": 1234}
    (folder / "retrieval.json").write_text(json.dumps({**retrieval, "retrievers": RETRIEVERS}))
    for name, cells in {"train.m.lora.d.seed1": "90.5\t2048.0\t120.5", "train.m2": "9.5\t-\tNA"}.items():
        (folder / f"{name}.tsv").write_text(f"s\tmax_rss\tcpu_time\n{cells}\n")
    usage = {"stage": "write pairs", "llm": "qwen", "calls": 52, "prompt_tokens": 41000, "completion_tokens": 18200}
    (folder / "pairs.usage.json").write_text(json.dumps(usage))
    line = {"rule": "write_pairs", "calls": 50, "tokens_in": 40000, "tokens_out": 20000, "dollars": None, "hours": 0.1}
    (folder / "estimate.json").write_text(json.dumps({"study": "haldrune", "lines": [line]}))
    (folder / "other.json").write_text(json.dumps({"study": "another", "lines": [line]}))
    return folder


def script(name: str, *args: object) -> None:
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def drawn(inputs: Path) -> Path:
    """The folder of figures, drawn by their scripts."""
    out = inputs / "figures"
    for name, args in {
        "scores": ("--rows", inputs / "rows.jsonl"),
        "loss": ("--log", inputs / "log.jsonl", "--run", "m/lora/d/seed1"),
        "memory": ("--telemetry", inputs / "telemetry.jsonl", "--run", "m/lora/d/seed1"),
        "funnel": ("--funnel", inputs / "funnel.json"),
    }.items():
        script(f"plot_{name}.py", *args, "--out", out / f"{name}.svg", "--data", out / f"{name}.csv")
    return out


def write(inputs: Path, drawn: Path, estimate: str) -> str:
    """Write the page by its script."""
    script(
        "write_report.py", "--config", inputs / "study.json", "--manifest", inputs / "manifest.json",
        "--scores", inputs / "scores.csv",
        "--rows", inputs / "rows.jsonl", "--figure", *(f"{n}={drawn / n}.svg" for n in page.FIGURES),
        "--funnel", inputs / "funnel.json", "--retrieval", inputs / "retrieval.json", "--cost", *inputs.glob("*.tsv"),
        "--usage", inputs / "pairs.usage.json", "--estimate", inputs / estimate,
        "--runs", inputs / "runs.csv", "--template", TEMPLATE, "--out", inputs / "report.html",
    )  # fmt: skip
    return (inputs / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(inputs: Path, drawn: Path) -> str:
    """The page."""
    return write(inputs, drawn, "estimate.json")


@pytest.mark.parametrize("name", page.FIGURES)
def test_figures_are_svg_with_their_data_beside(drawn: Path, name: str) -> None:
    root = ET.parse(drawn / f"{name}.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert page.svg_title((drawn / f"{name}.svg").read_text(encoding="utf-8"))
    rows = list(csv.DictReader(io.StringIO((drawn / f"{name}.csv").read_text(encoding="utf-8"))))
    expected = {
        "scores": figures.score_distribution(answers()),
        "loss": training.loss_curve({"m/lora/d/seed1": LOG}),
        "memory": training.memory_curve({"m/lora/d/seed1": TELEMETRY}),
        "funnel": figures.funnel_steps([FUNNEL]),
    }[name]
    assert rows == [{k: "" if v is None else str(v) for k, v in row.items()} for row in expected]


def test_funnel_draws_a_bar_a_step(drawn: Path) -> None:
    svg = (drawn / "funnel.svg").read_text(encoding="utf-8")
    assert "From 47 documents fetched to 318 training rows" in svg and ">318<" in svg and ">47<" in svg


def test_shares_are_mean_distributions_and_fall_back_to_the_rounded_score() -> None:
    row = answers(1)[0]
    rows = [row, {**row, "scores": {"qwen": 4.6}, "distributions": {}}, {**row, "scores": {"qwen": None}}]
    data = figures.score_distribution(rows)
    assert [(r["score"], r["share"]) for r in data] == [(1, 0.0), (2, 0.25), (3, 0.0), (4, 0.25), (5, 0.5)]
    assert {(r["answers"], r["mean_score"]) for r in data} == {(2, 3.3)}


def test_yes_is_five_and_no_is_one_in_the_figure() -> None:
    rows = [{**answers(1)[0], "scores": {"qwen": 4.2}, "distributions": {"qwen": {"Yes": 0.8, "No": 0.2}}}]
    assert [r["share"] for r in figures.score_distribution(rows)] == [0.2, 0.0, 0.0, 0.0, 0.8]


def test_arms_with_other_counts_of_scores_share_a_panel() -> None:
    row = answers(1)[0]
    rows = [row, row, {**row, "arm": "other"}]
    svg = figures.to_svg(figures.score_chart(figures.score_distribution(rows), {row["arm"]: "#000", "other": "#888"}))
    assert "(1 to 2 answers an arm)" in svg


def test_arms_keep_their_colour_in_any_order() -> None:
    rows = [(run, mode, f"{run} {mode}") for run, mode in ARMS]
    assert figures.arm_colours(rows) == figures.arm_colours(rows[::-1])
    many = [(f"m/lora/d/seed{i}", "closed", str(i)) for i in range(21)]
    assert len(set(figures.arm_colours(many).values())) == 21


def test_a_row_over_seeds_leaves_the_figures_colours_as_they_are() -> None:
    seeds = [score(f"m/lora/d/seed{i}", "closed", TRAINED, 0.5) for i in (1, 2, 3)]
    colours = page.score_colours([*seeds, score("m/lora/d", "closed", TRAINED, 0.5, seeds=3)])
    assert list(colours)[-1] == "m/lora/d closed" and colours.pop("m/lora/d closed") == colours["m/lora/d/seed1 closed"]
    assert colours == figures.arm_colours((r.run, r.mode, r.arm) for r in seeds)


def test_several_datasets_judges_and_runs_are_drawn() -> None:
    other = [{**a, "dataset": "e", "scores": {"qwen": 3.0, "llama": 2.0}} for a in answers(2)]
    data = figures.score_distribution(answers(2) + other)
    colours = figures.arm_colours((a["run"], a["mode"], a["arm"]) for a in other)
    assert figures.to_svg(figures.score_chart(data, colours)).count("answers an arm)</text>") == 6
    assert "2 data sets" in figures.to_svg(
        figures.funnel_chart(figures.funnel_steps([FUNNEL, {**FUNNEL, "dataset": "e"}]))
    )


def test_page_has_every_section_and_its_numbers(html: str) -> None:
    sections = re.findall(r'<section id="([a-z]+)"', html)
    assert sections == [
        "answer", "scores", "distributions", "training", "funnel", "retrieval", "questions", "cost", "configuration",
    ]  # fmt: skip
    assert set(re.findall(r'href="#([a-z]+)"', html)) == set(sections)
    for text in (
        "Should Haldrune tune a small model on its website, or let it look things up?",
        "difference +0.59, 95 % interval +0.47 to +0.71",
        "<strong>+0.59</strong>",  # it counts
        '<td class="num">&lt; 0.001</td>',
        '<td class="num">0.17</td>',
        "<strong>−0.25</strong>",  # the tune less retrieval
        "(−0.40 to −0.10, p&nbsp;0.034)",
        "quote is not in the text",
        "60\u00a0% to 91\u00a0%",  # Wilson's interval of 19 in 24
        "bm25 cannot be told from dense (mean reciprocal rank −0.02, 95\u00a0% interval −0.05 to +0.01); "
        "fused finds the source further up than dense (mean reciprocal rank +0.07, 95\u00a0% interval +0.02 to +0.12). "
        "This study uses dense.",
        "0.72 (0.62 to 0.82)",
        "1,234 chunks",
        "1 min 40 s",  # both jobs of the rule `train`
        "2,048 MB",
        "4.3 GB",
        "1,234",
        "41,000",
        "1 of 2 facts",
        "smollm2-135m-instruct",
    ):
        assert text in html, text
    assert "<strong>+0.82</strong>" not in html, "a difference that was not tested counts for nothing"
    assert "0.99" not in html, "groups are in the data set's own table"
    assert "<strong>−0.01</strong>" not in html and "−0.01" in html
    assert html.count("<svg") == html.count("</svg>") == html.count('role="img"') == 4
    assert html.count('<li class="card">') == 20 and html.count('<li class="said">') == 60


def test_answers_are_text_not_markup(html: str) -> None:
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<script" not in html and "<img" not in html


def test_page_fetches_nothing(html: str) -> None:
    assert not re.search(r"<(link|script|img|iframe|object|embed|video|audio|base|form)\b", html)
    assert not re.search(r"<[^>]*\ssrc\s*=|@import|url\(\s*['\"]?(?!#)", html)
    assert {tag for tag, _ in re.findall(r'<(\w+)[^>]*href="(http[^"]*)"', html)} <= {"a"}


def test_only_web_addresses_become_links() -> None:
    assert page.link("javascript:alert(1)") == "javascript:alert(1)"
    assert 'href="http://a.test/?&#34;&lt;"' in page.link('http://a.test/?"<')


@pytest.mark.parametrize(
    "content", ["<script/>", "<style/>", "<rect onclick='x'/>", "<image href='http://a.test/'/>", "<use href='x'/>"]
)
def test_a_figure_that_is_more_than_a_drawing_is_refused(content: str) -> None:
    with pytest.raises(InputError, match="figure loss"):
        page.inline_svg(f'<svg xmlns="http://www.w3.org/2000/svg">{content}</svg>', "loss")


def test_ids_of_figures_do_not_collide() -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><g id="a" clip-path="url(#a)"/></svg>'
    assert '<g id="loss-a" clip-path="url(#loss-a)"/>' in page.inline_svg(svg, "loss")


def test_questions_are_the_same_in_any_order_and_fill_up() -> None:
    arms = [f"{run} {mode}" for run, mode in ARMS]
    rows = answers()
    chosen = page.pick_questions(rows, 20, arms)
    assert chosen == page.pick_questions(rows[::-1], 20, arms)
    assert [q["split"] for q in chosen] == [TRAINED] * 10 + [NEW] * 10
    assert [a["arm"] for a in chosen[0]["answers"]] == arms
    few = [r for r in rows if r["split"] == TRAINED or r["example_id"] in (f"{NEW}0", f"{NEW}1")]
    assert [q["split"] for q in page.pick_questions(few, 20, arms)] == [TRAINED] * 18 + [NEW] * 2


def test_page_stands_without_optional_inputs() -> None:
    config = load(yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8")))
    sources = page.Sources(config, MANIFEST, study((0.1, 0.2), None), [], {}, [], [], {}, [])
    html = page.render(TEMPLATE.read_text(encoding="utf-8"), sources)
    assert "No job was measured" in html and "made without the figure" in html


def test_without_judges_the_page_has_no_distributions() -> None:
    content = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    rows = study((0.1, 0.2), None, metric="rouge_l")
    for judges in ([], ["qwen"]):
        content["study"]["judges"] = judges
        sources = page.Sources(load(content), MANIFEST, rows, [], {}, [], [], {}, [])
        html = page.render(TEMPLATE.read_text(encoding="utf-8"), sources)
        assert ("How the scores are distributed" in html) == ("#distributions" in html) == bool(judges)
        assert "Measured by: ROUGE-L." in html


def test_scores_that_are_missing_and_judges_that_beat_no_metric_are_told_where_they_stand() -> None:
    config = load(yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8")))
    bounds = {"missing": 4, "mean_worst": 0.5, "mean_best": 1.5, "diff_worst": -0.25, "diff_best": 0.75}
    rows = study((0.1, 0.2), None, metric="judge:j")
    rows.append(score("m/lora/d/seed1", "closed", NEW, 0.6, (0.1, 0.2), metric="judge:j", marked=True, **bounds))
    sources = page.Sources(config, MANIFEST, rows, [], {}, [], [], {}, [])
    html = page.render(TEMPLATE.read_text(encoding="utf-8"), sources)
    assert "(4 missing)" in html and "[0.50 to 1.50]" in html and "[−0.25 to +0.75]" in html
    assert html.count(">†</abbr>") == 1, "the judge was marked in the rows of one test set"


def test_tunes_stand_beside_each_other_by_what_the_verdict_is_measured_by_and_by_judges() -> None:
    config = load(yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8")))
    numbers = {"diff_low": "0.1", "diff_high": "0.3", "diff_worst": "", "diff_best": "", "detectable": "0.15"}
    line = {
        **{"dataset": "d", "split": NEW, "mode": "closed", "arm": "on d", "other_arm": "on e", "marked": ""},
        **{"metric": "fact_recall", "diff": "0.21", "p_holm": "0.01", **numbers},
    }
    tunes = [
        line,
        {**line, "metric": "judge:j", "diff": "0.22", "p_holm": "0.2", "marked": "True"},
        {**line, "metric": "rouge_l", "diff": "0.23"},
        {**line, "mode": "rag", "diff": "0.24"},
    ]
    sources = page.Sources(config, MANIFEST, study((0.1, 0.2), None), [], {}, [], [], {}, [], tunes=tunes)
    html = page.render(TEMPLATE.read_text(encoding="utf-8"), sources)
    assert "<strong>+0.21</strong>" in html and "on e" in html
    assert "+0.22" in html and "<strong>+0.22</strong>" not in html, "not after Holm"
    assert "Judge j (1 to 5) †" in html
    assert "+0.23" not in html and "+0.24" not in html, "those are in tunes.csv"
    without = page.Sources(config, MANIFEST, study((0.1, 0.2), None), [], {}, [], [], {}, [])
    assert "Tunes beside each other" not in page.render(TEMPLATE.read_text(encoding="utf-8"), without)


def test_agreement_of_judges_stands_beside_their_scores() -> None:
    content = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    line = {
        **{"dataset": "d", "split": TRAINED, "arm": "all arms", "judges": "a, b", "measure": "krippendorff_alpha"},
        **{"n": "78", "missing": "2", "value": "0.61", "ci_low": "0.5", "ci_high": "0.72"},
    }
    rows = [
        line,
        {**line, "arm": "m/base closed", "value": "0.99"},
        {**line, "measure": "weighted_kappa", "ci_low": "", "ci_high": ""},
    ]
    sources = page.Sources(load(content), MANIFEST, study((0.1, 0.2), None), [], {}, [], [], {}, [], agreement=rows)
    html = page.render(TEMPLATE.read_text(encoding="utf-8"), sources)
    assert '0.61 <span class="of">(0.50 to 0.72)</span>' in html and "(2 missing)" in html
    assert "Cohen’s kappa, quadratic weights" in html
    assert "0.99" not in html, "single arms are in the table"


def test_dollars_without_a_price_are_unknown_and_not_nothing() -> None:
    used = {"stage": "write pairs", "llm": "gpt", "calls": 1, "prompt_tokens": 5, "completion_tokens": 5}
    priced, unpriced = {**used, "dollars": 0.5}, {**used, "stage": "judge x", "dollars": None}
    usage = page.usage_table([priced, unpriced, {**unpriced, "dollars": 0.5}])
    assert [line["dollars"] for line in usage] == [0.5, None]
    lines = [
        {"rule": r, "calls": 1, "tokens_in": 5, "tokens_out": 5, "dollars": d, "hours": 1}
        for r, d in (("write_pairs", 0.4), ("judge", None))
    ]
    table = page.estimate_table({"lines": lines}, usage, [])
    assert [line["dollars"] for line in table] == [(0.4, 0.5), (None, None)]
    assert [page.dollars(d) for d in (None, 0.0, 0.5)] == ["–", "0.0000", "0.5000"]


def test_expected_stands_beside_actual(html: str) -> None:
    table = html[html.index("Expected and actual") :]
    cells = [re.sub(r"\D", "", c) for c in re.findall(r'<td class="num">([^<]*)</td>', table)[:4]]
    assert cells == ["50", "52", "60000", "59200"]


def test_the_estimate_of_another_study_is_left_out(inputs: Path, drawn: Path, html: str) -> None:
    assert "Expected and actual" in html
    assert "Expected and actual" not in write(inputs, drawn, "other.json")


def test_the_page_shows_one_number_of_each_metric_and_leaves_the_rest_to_the_tables():
    names = ["words", "rouge_l_p", "bertscore", "rouge_l_best", "rouge_l", "judge:j", "accuracy", "fact_recall"]
    rows = [row for name in names for row in study((0.1, 0.2), None, metric=name)]
    [table] = page.score_tables(rows, {row.arm: "#000" for row in rows})
    shown = [metric.name.partition(" (")[0] for metric in table.metrics]
    assert shown == ["Facts recalled", "The right product is named", "Judge j", "BERTScore F", "ROUGE-L"]
