"""Instruction sets in the plan: made with their cards beside a study, from a corpus or from a catalogue."""

import json
import re
import shlex
import subprocess
import sys

import pytest

STUDY = """
study:
  also_make: [goods, catalogue, calls, pitches]
datasets:
  goods: {kind: recommendation, corpus: haldrune, group: products, llm: qwen, encoder: all-minilm-l6-v2, options: 3}
  catalogue: {kind: recommendation, catalogue: $GOODS, llm: qwen, encoder: all-minilm-l6-v2}
  calls: {kind: next-steps, of: haldrune, llm: qwen}
  pitches: {kind: pitch, corpus: haldrune, group: products, llm: qwen}
"""


def card(name: str) -> str:
    return f"results/datasets/{name}/card.md"


@pytest.fixture
def shop(workflow):
    (workflow.folder / "shop.yaml").write_text(STUDY)
    return workflow


def test_each_set_is_made_by_two_rules_of_its_own(shop):
    planned = shop.planned(*map(card, ("goods", "calls", "pitches")), "--configfile", "shop.yaml")
    assert {rule: planned.get(rule) for rule in ("write_requirements", "make_recommendations")} == {
        "write_requirements": 1,
        "make_recommendations": 1,
    }
    assert planned["write_instructions"] == planned["split_instructions"] == 2
    assert planned["chunk_pages"] == 1
    assert planned["write_pairs"] == planned["split_pairs"] == 1, "calls are made of a data set's pairs"
    assert "write_pairs" not in shop.planned(*map(card, ("goods", "pitches")), "--configfile", "shop.yaml")


def test_a_catalogue_needs_no_corpus_and_an_edit_in_it_is_seen(shop, monkeypatch):
    monkeypatch.setenv("GOODS", str(shop.folder / "goods.yaml"))
    wanted = (card("catalogue"), "--configfile", "shop.yaml")
    alone = {"fetch_model": 2, "prepare_llm": 1, "write_requirements": 1, "make_recommendations": 1, "write_card": 1}
    assert shop.planned(*wanted) == alone, "a catalogue that is not here yet is no reason not to plan"
    (shop.folder / "goods.yaml").write_text("[]")
    assert f"{shop.folder}/goods.yaml" in shop.snakemake("-n", *wanted)


def test_the_task_decides_the_prompts(shop):
    plan = shop.snakemake("-n", card("calls"), card("pitches"), "--configfile", "shop.yaml")
    written = {"write_call", "next_steps", "write_pitch", "pitch"}
    pairs = {"write_pairs", "rephrase_question"}
    assert set(re.findall(r"prompts/(\w+)\.txt", plan)) == written | pairs


def test_calls_know_which_pages_are_held_out_and_unusable_replies_stay_where_a_failed_job_leaves_them(shop):
    plan = shop.snakemake("-n", "-p", card("goods"), card("calls"), "--configfile", "shop.yaml")
    inputs = re.search(r"rule write_instructions:\n +input: (.+)", plan)[1]
    assert {f"results/datasets/haldrune/{name}.jsonl" for name in ("pairs", "train", "val")} <= set(inputs.split(", "))
    assert "--failed-log logs/write_requirements/goods.unusable.jsonl" in plan
    assert "--failed-log logs/write_instructions/calls.unusable.jsonl" in plan


def test_what_the_sets_cost_is_counted_with_the_study(shop):
    planned = shop.planned("--configfile", "shop.yaml")
    assert planned["write_requirements"] == planned["make_recommendations"] == 2
    assert planned["write_instructions"] == 2
    assert planned["write_pairs"] == 1


def test_a_study_may_be_about_nothing_but_a_catalogue(shop):
    only = {"datasets": ["catalogue"], "also_make": []}
    plan = shop.snakemake("-n", "-p", "--configfile", "shop.yaml", "--config", f"study={json.dumps(only)}")
    assert "crawl" not in re.findall(r"^rule (\w+):", plan, re.MULTILINE)
    assert "--products results/datasets/catalogue/products.jsonl" in plan
    for script in ("tabulate_scores", "tabulate_studies", "write_report"):
        [command] = re.findall(rf"python (scripts/{script}\.py .+?) 2> ", plan)
        done = subprocess.run([sys.executable, *shlex.split(command)], cwd=shop.folder, capture_output=True, text=True)
        assert "no such file" in done.stderr, "its arguments are complete, its inputs not made"


def test_a_wrong_section_is_named(shop):
    for wrong, message in (
        ("{kind: recommendation, llm: qwen, encoder: all-minilm-l6-v2}", "expected exactly one of `corpus` and"),
        ("{kind: sing, corpus: haldrune, llm: qwen}", "'sing' is wrong"),
        ("{kind: next-steps, of: haldrun, llm: qwen}", "'haldrun' is not in `datasets`"),
        ("{kind: next-steps, of: haldrune-products, llm: qwen}", "is of kind recommendation, expected pairs"),
        (
            "{kind: pitch, corpus: haldrune, llm: qwen, rows: 9, tests: 9}",
            "rows: 9 leaves none to train on",
        ),
    ):
        (shop.folder / "wrong.yaml").write_text(f"datasets:\n  bad: {wrong}\n")
        output = shop.snakemake("-n", "--configfile", "wrong.yaml", check=False)
        assert message in output, output
        assert "datasets.bad" in output
