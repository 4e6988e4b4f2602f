"""What the default study plans, and what a change reruns: no more, no less."""

import re

import pytest
from dag.conftest import cpu_seconds

WHOLE = {
    "fetch_model": 3,
    "prepare_student": 1,
    "prepare_llm": 1,
    "render_sample_site": 1,
    "crawl": 1,
    "extract_pages": 1,
    "chunk_pages": 1,
    "index_chunks": 1,
    "write_pairs": 1,
    "screen_pairs": 1,
    "rephrase_questions": 1,
    "split_pairs": 1,
    "retrieve_for_answers": 1,
    "reanswer": 1,
    "annotate_types": 1,
    "train_types": 1,
    "classify_pairs": 1,
    "draw_typed": 2,
    "write_requirements": 1,
    "make_recommendations": 1,
    "write_instructions": 2,
    "split_instructions": 2,
    "write_card": 7,
    "audit_leaks": 1,
    "train": 1,
    "write_model_card": 1,
    "retrieve": 1,
    "measure_retrieval": 1,
    "answer": 2,
    "write_answers": 3,
    "measure": 3,
    "judge": 3,
    "tabulate_scores": 1,
    "tabulate_studies": 1,
    "plot_scores": 1,
    "plot_loss": 1,
    "plot_memory": 1,
    "tabulate_runs": 1,
    "plot_funnel": 1,
    "resolve_study": 1,
    "write_manifest": 1,
    "write_report": 1,
}
FROM_TABLE = {"tabulate_scores": 1, "tabulate_studies": 1, "plot_scores": 1, "write_manifest": 1, "write_report": 1}


def test_the_whole_study_is_planned_in_under_five_seconds(workflow):
    began = cpu_seconds()
    assert workflow.planned() == WHOLE
    assert cpu_seconds() - began < 5


def test_the_graph_of_rules_is_drawn_as_mermaid(workflow):
    drawing = workflow.snakemake("--rulegraph", "mermaid-js")
    assert "flowchart" in drawing
    assert "write_pairs" in drawing


def test_every_rule_says_why_it_exists(workflow):
    described = dict(re.findall(r"^(\w+) \((.+)\)$", workflow.snakemake("--list"), re.MULTILINE))
    assert described.keys() >= WHOLE.keys()


def test_touching_nothing_reruns_nothing(done):
    assert done.planned() == {}


def test_what_was_done_here_is_not_done_again_in_a_container_on_a_cluster(done):
    assert done.planned(profile="slurm") == {}


# what is changed (file, old, new) -> the jobs that run again
CURVES = {"plot_loss": 1, "plot_memory": 1, "tabulate_runs": 1}
ONE_ARM = {"answer": 1, "write_answers": 1, "measure": 1, "judge": 1}
BASE = {"answer": 1, "write_answers": 2, "measure": 2, "judge": 2}  # closed book comes out of the store
TRAINED = {"train": 1, **ONE_ARM, "write_model_card": 1, **CURVES, **FROM_TABLE}
ANSWERED = {"answer": 2, "write_answers": 3, "measure": 3, "judge": 3, **FROM_TABLE}
CARD = {"write_card": 1, "audit_leaks": 1, "write_manifest": 1, "write_report": 1}
DESCRIBED = {"write_card": 7, "write_model_card": 1, "write_report": 1}
RETRIEVED = {"retrieve": 1, "measure_retrieval": 1, **BASE, **FROM_TABLE}
CHANGES = {
    "LoRA rank": (("config.yaml", "rank: 32", "rank: 8"), {**TRAINED, "resolve_study": 1}),
    "learning rate": (
        ("config.yaml", "learning_rate: 1.0e-3", "learning_rate: 2.0e-4"),
        {**TRAINED, "resolve_study": 1},
    ),
    "longest answer": (("config.yaml", "max_new_tokens: 48", "max_new_tokens: 64"), {**ANSWERED, "resolve_study": 1}),
    "chunks in the prompt": (
        ("config.yaml", "retrieval:\n  top_k: 2", "retrieval:\n  top_k: 3"),
        {**RETRIEVED, "resolve_study": 1},
    ),
    "retriever": (
        ("config.yaml", "retrieval:\n", "retrieval:\n  retriever: fused\n"),
        {**RETRIEVED, "resolve_study": 1},
    ),
    "permutations": (
        ("config.yaml", "judges: [qwen]", "judges: [qwen]\n  permutations: 2000"),
        {**FROM_TABLE, "resolve_study": 1},
    ),
    "BERTScore's layer": (
        ("config.yaml", "layer: 5", "layer: 4"),
        {"measure": 3, **FROM_TABLE, "resolve_study": 1},
    ),
    "what the study is held against": (
        ("config.yaml", "published: {haldrune: d-naive}", "published: {haldrune: d-rag}"),
        {"tabulate_studies": 1, "resolve_study": 1, "write_report": 1},
    ),
    "a published number": (
        ("report/published.csv", "0.70", "0.71"),
        {"tabulate_studies": 1, "write_manifest": 1, "write_report": 1},
    ),
    "D-RAG's chunks": (
        ("config.yaml", "retriever: fused, top_k: 1", "retriever: fused, top_k: 3"),
        {"retrieve_for_answers": 1, "reanswer": 1, **CARD, "resolve_study": 1},
    ),
    "pairs that are annotated": (
        ("config.yaml", "annotated: 64", "annotated: 50"),
        {
            "annotate_types": 1,
            "train_types": 1,
            "classify_pairs": 1,
            "draw_typed": 2,
            **CARD,
            "write_card": 4,
            "write_model_card": 1,
            "resolve_study": 1,
        },
    ),
    "delay of the crawl": (
        ("config.yaml", "delay_s: 0.02", "delay_s: 2"),
        {**DESCRIBED, "resolve_study": 1},
    ),
    "licence of the pages": (
        ("config.yaml", "haldrune:\n    licence: Apache-2.0", "haldrune:\n    licence: CC-BY-4.0"),
        {**DESCRIBED, "resolve_study": 1},
    ),
    "judge's prompt": (("prompts/judge.yes-no.txt", "Reply with", "Say"), {"judge": 3, **FROM_TABLE}),
    "report's template": (("report/report.html.j2", "</html>", "</html>\n"), {"write_report": 1}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_reruns_exactly_what_depends_on_it(done, change):
    edit, expected = CHANGES[change]
    done.edit(*edit)
    assert done.planned() == expected


def test_a_model_card_that_is_written_anew_trains_nothing(done):
    (run,) = (done.folder / "results/runs").glob("*/*/*/*")
    (run / "adapter/README.md").unlink()
    assert done.planned() == {"write_model_card": 1}


def test_the_card_that_peft_writes_is_not_taken_for_ours(done):
    (run,) = (done.folder / "results/runs").glob("*/*/*/*")
    (run / "model_card.json").unlink()
    assert done.planned() == {"write_model_card": 1}


def test_an_edit_inside_the_sample_site_renders_and_crawls_it_again(done):
    done.edit("sample_site/templates/style.css", (done.folder / "sample_site/templates/style.css").read_text(), "\n")
    planned = done.planned()
    assert planned["render_sample_site"] == planned["crawl"] == planned["train"] == 1


def test_an_edit_inside_a_folder_corpus_extracts_it_again(workflow, tmp_path):
    page = tmp_path / "docs" / "equinix-packet-docs" / "guides" / "a.md"
    page.parent.mkdir(parents=True)
    page.write_text("# A\n")
    workflow.edit("studies/equinix-docs.yaml", "$TUNEPROOF_DATA/corpora", str(tmp_path / "docs"))
    assert str(page) in workflow.snakemake("-n", "--configfile", "studies/equinix-docs.yaml")


# a data set of each kind, as config.yaml has its section, and with the other answer to `accept_leaks`
KINDS = {
    "next-steps": (", accept_leaks: true}", "}"),
    "pitch": ("    accept_leaks: true\n", ""),
    "pairs": ("  haldrune:\n    corpus: haldrune\n", "  haldrune:\n    corpus: haldrune\n    accept_leaks: true\n"),
    "reanswered": ("  haldrune-rag: {", "  haldrune-rag: {accept_leaks: true, "),
    "typed": ("  haldrune-factual: {", "  haldrune-factual: {accept_leaks: true, "),
    "recommendation": ("  haldrune-products:\n", "  haldrune-products:\n    accept_leaks: true\n"),
}


def test_accepting_leaks_reruns_the_audit_and_what_reads_it_alone(done):
    for old, new in KINDS.values():
        done.edit("config.yaml", old, new)
    assert done.planned() == {"audit_leaks": 1, "write_report": 1, "resolve_study": 1}


def test_a_second_seed_adds_a_run_and_reruns_no_other(done):
    done.edit("config.yaml", "seeds: [1]", "seeds: [1, 2]")
    planned = done.planned()
    assert {planned[rule] for rule in ("train", *ONE_ARM)} == {1}


def test_a_combination_can_be_excluded(workflow):
    workflow.edit("config.yaml", "seeds: [1]", "seeds: [1, 2, 3]\n  exclude: [{method: lora, seed: 2}]")
    assert workflow.planned()["train"] == 2


def test_a_wrong_key_is_named_before_anything_runs(workflow):
    output = workflow.snakemake("-n", "--config", "methods={'lora': {'rnak': 8}}", check=False)
    assert "methods.lora.rnak: unknown key, did you mean 'rank'?" in output
    assert "Traceback" not in output


def test_an_estimate_made_later_is_in_the_report(done):
    (done.folder / "results/estimate.json").write_text("{}")
    assert done.planned() == {"write_report": 1}
