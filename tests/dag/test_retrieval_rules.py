"""Retrieval in the DAG: what a retriever, a reranker and the questions that are answered again (D-RAG) plan."""

import re

import pytest
import yaml

D_RAG = {"kind": "reanswered", "of": "haldrune", "llm": "qwen"}


@pytest.fixture
def overlay(workflow):
    """Lay a study over the default one; return the arguments for Snakemake."""

    def lay(study):
        (workflow.folder / "mine.yaml").write_text(yaml.safe_dump(study))
        return "--configfile", "mine.yaml"

    return lay


@pytest.mark.parametrize("profile", ["local", "slurm"])
def test_questions_answered_again_are_a_data_set_like_others(workflow, overlay, profile):
    before = workflow.planned(profile=profile)
    names = {"d-rag": D_RAG, "d-oracle": {**D_RAG, "retriever": "oracle"}}
    study = overlay({"datasets": names, "study": {"datasets": ["haldrune", *names], "also_make": []}})
    planned = workflow.planned(*study, profile=profile)
    assert (planned["retrieve_for_answers"], planned["reanswer"]) == (2, 2)
    assert planned["write_pairs"] == planned["split_pairs"] == 1, "the questions are written once"
    assert planned["retrieve"] == planned["measure_retrieval"] == planned["train"] == 3
    assert before["write_answers"] == 3
    # base, closed and with retrieval, and three tunes: each on all three test sets
    assert planned["write_answers"] == (2 + 3) * 3


def test_the_questions_of_a_data_set_that_is_not_itself_tested_are_written(workflow, overlay):
    study = {"datasets": {"d-rag": D_RAG}, "study": {"datasets": ["d-rag"], "also_make": []}}
    planned = workflow.planned(*overlay(study))
    assert planned["write_pairs"] == planned["reanswer"] == planned["train"] == 1


def test_a_reranker_is_fetched_and_given_to_all_that_retrieve(workflow, overlay):
    model = yaml.safe_load((workflow.folder / "config.yaml").read_text())["models"]["all-minilm-l6-v2"]
    study = {
        "models": {"cross": model},
        "retrieval": {"reranker": "cross"},
        "datasets": {"d-rag": {**D_RAG, "reranker": "cross"}},
        "study": {"datasets": ["haldrune", "d-rag"], "also_make": []},
    }
    printed = workflow.snakemake("-n", "--printshellcmds", *overlay(study))
    assert printed.count("--reranker resources/models/cross/lock.json") == 5, "2 retrieve, 2 measure, 1 for answers"
    cards = re.findall(r"write_card\.py --name (\S+) .*?--model (.*?) --api", printed)
    assert [name for name, models in cards if "models/cross/" in models] == ["d-rag"]
    assert "resources/models/cross/lock.json" in workflow.snakemake("-n", "models", *overlay(study))


def test_the_card_of_a_derived_set_has_its_parents_reviews(workflow, overlay):
    (workflow.folder / "reviews/haldrune").mkdir(parents=True)
    (workflow.folder / "reviews/haldrune/ann.jsonl").write_text("")
    study = overlay({"datasets": {"d-rag": D_RAG}, "study": {"datasets": ["haldrune", "d-rag"], "also_make": []}})
    printed = workflow.snakemake("-n", "--printshellcmds", *study)
    cards = re.findall(r"write_card\.py --name (\S+) .*?--decisions (.*?) --out", printed)
    assert sorted(cards) == [(name, "reviews/haldrune/ann.jsonl") for name in ("d-rag", "haldrune")]
