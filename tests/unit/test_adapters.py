"""An adapter is of use to others: merged it says the same, PEFT and transformers load it, its card is complete."""

import json
import re

import pytest
import yaml
from tiny import RUN, example, write_study

from tuneproof.adapters import card
from tuneproof.records import Example, read_json, read_rows, write_json
from tuneproof.study import ModelSpec
from tuneproof.training.rows import tokenise

BASE = {
    "licence": "LicenseRef-Llama-2-Community",
    "format": "transformers",
    "context": 512,
    "hub": {"repo": "owner/tiny", "revision": "a" * 40},
    "files": [{"name": "model.safetensors", "sha256": "0" * 64, "size": 1}],
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"))


def merge(run_script, folder, *arguments, run=RUN):
    done = run_script("merge_adapter", "--run", run, "--out", f"results/merged/{run}", *arguments, cwd=folder)
    return done, folder / "results/merged" / run


def logits(model, folder, adapter=None):
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(adapter or folder)
    asked = example(1, "What is the power of CV1?", "").messages[:1]
    inputs = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs).logits.float()


def test_merged_says_what_unmerged_says_and_loads_with_nothing_but_transformers(study, run_script):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done, folder = merge(run_script, study)
    assert done.returncode == 0, done.stderr
    student, adapter = study / "resources/models/tiny/student", study / "results/runs" / RUN / "adapter"
    base = AutoModelForCausalLM.from_pretrained(student)
    untuned = logits(base, student)
    unmerged = logits(PeftModel.from_pretrained(base, adapter), adapter)
    merged = logits(AutoModelForCausalLM.from_pretrained(folder), folder)
    assert (untuned - unmerged).abs().max() > 0.05, "the adapter does something"
    torch.testing.assert_close(merged, unmerged, atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert {"chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json", "merge.json"} <= {
        p.name for p in folder.iterdir()
    }
    report = read_json(folder / "merge.json")
    assert report["dtype"] == "float32" and report["written"] == "merged"
    measured = report["merged"]
    val = read_rows(study / "results/datasets/d/val.jsonl", Example)
    rows = [tokenise(row.messages, AutoTokenizer.from_pretrained(adapter)) for row in val]
    assert measured["rows"] == 6 and measured["tokens"] == sum(len(tokens) - prompt for tokens, prompt in rows)
    assert measured["logits_max_difference"] < 1e-4 and measured["same_next_token"] == 1.0
    assert measured["loss_after"] == pytest.approx(measured["loss_before"], abs=1e-5)
    assert f"100.0 % of {measured['tokens']} next tokens are the same" in done.stderr
    again, _ = merge(run_script, study)
    assert again.returncode == 0, "a merged folder is written anew"
    assert [p.name for p in folder.parent.iterdir()] == ["seed1"], "nothing half-made is left"


def test_a_base_in_bf16_stays_bf16_and_its_drift_is_reported(tmp_path, run_script):
    done, folder = merge(run_script, write_study(tmp_path, "bfloat16"))
    assert done.returncode == 0, done.stderr
    report = read_json(folder / "merge.json")
    assert report["dtype"] == "bfloat16"
    # 8 bits of precision, through two layers
    assert 0 < report["merged"]["logits_mean_difference"] < 0.02 * report["merged"]["logits_sd"]


def test_qlora_is_measured_both_ways(tmp_path, run_script):
    pytest.importorskip("bitsandbytes")
    folder = write_study(tmp_path, "bfloat16", "qlora")
    done, out = merge(run_script, folder)
    assert done.returncode == 0, done.stderr
    report = read_json(out / "merge.json")
    onto_base, onto_quantised = report["merged"], report["merged_into_quantised"]
    assert report["layers_quantised"] == 2 * 7
    assert onto_quantised["logits_mean_difference"] < onto_base["logits_mean_difference"], (
        "NF4 rounds coarser than bf16"
    )
    assert onto_base["loss_before"] == onto_quantised["loss_before"]
    assert "not the weights that it was trained beside (--onto quantised" in done.stderr
    done, out = merge(run_script, folder, "--onto", "quantised")
    assert read_json(out / "merge.json")["written"] == "merged_into_quantised"
    assert "the weights that it was trained beside" in done.stderr


@pytest.mark.parametrize(
    ("broken", "arguments", "expected"),
    [
        (None, {"run": "tiny/lora/d"}, "--run: 'tiny/lora/d', expected model/method/dataset/seedN"),
        (None, {"run": "tiny/lora/d/seed9"}, "seed9/spec.json: no such file"),
        ("adapter/adapter_model.safetensors", {}, "adapter_model.safetensors: no such file, expected an adapter"),
        (None, {"arguments": ["--onto", "quantised"]}, "is of kind lora, expected qlora"),
        (None, {"arguments": ["--rows", "0"]}, "--rows: 0, expected one at least"),
    ],
)
def test_what_cannot_be_merged_is_one_sentence(study, run_script, broken, arguments, expected):
    path = study / "results/runs" / RUN / (broken or "none")
    if broken:
        path.rename(f"{path}.away")
    try:
        done, _ = merge(run_script, study, *arguments.get("arguments", []), run=arguments.get("run", RUN))
    finally:
        if broken:
            path.with_name(f"{path.name}.away").rename(path)
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1 and expected in done.stderr and "Traceback" not in done.stderr


def test_another_base_than_the_one_that_was_tuned_is_refused(run_script, tmp_path):
    study = write_study(tmp_path / "study")
    spec = study / "results/runs" / RUN / "spec.json"
    write_json(spec, {**read_json(spec), "model_sha256": "f" * 64})
    done, _ = merge(run_script, study)
    assert done.returncode == 1
    assert "expected those that tiny/lora/d/seed1 was tuned on, ffffffffffff…" in done.stderr


# --- the card ---


def write_card(run_script, study, base=BASE):
    run = f"results/runs/{RUN}"
    done = run_script(
        "write_model_card", "--run", RUN, "--base", json.dumps(base), "--spec", f"{run}/spec.json",
        "--student", "resources/models/tiny/student/lock.json", "--adapter", f"{run}/adapter",
        "--log", f"{run}/train_log.jsonl", "--telemetry", f"{run}/telemetry.jsonl",
        "--dataset", "results/datasets/d/card.json", "--out", f"{run}/adapter/README.md",
        "--data", f"{run}/model_card.json", cwd=study,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return (study / run / "adapter/README.md").read_text(), read_json(study / run / "model_card.json")


def test_the_card_has_what_the_hub_indexes_and_what_people_ask(study, run_script):
    text, data = write_card(run_script, study)
    front = yaml.safe_load(text.split("---")[1])
    assert front == {
        "base_model": "owner/tiny",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": "llama2",
        "datasets": ["d"],
        "tags": ["lora", "sft", "transformers", "tuneproof"],
    }
    for said in (
        "| untuned | 4.2500 |",
        "| tuned, lowest | 1.5000 |",
        "| learning_rate | 0.001 |",
        "Modules with an adapter: `down_proj`, `gate_proj`, `k_proj`, `o_proj`, `q_proj`, `up_proj`, `v_proj`.",
        "| speed.packing | True |",
        "60 seconds of training",
        "Peak memory 900 MB of the process",
        "It is &lt;small>.",
        f"make merge RUN={RUN}",
        f"vllm serve owner/tiny --revision {'a' * 40} --dtype bfloat16 --enable-lora --max-lora-rank",
        f'revision="{"a" * 40}"',
        "not stated; ask before you publish",
    ):
        assert said in text, said
    assert data["losses"] == {"base": 4.25, "lowest": 1.5, "last": 1.5, "train": 1.0}
    assert data["sha256"] in text
    assert re.search(r"Versions: peft \d", text)


def test_the_cards_own_words_load_the_adapter(study, run_script):
    """The Python in the card is run as it stands, with the paths filled in."""
    local = {**BASE, "hub": None, "licence": "MIT", "files": [{**BASE["files"][0], "index": {
        "package": "p", "version": "1", "member": "m"}}]}  # fmt: skip
    text, _ = write_card(run_script, study, local)
    (code,) = re.findall(r"```python\n(.+?)```", text, re.DOTALL)
    code = code.replace("path/to/this/folder", str(study / "results/runs" / RUN / "adapter"))
    code = code.replace("resources/models", str(study / "resources/models")).replace("=128", "=4")
    said = []
    exec(code, {"print": said.append})
    assert len(said) == 1 and isinstance(said[0], str)


def test_a_licence_that_the_hub_does_not_know_is_named_beside_other():
    content = {"base": {"licence": "LicenseRef-Own", "repo": None, "model": "m"}, "dataset": {"name": "d"}}
    front = card.front_matter({**content, "recipe": {"kind": "qlora"}})
    assert (front["license"], front["license_name"], front["base_model"]) == ("other", "LicenseRef-Own", "m")
    assert front["tags"][0] == "qlora"


def test_the_base_is_a_section_of_the_configuration():
    assert ModelSpec.model_validate(BASE).licence == BASE["licence"]
