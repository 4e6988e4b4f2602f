"""Arms in the DAG: modes, test sets that tunes cross, jobs that share a base, and what a change to one arm reruns."""

import json
import re

import pytest

STUDENT = "smollm2-135m-instruct"
SETS = ["haldrune", "haldrune-conceptual", "haldrune-factual"]


@pytest.fixture
def study(workflow):
    """Lay keys over the default study, on three data sets of one corpus."""

    def lay(decoding=None, **keys):
        section = {"datasets": SETS, "also_make": [], "judges": [], **keys}
        (workflow.folder / "arms.json").write_text(json.dumps({"study": section, "decoding": decoding or {}}))
        return "--configfile", "arms.json"

    return lay


def written(workflow, *options):
    """The arms that would be written, as (run without its model, data set, mode)."""
    printed = workflow.snakemake("-n", "--printshellcmds", *options)
    found = re.findall(rf"--out results/answers/{STUDENT}/(\S+)/([^/\s]+)\.(closed|rag|oracle)\.jsonl", printed)
    return sorted((run, dataset, mode) for run, dataset, mode in found)


def test_every_tune_answers_every_test_set_in_every_mode(workflow, study):
    modes = ["closed", "rag", "oracle"]
    arms = written(workflow, *study(base_modes=modes, tuned_modes=modes))
    runs = ["base", *(f"lora/{dataset}/seed1" for dataset in SETS)]
    assert arms == sorted((run, dataset, mode) for run in runs for dataset in SETS for mode in modes)


def test_without_cross_a_tune_answers_its_own_tests(workflow, study):
    arms = written(workflow, *study(base_modes=["closed"], cross=False))
    tuned = [(run, dataset) for run, dataset, _ in arms if run != "base"]
    assert tuned == sorted((f"lora/{dataset}/seed1", dataset) for dataset in SETS)


def test_only_where_a_corpus_answers_the_questions_is_a_chunk_given(workflow, study):
    sets = ["haldrune", "haldrune-products"]
    arms = written(
        workflow, *study(datasets=sets, base_modes=["closed", "rag", "oracle"], exclude=[{"method": "lora"}])
    )
    assert [mode for _, dataset, mode in arms if dataset == "haldrune"] == ["closed", "oracle", "rag"]
    assert [mode for _, dataset, mode in arms if dataset == "haldrune-products"] == ["closed"]


def test_the_oracle_needs_chunks_and_no_retrieval(workflow, study):
    options = study(datasets=["haldrune"], base_modes=["oracle"], exclude=[{"method": "lora"}])
    command = workflow.snakemake("-n", "--printshellcmds", *options)
    (arms,) = re.findall(r"scripts/answer\.py --arms '(.*?)' --decoding", command)
    oracle = json.loads(arms)
    assert (oracle["mode"], oracle["retrieved"]) == ("oracle", None)
    assert oracle["chunks"] == "resources/corpora/haldrune/chunks.jsonl"


@pytest.mark.parametrize(
    ("decoding", "jobs"),
    [({}, 4), ({"loads": 1}, 1), ({"loads": 2}, 2), ({"loads": 9}, 4), ({"engine": "vllm", "precision": "bf16"}, 1)],
)
def test_base_and_adapters_are_answered_by_as_many_jobs_as_are_asked_for(workflow, study, decoding, jobs):
    planned = workflow.planned(*study(decoding))
    assert planned["answer"] == jobs, "never more than there are runs"
    assert planned["write_answers"] == 3 * 2 + 3 * 3


def test_a_model_that_was_tuned_whole_is_loaded_by_a_job_of_its_own(workflow, study):
    full = {"kind": "full", "epochs": 1, "learning_rate": 1e-5, "batch_size": 8}
    options = study({"loads": 1}, methods=["lora", "whole"], datasets=["haldrune"])
    overlay = json.loads((workflow.folder / "arms.json").read_text())
    (workflow.folder / "arms.json").write_text(json.dumps({**overlay, "methods": {"whole": full}}))
    printed = workflow.snakemake("-n", "--printshellcmds", *options)
    jobs = re.findall(r"scripts/answer\.py .* --out (\S+)", printed)
    assert sorted(jobs) == [
        f"results/answers/{STUDENT}/{load}.json" for load in ("load0", "whole/haldrune/seed1/load0")
    ]


def test_vllm_answers_in_its_own_image(workflow, study):
    options = study({"engine": "vllm", "precision": "bf16"}, datasets=["haldrune"])
    assert "containers/judge.sif" in workflow.snakemake("-n", "staged", *options, profile="slurm")


def test_one_adapter_that_is_trained_anew_reruns_its_arms_alone(workflow, study):
    options = study()
    workflow.pretend_done(*options)
    assert workflow.planned(*options) == {}
    run = f"results/runs/{STUDENT}/lora/haldrune-factual/seed1/adapter/adapter_model.safetensors"
    (workflow.folder / run).write_text("other weights")
    planned = workflow.planned(*options)
    assert planned["answer"] == 1
    assert written(workflow, *options) == [("lora/haldrune-factual/seed1", dataset, "closed") for dataset in SETS]
    assert planned["measure"] == 3


def test_where_all_share_a_base_one_adapter_reruns_one_job_and_the_rest_is_written_out_of_the_store(workflow, study):
    options = study({"loads": 1})
    workflow.pretend_done(*options)
    run = f"results/runs/{STUDENT}/lora/haldrune-factual/seed1/adapter/adapter_model.safetensors"
    (workflow.folder / run).write_text("other weights")
    planned = workflow.planned(*options)
    assert (planned["answer"], planned["write_answers"]) == (1, 2 * 3 + 3 * 3)
    assert "train" not in planned


def test_vllm_in_fp32_is_refused_by_its_key(workflow, study):
    printed = workflow.snakemake("-n", *study({"engine": "vllm", "precision": "fp32"}), check=False)
    assert "decoding: precision: vLLM has no adapters in fp32, expected bf16 with engine: vllm" in printed


def test_an_arm_that_the_study_does_not_have_is_named(workflow, study):
    target = f"results/answers/{STUDENT}/base/haldrune.oracle.jsonl"
    printed = workflow.snakemake("-n", target, *study(), check=False)
    assert "base in mode oracle on haldrune is no arm of this study" in printed
