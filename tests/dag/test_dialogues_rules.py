"""The study of dialogues in the plan: no corpus, no LLM, no judge; and what a change reruns: no more, no less."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from copies import copy_workflow
from dag.conftest import Workflow

STUDY = ("--configfile", "studies/tweetsum.yaml")
TUNED = {
    **{"train": 1, "answer": 1, "write_answers": 1, "measure": 1, "tabulate_scores": 1, "write_manifest": 1},
    **{"plot_loss": 1, "plot_memory": 1, "tabulate_runs": 1, "write_model_card": 1, "tabulate_studies": 1},
}
ANSWERED = {"answer": 2, "write_answers": 2, "measure": 2}
READ = {**TUNED, "read_dialogues": 1, "audit_leaks": 1, "write_card": 1, "plot_funnel": 1, **ANSWERED}
WHOLE = {"fetch_model": 2, "prepare_student": 1, **READ, "write_report": 1, "resolve_study": 1}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Workflow:
    """The workflow, with dialogues, nothing done."""
    workflow = Workflow(copy_workflow(tmp_path_factory.mktemp("dialogues")))
    workflow.edit("studies/tweetsum.yaml", "$TUNEPROOF_TWEETSUM", "tweetsum")
    (workflow.folder / "tweetsum").mkdir()
    for split in ("train", "val", "test"):
        (workflow.folder / "tweetsum" / f"{split}.jsonl").write_text("{}\n")
    return workflow


@pytest.fixture(scope="module")
def pretended(prepared, tmp_path_factory) -> Workflow:
    shutil.copytree(prepared.folder, folder := tmp_path_factory.mktemp("done") / "study")
    workflow = Workflow(folder)
    workflow.pretend_done(*STUDY)
    return workflow


@pytest.fixture
def done(pretended, tmp_path) -> Workflow:
    shutil.copytree(pretended.folder, tmp_path / "done")
    return Workflow(tmp_path / "done")


def test_nothing_is_crawled_written_retrieved_or_judged(prepared):
    assert prepared.planned(*STUDY) == WHOLE


def test_without_judges_each_script_gets_all_its_arguments(prepared):
    plan = prepared.snakemake("-n", "-p", *STUDY)
    scripts = ("read_dialogues", "audit_leaks", "write_card", "measure", "tabulate_scores", "tabulate_studies")
    for script in (*scripts, "write_manifest", "write_report"):
        command = re.findall(rf"python (scripts/{script}\.py .+?) 2> ", plan)[0]
        command = [sys.executable, *shlex.split(command)]
        run = subprocess.run(command, cwd=prepared.folder, capture_output=True, text=True)
        assert run.returncode == 1 and "error: " in run.stderr, "its arguments are complete, its inputs not made"
    assert "scores.svg" not in plan


CHANGES = {
    "licence": (("licence: CC0-1.0 (", "licence: CC0 ("), {"write_card": 1, "write_model_card": 1, "resolve_study": 1}),
    "leaks that are accepted": (("clean: true", "accept_leaks: true"), {"audit_leaks": 1, "resolve_study": 1}),
    "cleaning": (("clean: true", "clean: false"), {**READ, "resolve_study": 1}),
    "clipping": (("max_grad_norm: 1.0", "max_grad_norm: 0.3"), {**TUNED, "resolve_study": 1}),
    "a judge": (
        ("judges: []", "judges: [qwen]"),
        {
            **{
                "fetch_model": 1,
                "prepare_llm": 1,
                "judge": 2,
                "tabulate_scores": 1,
                "tabulate_studies": 1,
                "plot_scores": 1,
            },
            **{"write_manifest": 1, "resolve_study": 1},
        },
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_reruns_exactly_what_depends_on_it(done, change):
    edit, expected = CHANGES[change]
    done.edit("studies/tweetsum.yaml", *edit)
    assert done.planned(*STUDY) == {**expected, "write_report": 1}


@pytest.mark.parametrize("file", ["tweetsum/val.jsonl", "prompts/summarise_dialogue.txt"])
def test_an_edit_in_the_dialogues_or_in_the_system_prompt_is_seen(done, file):
    assert done.planned(*STUDY) == {}
    (done.folder / file).write_text(json.dumps({"other": 1}))
    assert done.planned(*STUDY) == {**READ, "write_report": 1}


def test_dialogues_beside_a_corpus(workflow: Workflow):
    section = "{kind: dialogues, path: none, encoder: all-minilm-l6-v2}"
    Path(workflow.folder, "both.yaml").write_text(f"study: {{also_make: [talks]}}\ndatasets:\n  talks: {section}\n")
    planned = workflow.planned("--configfile", "both.yaml")
    assert planned["read_dialogues"] == planned["write_pairs"] == 1
    assert planned["write_card"] == 2
