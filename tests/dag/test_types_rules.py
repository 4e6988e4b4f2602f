"""Typed data sets are planned from their parent, and a change reruns what hangs on it."""

import re

import pytest
import yaml

STUDY = """
study: {also_make: [conceptual, factual]}
datasets:
  haldrune: {types: {llm: qwen, encoder: all-minilm-l6-v2, annotated: 60, epochs: 4}}
  conceptual: {kind: typed, of: haldrune, type: conceptual}
  factual: {kind: typed, of: haldrune, type: factual}
"""
DRAWN = [f"results/datasets/{name}/{file}" for name in ("conceptual", "factual") for file in ("card.md", "train.jsonl")]
RULES = {"annotate_types": 1, "train_types": 1, "classify_pairs": 1, "draw_typed": 2}


@pytest.fixture
def typed(workflow):
    (workflow.folder / "typed.yaml").write_text(STUDY)
    return workflow


def planned(workflow, *arguments, profile="local"):
    jobs = workflow.planned(*arguments, *DRAWN, "--configfile", "typed.yaml", profile=profile)
    return {rule: n for rule, n in jobs.items() if rule in RULES or rule == "write_pairs"}


@pytest.mark.parametrize("profile", ["local", "slurm"])
def test_a_parent_is_annotated_and_labelled_once_for_both_types(typed, profile):
    assert planned(typed, profile=profile) == {**RULES, "write_pairs": 1}


def test_the_llm_and_the_encoder_are_those_of_the_section(typed):
    printed = typed.snakemake("-n", *DRAWN, "--configfile", "typed.yaml")
    assert "types/annotated.qwen.jsonl" in printed
    assert "resources/models/all-minilm-l6-v2/lock.json" in printed


def test_the_audit_compares_texts_with_the_corpuss_encoder_whatever_bert_learns_the_types(typed):
    model = yaml.safe_load((typed.folder / "config.yaml").read_text())["models"]["all-minilm-l6-v2"]
    (typed.folder / "bert.yaml").write_text(yaml.safe_dump({"models": {"a-bert": model}}))
    typed.edit("typed.yaml", "encoder: all-minilm-l6-v2", "encoder: a-bert")
    printed = typed.snakemake("-n", "--printshellcmds", "--configfile", "typed.yaml", "bert.yaml")
    (audit,) = re.findall(r"audit_leaks\.py .*", printed)
    assert "--encoder resources/models/all-minilm-l6-v2/lock.json" in audit


def test_an_annotator_behind_an_api_counts_as_a_call_of_it(typed):
    typed.edit("typed.yaml", "llm: qwen", "llm: gpt")
    with (typed.folder / "typed.yaml").open("a") as study:
        study.write("llms: {gpt: {engine: openai, model: gpt-4.1}}\n")
    printed = typed.snakemake("-n", *DRAWN, "--configfile", "typed.yaml")
    assert printed.count("api=1") == 1
    assert "the environment has no OPENAI_API_KEY, expected the key of llms.gpt" in printed


def test_questions_that_people_have_sorted_are_annotated_by_a_job_of_their_own(typed):
    """So that adding them, or changing how the classifier is trained, does not ask about all pairs again."""
    before = annotation_of(typed)
    typed.edit("typed.yaml", "epochs: 4", "epochs: 5, human_labels: people")
    (typed.folder / "people").mkdir()
    for name in ("train", "test"):
        (typed.folder / f"people/{name}.csv").write_text("annotated_by,category,question\n")
    printed = typed.snakemake("-n", "--printshellcmds", *DRAWN, "--configfile", "typed.yaml")
    assert annotation_of(typed) == before
    assert printed.count("annotate_human.py --questions people") == 1
    assert "--human-annotated results/datasets/haldrune/types/human.qwen.jsonl" in printed


def annotation_of(workflow):
    """All that Snakemake keeps of the job that annotates the pairs."""
    printed = workflow.snakemake("-n", "--printshellcmds", *DRAWN, "--configfile", "typed.yaml")
    (job,) = re.findall(r"^rule annotate_types:.*?annotate_types\.py .*?$", printed, re.MULTILINE | re.DOTALL)
    return re.sub(r"jobid: \d+", "", job)


def test_the_types_rules_are_not_planned_where_no_set_asks_for_them(workflow):
    (workflow.folder / "alone.yaml").write_text("study: {also_make: []}\n")
    assert not RULES.keys() & workflow.planned("--configfile", "alone.yaml").keys()
