"""Time this repository's trainer beside TRL's SFTTrainer on one GPU, on Llama-2-7B's shape: `make bench-gpu`.

    python benchmarks/gpu.py [--rounds 2] [--minutes 8] [--steps 24]

Nothing is fetched: the weights are drawn on the GPU (speed does not depend on their values), rows are random words with
the two studies' lengths. The recipes are read from studies/: the paper's (LoRA in bf16, on one GPU) and the
dissertation's (QLoRA). Both contenders see the same rows in the same steps, and learn the answers only. TRL is as it
comes, with gradient checkpointing on; where the recipe does not ask for it, also without.

Contenders take turns, each in a process of its own. Figures are of the steps after the first --warm, in wall time: no
loading, no evaluation. MFU counts useful FLOPs by tuneproof.training.compute, for all by the same formula. --try runs
all of it with a tiny model on a CPU, to see that it works; those figures mean nothing and are not written.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from llm import HERE, machine

ROOT = HERE.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]
SEED = 1
# setting: study, method, and the mean lengths of its rows in tokens, prompt and answer
SETTINGS = {
    "LoRA bf16, paper": ("beyond-qa-pairs", "lora-paper", 80, 40),
    "QLoRA, dissertation": ("tweetsum", "qlora-dissertation", 350, 40),
}
OURS, TRL, TRL_KEEPS = "ours", "TRL SFTTrainer", "TRL SFTTrainer, no checkpointing"
METRICS = {"samples_per_s": "1/s", "tokens_per_s": "1/s", "mfu": "share", "peak_reserved_gb": "GB", "seconds": "s"}
TINY = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512,
}  # fmt: skip


def recipe(setting: str) -> dict[str, Any]:
    """The study's method, on one device and for one epoch."""
    import yaml

    study, method, *_ = SETTINGS[setting]
    section = yaml.safe_load((ROOT / f"studies/{study}.yaml").read_text())["methods"][method]
    return {**section, "devices": 1, "epochs": 1, "evaluations": 1, "save_steps": 100_000}


def contenders(setting: str) -> list[str]:
    return [OURS, TRL] if recipe(setting).get("gradient_checkpointing") is True else [OURS, TRL, TRL_KEEPS]


def prepare(folder: Path, steps: int, tiny: bool) -> None:
    """Write the student without weights, and the rows of each setting."""
    from random_llama import VOCABULARY, make_shape, write_random_rows

    make_shape(folder / "student", **(TINY if tiny else {}))
    words = TINY["vocab_size"] if tiny else VOCABULARY
    for i, setting in enumerate(SETTINGS):
        spec, (_, _, prompt, answer) = recipe(setting), SETTINGS[setting]
        count = steps * spec["batch_size"] * spec["accumulation"]
        lengths = (prompt // 10, answer // 10) if tiny else (prompt, answer)
        write_random_rows(folder / f"{i}.train.jsonl", count, *lengths, seed=i, vocabulary=words)
        write_random_rows(folder / f"{i}.val.jsonl", 2, *lengths, seed=100 + i, vocabulary=words)


def rows_in_order(folder: Path, setting: str) -> tuple[list[Any], list[list[int]]]:
    """Return the rows in tokens, and which of them each step sees."""
    from transformers import AutoTokenizer

    from tuneproof.training.order import Order
    from tuneproof.training.rows import read_rows

    spec = recipe(setting)
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    name = f"{list(SETTINGS).index(setting)}.train.jsonl"
    rows = read_rows(folder / name, tokenizer, spec["max_tokens"], "refuse").rows
    order = Order(
        [len(row.tokens) for row in rows], spec["batch_size"] * spec["accumulation"], spec["accumulation"], SEED
    )
    return rows, order.steps(0)


def useful(folder: Path, setting: str, warm: int) -> dict[str, float]:
    """Rows, tokens and FLOPs of the steps that are timed."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from tuneproof.training.compute import Shape

    spec = recipe(setting)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder / "student"))
        model = get_peft_model(model, LoraConfig(r=spec["rank"], target_modules=spec["targets"]))
    shape = Shape.of(model, False)
    rows, steps = rows_in_order(folder, setting)
    work = {"rows": 0.0, "tokens": 0.0, "flops": 0.0}
    for step in steps[warm:]:
        lengths = [len(rows[i].tokens) for i in step]
        work["rows"] += len(step)
        work["tokens"] += sum(lengths)
        work["flops"] += shape.flops(lengths, sum(len(rows[i].tokens) - rows[i].prompt for i in step))
    return work


def run_ours(folder: Path, setting: str, warm: int) -> dict[str, Any]:
    """scripts/train.py on the student whose weights are drawn; its own telemetry has the times."""
    i = list(SETTINGS).index(setting)
    out = folder / f"ours.{i}.{time.monotonic_ns()}"
    command = [
        sys.executable, ROOT / "tests/random_llama.py", "--", "--spec", json.dumps(recipe(setting)),
        "--student", folder / "student/lock.json", "--train", folder / f"{i}.train.jsonl",
        "--val", folder / f"{i}.val.jsonl", "--seed", SEED, "--checkpoints", f"{out}.checkpoints", "--out", out,
    ]  # fmt: skip
    used = json.loads(call(command, folder))
    lines = [json.loads(line) for line in (out / "telemetry.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "step_seconds" in line]
    log = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
    return {
        "seconds": steps[-1]["seconds"] - steps[warm - 1]["seconds"],
        "peak_reserved_gb": max(step["gpu_reserved_mb"] or 0 for step in steps) * 2**20 / 1e9,
        "losses": [row["loss"] for row in log if "loss" in row],
        "checkpointing": used["checkpointing"],
        "attention": used["attention"],
    }


def run_trl(folder: Path, setting: str, warm: int, checkpointing: bool) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", setting, "--folder", folder, "--warm", warm]
    return json.loads(call([*command, *([] if checkpointing else ["--no-checkpointing"])], folder))


def call(command: list[Any], folder: Path) -> str:
    """Run a contender; return the last line that it wrote."""
    paths = os.pathsep.join([str(ROOT / "scripts"), str(ROOT / "tests")])
    own = {
        **os.environ, "PYTHONPATH": paths, "XDG_CACHE_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "datasets"),
    }  # fmt: skip
    done = subprocess.run(list(map(str, command)), env=own, capture_output=True, text=True, timeout=540, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command[:3]))}: {done.stderr[-4000:]}")
    return done.stdout.splitlines()[-1]


def train_with_trl(folder: Path, setting: str, warm: int, checkpointing: bool) -> dict[str, Any]:
    """TRL's SFTTrainer on the same rows in the same order; in this process."""
    import datasets
    import peft
    import torch
    import trl
    from random_llama import draw_weights
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback

    on_gpu = torch.cuda.is_available()
    spec = recipe(setting)
    rows, steps = rows_in_order(folder, setting)
    draw_weights()
    options: dict[str, Any] = {"dtype": torch.bfloat16}
    if spec["kind"] == "qlora":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=spec["double_quantisation"],
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "student", **options)
    ends: list[float] = []
    losses: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if on_gpu:
                torch.cuda.synchronize()
            ends.append(time.monotonic())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))

    data = [
        {"input_ids": row.tokens, "labels": [-100] * row.prompt + row.tokens[row.prompt :]}
        for row in (rows[i] for step in steps for i in step)
    ]
    arguments = trl.SFTConfig(
        output_dir=str(folder / "trl"),
        seed=SEED,
        use_cpu=not on_gpu,
        max_length=spec["max_tokens"],
        train_sampling_strategy="sequential",
        num_train_epochs=1,
        per_device_train_batch_size=spec["batch_size"],
        gradient_accumulation_steps=spec["accumulation"],
        gradient_checkpointing=checkpointing,
        learning_rate=spec["learning_rate"],
        lr_scheduler_type=spec["schedule"],
        warmup_steps=round(spec["warmup"] * len(steps)),
        weight_decay=spec.get("weight_decay", 0.0),
        max_grad_norm=spec.get("max_grad_norm", 1.0),
        optim=spec.get("optimizer", "adamw_torch_fused") if on_gpu else "adamw_torch_fused",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lora = peft.LoraConfig(
        r=spec["rank"],
        lora_alpha=spec["alpha"],
        lora_dropout=spec["dropout"],
        target_modules=spec["targets"],
        task_type="CAUSAL_LM",
    )
    trainer = trl.SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(data),
        processing_class=AutoTokenizer.from_pretrained(folder / "student"),
        peft_config=lora,
        callbacks=[Watch()],
    )
    trainer.train()
    assert len(ends) == len(steps), f"{len(ends)} steps were made of {len(steps)}"
    return {
        "seconds": ends[-1] - ends[warm - 1],
        "peak_reserved_gb": torch.cuda.max_memory_reserved() / 1e9 if on_gpu else 0.0,
        "losses": losses,
        "checkpointing": checkpointing,
        "attention": model.config._attn_implementation,
    }


def measure(folder: Path, setting: str, contender: str, warm: int) -> dict[str, Any]:
    if contender == OURS:
        return run_ours(folder, setting, warm)
    return run_trl(folder, setting, warm, checkpointing=contender == TRL)


def rows_of(measured: dict[tuple[str, str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    rows = []
    for (setting, contender), results in measured.items():
        for metric, unit in METRICS.items():
            values = [round(result[metric], 4) for result in results]
            median = statistics.median(values)
            rows.append(
                {
                    "contender": f"{contender}: {setting}", "ours": contender == OURS, "metric": metric, "unit": unit,
                    "values": values, "median": round(median, 4),
                }
            )  # fmt: skip
    return rows


def gpu() -> dict[str, Any]:
    import torch

    from tuneproof.training.compute import peak_flops

    peak, source = peak_flops("cuda", "bf16")
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name, "gpu_memory_gb": round(properties.total_memory / 1e9, 1), "cuda": torch.version.cuda,
        "peak_flops": peak, "peak_source": source,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="times that every contender runs")
    parser.add_argument("--minutes", type=float, default=8, help="a round that would end later is not begun")
    parser.add_argument("--steps", type=int, default=24, help="optimiser steps of a run")
    parser.add_argument("--warm", type=int, default=6, help="of these, the first that are not timed")
    parser.add_argument("--out", type=Path, default=HERE / "gpu.json", help="file to write")
    parser.add_argument("--try", dest="tiny", action="store_true", help="a tiny model on a CPU; nothing is written")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--no-checkpointing", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(train_with_trl(args.folder, args.measure, args.warm, not args.no_checkpointing)))
        return
    import torch

    if not args.tiny and not torch.cuda.is_available():
        sys.exit("bench-gpu: torch sees no GPU here; run it on a machine with one (docs/gpu.md), or with --try")
    if not 0 < args.warm < args.steps:
        sys.exit(f"bench-gpu: --warm {args.warm} of --steps {args.steps}: expected at least one of each kind")
    where: dict[str, Any] = {**machine(), **({} if args.tiny else gpu())}
    began = time.monotonic()
    measured: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, args.steps, args.tiny)
        work = {setting: useful(folder, setting, args.warm) for setting in SETTINGS}
        for turn in range(args.rounds):
            spent = time.monotonic() - began
            if turn and spent * (turn + 1) / turn > args.minutes * 60:
                print(
                    f"round {turn + 1} is left out: it would not end within {args.minutes:g} minutes", file=sys.stderr
                )
                break
            for setting in SETTINGS:
                names = contenders(setting)
                for contender in names if turn % 2 == 0 else names[::-1]:
                    result = measure(folder, setting, contender, args.warm)
                    seconds = result["seconds"]
                    result["samples_per_s"] = work[setting]["rows"] / seconds
                    result["tokens_per_s"] = work[setting]["tokens"] / seconds
                    result["mfu"] = work[setting]["flops"] / seconds / where.get("peak_flops", float("inf"))
                    measured.setdefault((setting, contender), []).append(result)
                    said = {key: result[key] for key in (*METRICS, "checkpointing", "attention")}
                    print(f"round {turn + 1}: {contender}: {setting}: {said}", file=sys.stderr, flush=True)
            if not args.tiny:
                write(args, where, measured)
    print("| what | metric | median |\n|---|---|---:|")
    for row in rows_of(measured):
        print(f"| {row['contender']} | {row['metric']} | {row['median']} {row['unit']} |")


def write(args: argparse.Namespace, where: dict[str, Any], measured: dict[tuple[str, str], list[Any]]) -> None:
    """Write what there is after a round: a run that is cut off leaves the rounds before."""
    packages = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes")
    settings = {
        f"{contender}: {setting}": {key: results[0][key] for key in ("checkpointing", "attention")}
        | {"first_loss": results[0]["losses"][0], "last_loss": results[0]["losses"][-1]}
        for (setting, contender), results in measured.items()
    }
    result = {
        "machine": where,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "command": "python " + " ".join(sys.argv),
        "settings": {"steps": args.steps, "warm": args.warm, "recipes": {s: recipe(s) for s in SETTINGS}, **settings},
        "rows": rows_of(measured),
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
