"""An adapter's model card, as the hub reads it: what it was made from and with, how good it is, how to load it.

The card is plain data first (model_card.json), so that the Markdown is one view of it and other tools need not read
prose. Nothing is said that is not in a file: what is not known is left out, or said to be unknown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tuneproof.study import ModelSpec

Row = Mapping[str, Any]

# SPDX or our own name -> the hub's word; any other is `other` with its name beside it
_HUB_LICENCES = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "BSD-3-Clause": "bsd-3-clause",
    "CC-BY-4.0": "cc-by-4.0",
    "CC-BY-SA-4.0": "cc-by-sa-4.0",
    "CC-BY-NC-4.0": "cc-by-nc-4.0",
    "LicenseRef-Llama-2-Community": "llama2",
}
# vLLM takes these and no other as --max-lora-rank
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def card(
    run: str,
    base: ModelSpec,
    lock: Row,
    spec: Row,
    adapter: Row,
    dataset: Row,
    log: Sequence[Row],
    telemetry: Sequence[Row],
    sha256: str,
) -> dict[str, Any]:
    """Return the card as plain data.

    `base` is the model's section of the configuration and `lock` that of the trained student; `spec` is the run's
    spec.json, `adapter` its adapter_config.json, `dataset` the data set's card, `telemetry` has `minutes` (attempts
    laid end to end) and `sha256` is that of adapter_model.safetensors.
    """
    model, method, name, seed = run.split("/")
    recipe = {key: value for key, value in spec["method"].items() if value is not None}
    return {
        "run": run,
        "base": {
            "model": model,
            "repo": base.hub.repo if base.hub else None,
            "revision": base.hub.revision if base.hub else None,
            "licence": base.licence,
            "format": base.format,
            "files": {file["name"]: file["sha256"] for file in lock["files"]},
        },
        "dataset": {
            "name": name,
            "kind": dataset["kind"],
            "purpose": dataset["purpose"],
            "from": dataset["source"]["from"],
            "licence": dataset["source"]["licence"],
            "rows": {split: counts["rows"] for split, counts in dataset["splits"].items()},
            "weaknesses": dataset["weaknesses"],
            "sha256": {key.removesuffix("_sha256"): spec[key] for key in ("train_sha256", "val_sha256") if key in spec},
        },
        "method": method,
        "seed": int(seed.removeprefix("seed")),
        "steps": spec.get("steps"),
        "recipe": recipe,
        # PEFT may name every module of every layer
        "modules": sorted({name.rpartition(".")[2] for name in adapter.get("target_modules") or []}),
        "versions": {**({"peft": v} if (v := adapter.get("peft_version")) else {}), **spec.get("versions", {})},
        "losses": _losses(log),
        "cost": _cost(telemetry, spec),
        "sha256": sha256,
    }


def _losses(log: Sequence[Row]) -> dict[str, float | None]:
    """Validation loss untuned, tuned at its lowest and at its last; None where it was not measured."""
    losses = [(row["step"], row["eval_loss"]) for row in log if row.get("eval_loss") is not None]
    tuned = [loss for step, loss in losses if step > 0 and math.isfinite(loss)]
    return {
        "base": next((loss for step, loss in losses if step == 0), None),
        "lowest": min(tuned, default=None),
        "last": losses[-1][1] if losses and losses[-1][0] > 0 else None,
        "train": next((row["loss"] for row in reversed(log) if row.get("loss") is not None), None),
    }


def _cost(telemetry: Sequence[Row], spec: Row) -> dict[str, Any]:
    peaks = {
        key: max(values)
        for key in ("gpu_reserved_mb", "memory_mb")
        if (values := [row[key] for row in telemetry if row.get(key) is not None])
    }
    return {
        "hardware": spec.get("hardware"),
        "seconds": round(60 * telemetry[-1]["minutes"], 1) if telemetry else None,
        "gpu": "gpu_reserved_mb" in peaks,
        "peak_mb": peaks.get("gpu_reserved_mb", peaks.get("memory_mb")),
    }


def front_matter(card: Row) -> dict[str, Any]:
    """Return what the hub indexes."""
    base = card["base"]
    licence = _HUB_LICENCES.get(base["licence"], "other")
    return {
        "base_model": base["repo"] or base["model"],
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": licence,
        **({"license_name": base["licence"]} if licence == "other" else {}),
        "datasets": [card["dataset"]["name"]],
        "tags": [card["recipe"]["kind"], "lora", "sft", "transformers", "tuneproof"]
        if card["recipe"]["kind"] != "lora"
        else ["lora", "sft", "transformers", "tuneproof"],
    }


def markdown(card: Row) -> str:
    """Return the card as the hub's README.md."""
    base, data, losses = card["base"], card["dataset"], card["losses"]
    block = "\n".join(f"{key}: {json.dumps(v, ensure_ascii=False)}" for key, v in front_matter(card).items())
    lines = [
        *("---", block, "---", "", f"# {base['model']}, {card['method']} on {data['name']}, seed {card['seed']}", ""),
        f"A {'QLoRA' if card['recipe']['kind'] == 'qlora' else 'LoRA'} adapter for {_base_link(base)}, tuned on the "
        f"data set {data['name']} by Tuneproof. It is of no use without its base model.",
        *("", "## What it is for", ""),
        f"{_plain(data['purpose'])} It takes prompts in the chat template that lies beside it, worded as the rows of "
        "its data set are. It was made to be measured in a study, whose report has the scores beside those of the "
        "untuned model and of retrieval. What it does outside its corpus was not measured, and nothing was done to "
        "make it safer than its base.",
        *("", "## Data", ""),
        f"{data['name']} ({data['kind']}), from {_plain(data['from'])}: "
        + ", ".join(f"{rows:,} rows {split}" for split, rows in data["rows"].items())
        + f". Its card: `results/datasets/{data['name']}/README.md`.",
        *("", "Known weaknesses of the data:", ""),
        *[f"- {_plain(weakness)}" for weakness in data["weaknesses"]],
        *("", "## Results", ""),
        *_results(losses),
        *("", "## How to load it", ""),
        *_loading(card),
        *("", "## Recipe", ""),
        *_table([("setting", "value"), *_flat(card["recipe"]), ("seed", card["seed"]), ("steps", card["steps"])]),
        "",
        f"Modules with an adapter: {', '.join(f'`{m}`' for m in card['modules']) or 'not stated'}.",
        *("", "## Made with", ""),
        _made_with(card),
        "",
        *_table([("digest (SHA-256)", "of"), *_digests(card)]),
        *("", "## Licences", ""),
        f"- Base model: {base['licence']}. Its terms may hold for an adapter too: read them before you pass it on.",
        f"- Data: {_plain(data['licence'] or 'not stated; ask before you publish what was trained on it')}.",
    ]
    return "\n".join(lines) + "\n"


def _base_link(base: Row) -> str:
    if base["repo"]:
        return f"[{base['repo']}](https://huggingface.co/{base['repo']}) at `{base['revision'][:12]}`"
    return f"`{base['model']}`, whose files are named below by digest"


def _results(losses: Row) -> list[str]:
    if losses["lowest"] is None:
        return ["The validation loss was not measured."]
    untuned = "not measured" if losses["base"] is None else f"{losses['base']:.4f}"
    rows: list[tuple[str, Any]] = [("validation loss (nats per token)", "value"), ("untuned", untuned)]
    rows += [("tuned, lowest", f"{losses['lowest']:.4f}")]
    rows += [("tuned, last", f"{losses['last']:.4f}")] if losses["last"] is not None else []
    rows += [("training loss, last step", f"{losses['train']:.4f}")] if losses["train"] is not None else []
    return [
        *_table(rows),
        "",
        "Scores by judges, with intervals, are in the study's report, not here: they may change.",
    ]


def _loading(card: Row) -> list[str]:
    base, recipe = card["base"], card["recipe"]
    local = base["repo"] is None or base["format"] == "gguf"
    name = f"resources/models/{base['model']}/student" if local else base["repo"]
    revision = "" if local else f', revision="{base["revision"]}"'
    served = "" if local else f" --revision {base['revision']}"
    rank = next((r for r in _VLLM_RANKS if r >= recipe["rank"]), _VLLM_RANKS[-1])
    quantised = [
        "",
        "It was trained beside weights in 4 bits. With the same:",
        "",
        "```python",
        "from transformers import BitsAndBytesConfig",
        "",
        'nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="bfloat16",',
        f"                         bnb_4bit_use_double_quant={recipe.get('double_quantisation', True)})",
        f'base = AutoModelForCausalLM.from_pretrained("{name}"{revision}, quantization_config=nf4)',
        "```",
    ]
    return [
        "With plain PEFT:" if not local else f"With plain PEFT; `{name}` is what the rule `prepare_student` makes:",
        *("", "```python"),
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'base = AutoModelForCausalLM.from_pretrained("{name}"{revision}, dtype="bfloat16")',
        'model = PeftModel.from_pretrained(base, "path/to/this/folder")',
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")',
        'question = [{"role": "user", "content": "…"}]',
        "inputs = tokenizer.apply_chat_template(",
        '    question, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
        ")",
        "answer = model.generate(**inputs, max_new_tokens=128, do_sample=False)",
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))',
        "```",
        *(quantised if recipe["kind"] == "qlora" else []),
        *("", "Merged into its base, as a transformers folder, with a measurement of what merging changes:", ""),
        *("```", f"make merge RUN={card['run']}", "```"),
        *("", "Served by vLLM, the base and the adapter side by side:", "", "```"),
        f"vllm serve {name}{served} --dtype bfloat16 --enable-lora --max-lora-rank {rank} \\",
        f"    --lora-modules {card['method']}=path/to/this/folder \\",
        "    --chat-template path/to/this/folder/chat_template.jinja",
        "```",
    ]


def _made_with(card: Row) -> str:
    cost = card["cost"]
    said = []
    if cost["hardware"]:
        said.append(f"On {_plain(_words(cost['hardware']))}.")
    if cost["seconds"] is not None:
        said.append(f"{cost['seconds']:,.0f} seconds of training, all attempts together.")
    if cost["peak_mb"] is not None:
        said.append(f"Peak memory {cost['peak_mb']:,.0f} MB {'of the GPU' if cost['gpu'] else 'of the process'}.")
    versions = ", ".join(f"{package} {version}" for package, version in card["versions"].items())
    return " ".join([*said, f"Versions: {versions or 'not stated'}."])


def _words(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def _digests(card: Row) -> list[tuple[str, str]]:
    base = [(sha256, f"base, as prepared here: {name}") for name, sha256 in card["base"]["files"].items()]
    data = [(sha256, f"data: {split}.jsonl") for split, sha256 in card["dataset"]["sha256"].items()]
    return [(card["sha256"], "adapter_model.safetensors"), *data, *base]


def _flat(recipe: Row, prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else value))
    return rows


def _table(rows: Sequence[tuple[Any, Any]]) -> list[str]:
    head, *body = [f"| {_plain(str(a))} | {_plain(str(b))} |" for a, b in rows]
    return [head, "|---|---|", *body]


def _plain(text: str) -> str:
    """One line, in which Markdown and HTML are words."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    for sign in "\\`*|[]":
        line = line.replace(sign, f"\\{sign}")
    return line
