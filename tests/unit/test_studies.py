"""The studies' tables: our numbers beside the published ones, as CSV, Markdown and LaTeX."""

import csv
import json

import pytest

from tuneproof.errors import InputError
from tuneproof.records import write_rows
from tuneproof.scores.choices import AMONG, NONE, SEVERAL
from tuneproof.scores.studies import as_latex, as_markdown, make
from tuneproof.tables import read_csv

NUMBERS = {"n": "24", "sd": "0.5", "ci_low": "0.1", "ci_high": "0.3", "mean": "0.2"}


def score(metric, dataset="mine", arm="m lora", split="test_new_pages", **numbers):
    return {"dataset": dataset, "arm": arm, "split": split, "metric": metric, **NUMBERS, **numbers}


def row(example="e1", arm="m lora", dataset="mine", named=None, reference="Cage", answer="It is | a\ncage & more."):
    return {
        "dataset": dataset, "split": "test_new_pages", "example_id": example, "arm": arm, "question": "What?",
        "reference": reference, "answer": answer, "named": named, "encoder": "minilm_L5",
    }  # fmt: skip


@pytest.fixture
def published(root):
    return read_csv(root / "report" / "published.csv")


def test_what_is_published_is_what_the_studies_print(published):
    judged = {(p["dataset"], p["metric"]): (p["mean"], p["sd"]) for p in published if p["metric"].startswith("judge:")}
    assert len(judged) == 12
    assert judged["d-rag", "judge:GPT-3.5 Turbo"] == ("3.67", "1.504")
    assert judged["conceptual", "judge:Prometheus 2"] == ("3.34", "1.33")
    others = {(p["dataset"], p["arm"], p["metric"]): float(p["mean"]) for p in published}
    assert (others["recommendation", "tuned", "accuracy"], others["recommendation", "base", "accuracy"]) == (0.7, 0.3)
    assert others["tweetsum", "tuned", "rouge_lsum"] == 0.3885
    assert others["tweetsum", "base", "bertscore"] == 0.7403


def test_judged_scores_stand_above_the_published_ones_of_their_data_set(published):
    scores = [score("judge:qwen", mean="2.5", ci_low="2.25", ci_high="2.75"), score("rouge_l")]
    table = make(scores, [row()], published, {"mine": "d-naive"})["judged"]
    ours, theirs = table.cells
    assert (ours["data set"], ours["source"], ours["n"]) == ("mine", "this study", "24")
    assert (ours["qwen"], ours["GPT-3.5 Turbo"]) == ("2.50 ± 0.50 [2.25, 2.75]", "–")
    assert (theirs["data set"], theirs["arm"], theirs["n"]) == ("mine", "tuned", "1000")
    assert (theirs["qwen"], theirs["Prometheus 2"]) == ("–", "3.19 ± 1.40")
    assert {line["metric"] for line in table.numbers} == {
        "judge:qwen", "judge:GPT-3.5 Turbo", "judge:Gemini 1.5 Pro", "judge:Prometheus 2"
    }  # fmt: skip


def test_a_judge_that_beat_no_metric_and_scores_that_are_missing_are_told_in_the_table(published):
    scores = [
        score("judge:qwen", missing="3", mean_worst="1.8", mean_best="2.6", mean="2.5", marked="True"),
        score("judge:gpt", missing="0", mean_worst="2.5", mean_best="2.5", mean="2.5", marked="False"),
    ]
    table = make(scores, [row()], published, {"mine": "d-naive"})["judged"]
    assert table.cells[0]["qwen †"] == "2.50 ± 0.50 [0.10, 0.30]; 1.80 to 2.60 with the 3 missing"
    assert table.cells[0]["gpt"] == "2.50 ± 0.50 [0.10, 0.30]"
    assert "† on trial, not surely better than a metric" in table.caption
    assert table.numbers[0]["mean_worst"] == "1.8" and table.numbers[-1]["mean_worst"] == ""


def test_texts_are_measured_against_the_first_and_against_the_best_reference(published):
    scores = [score("rouge_1"), score("rouge_1_best", mean="0.25"), score("bertscore_p"), score("bertscore_best_p")]
    table = make(scores, [row()], published, {"mine": "tweetsum"})["texts"]
    first, base, tuned, best = table.cells
    assert (first["against"], first["ROUGE-1"], first["ROUGE-2"]) == ("first reference", "0.2000 [0.100, 0.300]", "–")
    assert (best["against"], best["ROUGE-1"]) == ("best of all references", "0.2500 [0.100, 0.300]")
    assert (base["arm"], base["ROUGE-1"], base["BERTScore P"]) == ("base", "0.2338", "0.7368")
    assert (tuned["source"], tuned["BERTScore F"], tuned["n"]) == ("TWEETSUM dissertation", "–", "109")
    assert "minilm_L5" in table.caption, "a BERTScore says nothing without its encoder"


def test_seventy_against_thirty_has_wilsons_interval_and_says_what_is_wrong(published):
    named = ["Cage"] * 7 + ["Vault", SEVERAL, NONE]
    rows = [row(f"e{n}", named=name) for n, name in enumerate(named)]
    tables = make([], rows, published, {"mine": "recommendation"})
    ours, tuned, _ = tables["recommended"].numbers
    assert (ours["n"], ours["right"], ours["distractor"], ours["several"], ours["none"]) == (10, 7, 1, 1, 1)
    # Wilson (1927) at 7 of 10 and 70 of 100
    assert (ours["ci_low"], ours["ci_high"]) == pytest.approx((0.3968, 0.8922), abs=1e-4)
    assert (tuned["ci_low"], tuned["ci_high"]) == pytest.approx((0.6042, 0.7811), abs=1e-4)
    assert [cell["right"] for cell in tables["recommended"].cells] == ["7 of 10", "70 of 100", "30 of 100"]
    assert [cell["bounds"] for cell in tables["recommended"].cells] == ["0.70 to 0.70", "–", "–"]
    confused = {(line["right"], line["named"]): line["count"] for line in tables["named"].numbers}
    assert confused == {("Cage", "Cage"): 7, ("Cage", "Vault"): 1, ("Cage", SEVERAL): 1, ("Cage", NONE): 1}


def test_the_right_product_among_several_bounds_the_accuracy(published):
    rows = [row(f"e{n}", named=name) for n, name in enumerate(["Cage", AMONG, AMONG, SEVERAL])]
    table = make([], rows, published, {})["recommended"]
    [line], [cell] = table.numbers, table.cells
    assert (line["accuracy"], line["accuracy_several"], line["several"], line["distractor"]) == (0.25, 0.75, 3, 0)
    assert cell["bounds"] == "0.25 to 0.75"


def test_outputs_stand_side_by_side_for_the_same_questions_at_every_time():
    rows = [row(f"e{n}", arm) for arm in ("m base", "m lora") for n in range(30)]
    cells = make([], rows, [], {})["outputs"].cells
    assert len(cells) == 10 * 4
    assert [cell["who"] for cell in cells[:4]] == ["question", "reference", "m base", "m lora"]
    assert make([], rows[::-1], [], {})["outputs"].cells[0] == cells[0]


def test_a_data_set_that_is_not_published_is_named():
    with pytest.raises(InputError, match=r"study\.published: 'd-naiv' is not published"):
        make([], [row()], [], {"mine": "d-naiv"})


def test_special_characters_stay_in_their_cells():
    table = make([], [row()], [], {})["outputs"]
    markdown = as_markdown(table).splitlines()
    assert len(markdown) == 2 + 2 + 3, "a caption, a head and a line a text"
    assert r"It is \| a<br>cage & more." in markdown[-1]
    latex = as_latex(table, "outputs")
    assert r"cage \& more." in latex
    assert r"\label{tab:outputs}" in latex and r"\toprule" in latex
    assert r"\begin{longtable}{lllp{0.15\linewidth}p{0.45\linewidth}}" in latex, "long texts wrap"


def test_the_script_writes_each_table_three_times(root, run_script, tmp_path):
    write_rows(tmp_path / "rows.jsonl", [row(named="Cage"), row("e2", named="Vault")])
    scores = [score("judge:qwen"), score("rouge_1"), score("accuracy", mean="0.5")]
    with (tmp_path / "scores.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(scores[0]))
        writer.writeheader()
        writer.writerows(scores)
    files = ["--scores", tmp_path / "scores.csv", "--rows", tmp_path / "rows.jsonl"]
    files += ["--published", root / "report/published.csv", "--of", json.dumps({"mine": "recommendation"})]
    names = ["judged", "texts", "recommended", "named", "outputs"]
    done = run_script("tabulate_studies", *files, "--tables", *names, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"{n}.{k}" for n in names for k in ("csv", "md", "tex")}
    assert read_csv(tmp_path / "out/recommended.csv")[0]["accuracy"] == "0.5"
    done = run_script("tabulate_studies", *files, "--tables", "judgd", "--out", tmp_path / "out")
    assert done.returncode == 1 and "'judgd', expected some of: judged, texts" in done.stderr
