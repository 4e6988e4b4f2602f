"""The whole line on real small models, in small."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict

import pytest

from tuneproof.scores.table import scale_of, value_of

RUN = "results/runs/smollm2-135m-instruct/lora/haldrune/seed1"


def test_the_report_is_written_and_a_second_run_does_nothing(finished):
    assert finished.read("results/report.html").rstrip().endswith("</html>")
    began = time.monotonic()
    assert "Nothing to be done" in finished.run()
    assert time.monotonic() - began < 10


def test_a_run_leaves_exactly_these_files(finished):
    files = {p.relative_to(finished.folder / RUN).as_posix() for p in (finished.folder / RUN).rglob("*") if p.is_file()}
    assert {"train_log.jsonl", "spec.json", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"} <= files
    assert not any(name.endswith((".bin", ".pt", ".pkl", ".pth")) for name in files), "nothing that must be unpickled"
    assert not list((finished.folder / "checkpoints").glob("*")), "checkpoints go when the run is done"
    assert not list(finished.folder.rglob("*.tmp"))


def test_every_cell_follows_from_the_rows(finished):
    command = [sys.executable, "scripts/verify.py"]
    done = subprocess.run(command, cwd=finished.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "calls are in the store" in done.stdout


def test_every_arm_answers_the_same_questions_and_has_an_interval(finished):
    table = list(csv.DictReader(finished.read("results/tables/scores.csv").splitlines()))
    judged = [row for row in table if row["metric"] == "judge:qwen"]
    assert len(judged) == 3 * 2, "three arms on two test sets"
    for split in ("test_trained_pages", "test_new_pages"):
        assert len({row["n"] for row in judged if row["split"] == split}) == 1
    assert all(1 <= float(row["mean"]) <= 5 for row in judged)
    assert all(row["diff_low"] for row in judged if row["diff"])
    paired = [row for row in table if row["diff_low"]]
    assert all(float(row["diff_low"]) <= float(row["diff"]) <= float(row["diff_high"]) for row in paired)


def test_a_difference_has_no_interval_only_where_nothing_can_be_said(finished):
    rows = [json.loads(line) for line in finished.read("results/tables/rows.jsonl").splitlines()]
    for line in csv.DictReader(finished.read("results/tables/scores.csv").splitlines()):
        if not line["diff"] or line["diff_low"]:
            continue
        metric, arm = line["metric"], (line["dataset"], line["split"], line["arm"])
        mine = [row for row in rows if (row["dataset"], row["split"], row["arm"]) == arm]
        base = [row for row in rows if (row["run"], row["mode"]) == (line["base_run"], line["base_mode"])]
        theirs = {row["example_id"]: value for row in base if (value := value_of(row, metric)) is not None}
        pages = defaultdict(list)
        for row in mine:
            value = value_of(row, metric)
            if value is not None and row["example_id"] in theirs:
                pages[row["page_id"]].append(value - theirs[row["example_id"]])
        # all pages differ by the same, in tokens, say
        unvarying = len({round(sum(differences) / len(differences), 9) for differences in pages.values()}) == 1
        assert len(pages) == 1 or (scale_of(metric) is None and unvarying), (*arm, metric)


def test_a_cell_can_be_walked_back_to_its_page(finished):
    def rows(path):
        return [json.loads(line) for line in finished.read(path).splitlines()]

    scores = rows("results/scores/smollm2-135m-instruct/base/haldrune.rag.judge-qwen.jsonl")
    answers = {a["id"]: a for a in rows("results/answers/smollm2-135m-instruct/base/haldrune.rag.jsonl")}
    tests = rows("results/datasets/haldrune/test_new_pages.jsonl")
    tests += rows("results/datasets/haldrune/test_trained_pages.jsonl")
    examples = {e["id"]: e for e in tests}
    pairs = {p["id"]: p for p in rows("results/datasets/haldrune/pairs.jsonl")}
    chunks = {c["id"]: c for c in rows("resources/corpora/haldrune/chunks.jsonl")}
    pages = {p["id"]: p for p in rows("resources/corpora/haldrune/pages.jsonl")}
    for score in scores:
        pair = pairs[examples[answers[score["answer_id"]]["example_id"]]["pair_id"]]
        page = pages[chunks[pair["chunk_id"]]["page_id"]]
        assert page["url"].startswith("http://www.haldrune.test/")


def test_no_page_is_trained_on_and_tested_as_new(finished):
    def pages(split):
        lines = finished.read(f"results/datasets/haldrune/{split}.jsonl").splitlines()
        return {json.loads(line)["page_id"] for line in lines}

    assert not pages("train") & pages("test_new_pages")
    assert not pages("train") & pages("val")
    assert pages("test_trained_pages") <= pages("train")


def test_the_loss_falls(finished):
    log = [json.loads(line) for line in finished.read(f"{RUN}/train_log.jsonl").splitlines()]
    losses = [row["loss"] for row in log if "loss" in row]
    assert losses[-1] < losses[0]
    assert any("eval_loss" in row for row in log)


def test_a_second_run_in_the_same_folder_is_refused(new_study):
    first = new_study.start()
    time.sleep(3)
    second = new_study.start()
    assert second.wait() == 1
    assert "another run is under way in this folder" in new_study.read("run.log")
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_with_the_same_tables(finished, new_study):
    chance = random.Random(7)
    kills = 0
    for _ in range(60):
        if kills == 10:
            break
        if not new_study.kill_after(chance.uniform(2, 14), jobs_too=chance.random() < 0.5):
            break
        kills += 1
    new_study.run()
    assert kills == 10, "the study was done before it could be killed ten times"
    for name in ("results/tables/scores.csv", "results/tables/rows.jsonl", f"{RUN}/train_log.jsonl"):
        assert new_study.read(name) == finished.read(name), name
    adapter = f"{RUN}/adapter/adapter_model.safetensors"
    assert (new_study.folder / adapter).read_bytes() == (finished.folder / adapter).read_bytes()


def test_a_run_on_another_machine_is_not_unlocked_over(new_study):
    (new_study.folder / ".snakemake" / "locks").mkdir(parents=True)
    (new_study.folder / ".snakemake" / "locks" / "0.input.lock").write_text("results/report.html\n")
    (new_study.folder / ".snakemake" / "tuneproof.host").write_text("login2")
    assert new_study.start().wait() == 1
    assert "the last run in this folder was started on login2, this is" in new_study.read("run.log")
