"""Time this repository's trainer beside transformers' Trainer, TRL and LLaMA-Factory: `make bench-train`.

    TUNEPROOF_DATA=… python benchmarks/train.py [--rounds 2] [--rows 200] [--val-rows 40] [--switch-rows 48]

All fine-tune the same student on the same summaries of TWEETSUM's dialogues ($TUNEPROOF_DATA/tweetsumm), on this
machine's CPU, in bf16 where it multiplies in it and else in fp32, by one recipe (RECIPE), for one epoch, learning the
answers only; that all were trained on the same tokens is checked batch by batch. Each contender has an environment of
its own under benchmarks/local, made here with the same torch. Contenders take turns, round by round, beginning with
another one each time. One evaluator measures the validation loss of all adapters, in fp32. Then ours is run with one of
its switches turned at a time.

Seconds are those of the training loop, without imports, loading and saving; memory is the highest resident memory of
the process and its children. MFU counts useful work only (useful_flops) and divides by the most that matmuls of the
model's own shapes in that precision reached on this machine, measured before and after every round.
"""

import argparse
import dataclasses
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from llm import HERE, LOCAL, machine

sys.path.insert(0, str(HERE.parent / "scripts"))
from tuneproof.arithmetic import dtype_of, fast_precision

ROOT = HERE.parent
WORK = LOCAL / "train"
STUDENT = ROOT / "resources/models/smollm2-135m-instruct/student"
TORCH = "torch==2.13.0"
# without warm-up, because ours counts it as a share of the steps, the others in steps
RECIPE = {
    "rank": 16, "alpha": 32, "batch": 8, "learning_rate": 2e-4, "schedule": "cosine", "max_grad_norm": 1.0,
    "max_tokens": 1024, "seed": 1, "precision": fast_precision(),
}  # fmt: skip
PACKAGES = {
    "peft_trainer": ["transformers==5.23.0", "peft==0.21.2", "accelerate==1.15.0"],
    "trl_sft": ["trl==1.16.0", "transformers==5.23.0", "peft==0.21.2", "accelerate==1.15.0", "datasets==5.2.0"],
    "llama_factory": ["llamafactory==0.9.5"],  # wants transformers up to 5.6.0, peft 0.18, trl up to 0.24.0
}
SYSTEM = "You summarise conversations between a customer and a company's support."
ASK = "Summarise this conversation in two sentences."


@dataclasses.dataclass(frozen=True)
class Contender:
    """A trainer and how it is set. `keep`: glibc is told to keep its memory (KEEP_MEMORY), as our rule tells it."""

    runner: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    keep: bool = False


KEPT = " + GLIBC_TUNABLES"
CONTENDERS = {
    "ours": Contender("ours", keep=True),
    "transformers Trainer": Contender("peft_trainer"),
    f"transformers Trainer{KEPT}": Contender("peft_trainer", keep=True),
    # what a user does who has read everything: one option each
    f"transformers Trainer, grouped by length{KEPT}": Contender(
        "peft_trainer", {"train_sampling_strategy": "group_by_length"}, keep=True
    ),
    "TRL SFTTrainer": Contender("trl_sft"),
    f"TRL SFTTrainer{KEPT}": Contender("trl_sft", keep=True),
    f"TRL SFTTrainer, no checkpointing{KEPT}": Contender("trl_sft", {"gradient_checkpointing": False}, keep=True),
    "LLaMA-Factory": Contender("llama_factory"),
    f"LLaMA-Factory{KEPT}": Contender("llama_factory", keep=True),
    f"LLaMA-Factory, no checkpointing{KEPT}": Contender(
        "llama_factory", {"disable_gradient_checkpointing": True}, keep=True
    ),
}
SWITCHES = {
    "ours, few rows": Contender("ours", keep=True),
    "ours without GLIBC_TUNABLES": Contender("ours"),
    "ours without packing": Contender("ours", {"packing": False}, keep=True),
    "ours without answer_logits": Contender("ours", {"answer_logits": False}, keep=True),
    "ours with attention sdpa": Contender("ours", {"attention": "sdpa"}, keep=True),
    "ours with attention eager": Contender("ours", {"attention": "eager"}, keep=True),
    "ours without fused": Contender("ours", {"fused": False}, keep=True),
    "ours with compile": Contender("ours", {"compile": True}, keep=True),
}
METRICS = {
    "tokens_per_s": "1/s", "mfu": "share", "padding_share": "share", "train_s": "s", "peak_mb": "MB",
    "val_loss": "nats/token",
}  # fmt: skip


def messages(row: dict[str, Any]) -> list[dict[str, str]]:
    """A dialogue of TWEETSUM and its first summary as messages, cleaned as the published recipe cleans it."""

    def clean(text: str) -> str:
        for pattern in (r"http\S+", r"@[^\s]+", r"\^[^ ]+"):  # links, names, agents' initials
            text = re.sub(pattern, " ", text)
        return " ".join(text.split())

    said = [f"{turn['role']}: {text}" for turn in row["turns"] if (text := clean(turn["text"]))]
    summary = next(summary for summary in row["abstractive"] if summary)  # some are null
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{ASK}\n\n" + "\n".join(said)},
        {"role": "assistant", "content": " ".join(" ".join(summary).split())},
    ]


def prepare(source: Path, n: int, tokenizer: Any, out: Path) -> list[dict[str, Any]]:
    """Write the first n rows that are not too long, as messages for all and as the tokens that all have to train on."""
    rows, tokens = [], []
    for line in source.read_text().splitlines():
        row = json.loads(line)
        talk = messages(row)
        ids = tokenizer.apply_chat_template(talk, return_dict=False)
        prompt = tokenizer.apply_chat_template(talk[:-1], return_dict=False, add_generation_prompt=True)
        assert ids[: len(prompt)] == prompt
        if len(ids) <= RECIPE["max_tokens"] and len(rows) < n:
            identity = dict.fromkeys(("id", "pair_id", "chunk_id", "page_id", "group"), row["id"])
            more = {"url": "", "split": row["split"], "question": talk[1]["content"], "answer": talk[2]["content"]}
            rows.append({**identity, **more, "messages": talk})
            tokens.append({"ids": ids, "prompt": len(prompt)})
    if len(rows) < n:
        sys.exit(f"{source}: {len(rows)} rows of at most {RECIPE['max_tokens']} tokens, expected {n}")
    out.parent.mkdir(parents=True, exist_ok=True)
    for file, content in ((out, rows), (tokens_of(out), tokens)):
        file.write_text("".join(json.dumps(row) + "\n" for row in content))
    return tokens


def tokens_of(file: Path) -> Path:
    return file.with_suffix(".tokens.jsonl")


def linear_shapes(config: dict[str, Any]) -> list[tuple[int, int]]:
    """Inputs and outputs of the linear layers of one block of a Llama."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    attention = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    return [*attention, (hidden, inner), (hidden, inner), (inner, hidden)]


def useful_flops(config: dict[str, Any], rank: int, lengths: list[int], answers: list[int]) -> float:
    """Floating-point operations that one epoch of LoRA on all linear layers needs, whoever trains.

    A frozen weight costs 4 a token (2 forward, 2 for the gradient of its input), an adapter's 6 (2 more for its own
    gradient); the output layer, which is frozen, 4 for each token of an answer; attention 12 times its width for each
    pair of a token and one that it sees (2 products forward, 4 backward). Padding, logits of prompts, pairs that the
    mask hides and what checkpointing computes again count nothing.
    """
    shapes = linear_shapes(config)
    layers, width = config["num_hidden_layers"], config["num_attention_heads"] * config["head_dim"]
    frozen = layers * sum(inputs * outputs for inputs, outputs in shapes)
    adapters = layers * sum(rank * (inputs + outputs) for inputs, outputs in shapes)
    pairs = sum(length * (length + 1) / 2 for length in lengths)
    logits = 4 * config["hidden_size"] * config["vocab_size"] * sum(answers)
    return (4 * frozen + 6 * adapters) * sum(lengths) + 12 * width * layers * pairs + logits


def matmul_bound(config: dict[str, Any], tokens: int = 2800) -> float:
    """GFLOP/s of matmuls of a block's shapes, for about as many tokens as a batch has: the best of twenty."""
    import torch

    dtype, operands = dtype_of(RECIPE["precision"]), []
    for inputs, outputs in linear_shapes(config):
        operands.append((torch.randn(tokens, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)))
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        for left, right in operands:
            torch.nn.functional.linear(left, right)
        best = min(best, time.perf_counter() - began)
    return sum(2 * tokens * inputs * outputs for inputs, outputs in linear_shapes(config)) / best / 1e9


def environment(runner: str, torch: str) -> Path:
    """The Python of a contender's environment, which is made where it is not there: torch first, and then kept."""
    if runner == "ours":
        return Path(sys.executable)
    folder = LOCAL / runner
    done, wanted = folder / "installed.json", [torch, *PACKAGES[runner]]
    if not done.exists() or json.loads(done.read_text()) != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        kept = folder / "torch.txt"
        kept.write_text(TORCH + "\n")
        subprocess.run([*pip, *shlex.split(torch)], check=True)
        subprocess.run([*pip, "--constraint", str(kept), *PACKAGES[runner]], check=True)
        if runner == "llama_factory":
            without_cuda(folder)
        done.write_text(json.dumps(wanted))
    return folder / "bin/python"


def without_cuda(folder: Path) -> None:
    """Make LLaMA-Factory's environment importable beside a CPU build of torch, where that is what there is.

    It wants torchvision and torchaudio, whose wheels on a package index are built for CUDA: beside a CPU build they
    cannot be loaded, and transformers fails with torchvision. Neither does anything for text: torchvision, which is
    optional, goes; torchaudio, which is imported, stays without its compiled part.
    """
    python = str(folder / "bin/python")
    if subprocess.run([python, "-c", "import torchvision, torchaudio"], capture_output=True).returncode:
        subprocess.run([python, "-m", "pip", "uninstall", "-qq", "--yes", "torchvision"], check=True)
        for compiled in folder.glob("lib/python*/site-packages/torchaudio/lib/*.so"):
            compiled.unlink()


def variables(keep: bool) -> dict[str, str]:
    """The environment of a run: offline, on the CPU, telling nobody; KEEP_MEMORY is what rules/common.smk says."""
    dropped = ("GLIBC_TUNABLES", "PYTHONPATH", "VIRTUAL_ENV")
    plain = {k: v for k, v in os.environ.items() if k not in dropped and not k.lower().endswith("_proxy")}
    plain |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(WORK / "hf")}
    plain |= {"WANDB_MODE": "disabled", "DO_NOT_TRACK": "1", "CUDA_VISIBLE_DEVICES": ""}
    if keep:
        found = re.search(r"GLIBC_TUNABLES=([^\s\"]+)", (ROOT / "rules/common.smk").read_text())
        assert found
        plain["GLIBC_TUNABLES"] = found[1]
    return plain


def watched(command: list[str], keep: bool, log: Path) -> float:
    """Run a command, its output into a file; return the highest resident megabytes of it and its children."""
    import psutil

    peak = 0
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=variables(keep), stdout=stream, stderr=subprocess.STDOUT, cwd=ROOT)
        family = psutil.Process(process.pid)
        while process.poll() is None:
            resident = 0
            try:
                for member in (family, *family.children(recursive=True)):
                    resident += member.memory_info().rss
            except psutil.NoSuchProcess:
                continue  # one has just ended
            peak = max(peak, resident)
            time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"{shlex.join(command[:3])} …: exit {process.returncode}\n{log.read_text()[-3000:]}")
    return peak / 2**20


def adapter_of(name: str) -> Path:
    return WORK / "runs" / re.sub(r"\W+", "-", name) / "adapter"


def run(name: str, contender: Contender, train: Path, val: Path, torch: str) -> dict[str, Any]:
    """One training; its measurements, and the adapter in adapter_of(name)."""
    python, out = environment(contender.runner, torch), adapter_of(name).parent
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    if contender.runner == "ours":
        return run_ours(contender, train, val, out)
    todo = {"model": STUDENT, "train": train, "tokens": tokens_of(train), "out": out / "adapter"}
    todo = {key: str(path) for key, path in todo.items()} | {"recipe": RECIPE, "options": contender.options}
    (out / "job.json").write_text(json.dumps(todo, indent=2))
    command = [str(python), str(HERE / f"trainers/{contender.runner}.py"), str(out / "job.json")]
    peak = watched(command, contender.keep, out / "log")
    return {"peak_mb": peak, **json.loads((out / "log").read_text().rstrip().splitlines()[-1])}


def run_ours(contender: Contender, train: Path, val: Path, out: Path) -> dict[str, Any]:
    """Our trainer, as its rule calls it. It evaluates at the end of an epoch: on one row, the others do not at all."""
    first = out / "val.jsonl"
    first.write_text(val.read_text().splitlines()[0] + "\n")
    spec = {
        "kind": "lora", "rank": RECIPE["rank"], "alpha": RECIPE["alpha"], "epochs": 1, "warmup": 0.0,
        "learning_rate": RECIPE["learning_rate"], "schedule": RECIPE["schedule"], "batch_size": RECIPE["batch"],
        "max_grad_norm": RECIPE["max_grad_norm"], "max_tokens": RECIPE["max_tokens"], "save_steps": 10_000,
        "precision": RECIPE["precision"],
        "speed": contender.options,
    }  # fmt: skip
    command = [sys.executable, "scripts/train.py", "--spec", json.dumps(spec), "--student", str(STUDENT / "lock.json")]
    command += ["--train", str(train), "--val", str(first), "--seed", str(RECIPE["seed"])]
    command += ["--checkpoints", str(out / "checkpoints"), "--out", str(out)]
    peak = watched(command, contender.keep, out / "log")
    written = json.loads((out / "spec.json").read_text())
    seconds = written.get("train_seconds")
    if seconds is None:  # the steps after the first one, and as much again for it
        steps = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
        at = [step["at"] for step in steps if step["event"] == "step"]
        seconds = (at[-1] - at[0]) * len(at) / (len(at) - 1)
    tokens = [json.loads(line) for line in tokens_of(train).read_text().splitlines()]
    return {
        "peak_mb": peak,
        "train_s": seconds,
        "tokens": sum(len(row["ids"]) for row in tokens),
        "padding_share": written.get("padding_share"),
    }


def child(*arguments: str) -> Any:
    """What a script prints as its last line, in an own process of this environment."""
    done = subprocess.run([sys.executable, *arguments], env=variables(False), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{arguments[0]}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def complete(result: dict[str, Any], name: str, flops: float, val: Path) -> dict[str, Any]:
    """The measurements with rates and validation loss."""
    adapter = str(adapter_of(name))
    command = (str(HERE / "trainers/evaluate.py"), "--model", str(STUDENT), "--tokens", str(tokens_of(val)), adapter)
    losses = child(*command)
    rates = {"tokens_per_s": result["tokens"] / result["train_s"], "gflops": flops / result["train_s"] / 1e9}
    return {**result, **rates, "val_loss": losses[adapter], "base_loss": losses["base"]}


def row(contender: str, metric: str, unit: str, values: list[float]) -> dict[str, Any]:
    digits = 1 if unit == "MB" else 4
    rounded = [round(value, digits) for value in values]
    ours = contender.startswith("ours")
    median = statistics.median(rounded)
    return {"contender": contender, "ours": ours, "metric": metric, "unit": unit, "values": rounded, "median": median}


def turned(names: list[str], turn: int, rounds: int) -> list[str]:
    """The names in the order of a round: each round begins further on, so that none is always the first."""
    start = turn * max(1, len(names) // rounds) % len(names)
    return names[start:] + names[:start]


def table(rows: list[dict[str, Any]], names: list[str]) -> str:
    medians = {(r["contender"], r["metric"]): r["median"] for r in rows}
    lines = ["| trainer | tokens/s | MFU | padding | seconds | peak GB | validation loss |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    forms = {"tokens_per_s": "{:.0f}", "mfu": "{:.1%}", "padding_share": "{:.1%}", "train_s": "{:.1f}"}
    for name in names:
        cells = []
        for metric in METRICS:
            value = medians.get((name, metric))
            if metric == "peak_mb" and value is not None:
                value /= 1024
            form = {**forms, "peak_mb": "{:.1f}", "val_loss": "{:.3f}"}[metric]
            cells.append("–" if value is None else form.format(value))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratio(rows: list[dict[str, Any]]) -> str:
    """Ours beside the fastest of the others, as they come and however set."""
    rates = {r["contender"]: r["median"] for r in rows if r["metric"] == "tokens_per_s"}
    others = {name: rate for name, rate in rates.items() if name in CONTENDERS and name != "ours"}
    lines = []
    groups = {"as they come": [n for n in others if KEPT not in n], "however set": list(others)}
    for how, names in groups.items():
        if "ours" in rates and names:
            best = max(names, key=lambda name: others[name])
            lines.append(f"ours : best of the others, {how} ({best}): {rates['ours'] / others[best]:.2f}")
    return "\n".join(lines)


def write(
    out: Path,
    measured: dict[str, list[dict[str, Any]]],
    bounds: list[float],
    amounts: dict[int, dict[str, Any]],
    refused: dict[str, str],
) -> list[dict[str, Any]]:
    """Write what is measured so far, and return its rows: a run that is stopped leaves what it has."""
    rows = []
    for name, results in measured.items():
        for result in results:
            result["mfu"] = result["gflops"] / max(bounds)
        for metric, unit in METRICS.items():
            values = [result[metric] for result in results if result[metric] is not None]
            if values:
                rows.append(row(name, metric, unit, values))
    every = [result for results in measured.values() for result in results]
    rows.append(row("base", "val_loss", METRICS["val_loss"], [every[0]["base_loss"]]))
    rows.append(row(f"{RECIPE['precision']} matmul of the model's shapes", "rate", "GFLOP/s", bounds))
    result = {
        "machine": machine(),
        "versions": {CONTENDERS[n].runner: r[0]["versions"] for n, r in measured.items() if "versions" in r[0]},
        "command": "python " + " ".join(sys.argv),
        "threads": os.environ.get("OMP_NUM_THREADS", "as torch chooses"),
        "recipe": RECIPE,
        "data": amounts,
        "failed": refused,
        "rows": rows,
    }
    out.write_text(json.dumps(result, indent=2) + "\n")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="times that every contender runs")
    parser.add_argument("--rows", type=int, default=200, help="rows that are trained on")
    parser.add_argument("--val-rows", type=int, default=40, help="rows that the validation loss is measured on")
    parser.add_argument("--switch-rows", type=int, default=48, help="rows of the runs with a switch turned; 0: none")
    parser.add_argument("--only", default="", help="trainers whose name has this regular expression; ^$: none")
    parser.add_argument("--torch", default=TORCH, help="how pip gets torch, as `make setup` is told: version and index")
    parser.add_argument("--out", type=Path, default=HERE / "train.json", help="file to write")
    parser.add_argument("--bound", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    config = json.loads((STUDENT / "config.json").read_text())
    if args.bound:
        return print(matmul_bound(config))
    data = Path(os.environ.get("TUNEPROOF_DATA") or sys.exit("TUNEPROOF_DATA is not set: the folder of tweetsumm/"))

    import transformers  # here, because the hidden run of the bound needs none of it

    tokenizer = transformers.AutoTokenizer.from_pretrained(STUDENT)
    val, measured, refused = WORK / "val.jsonl", {}, {}
    prepare(data / "tweetsumm/val.jsonl", args.val_rows, tokenizer, val)
    parts = [({name: c for name, c in CONTENDERS.items() if re.search(args.only, name)}, args.rows)]
    if args.switch_rows:
        compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
        switches = {name: c for name, c in SWITCHES.items() if compiler or "compile" not in c.options}
        parts.append((switches, args.switch_rows))
    amounts, bounds = {}, []
    for contenders, n in parts:
        train = WORK / f"train-{n}.jsonl"
        tokens = prepare(data / "tweetsumm/train.jsonl", n, tokenizer, train)
        lengths = [len(row["ids"]) for row in tokens]
        answers = [len(row["ids"]) - row["prompt"] for row in tokens]
        flops = useful_flops(config, RECIPE["rank"], lengths, answers)
        amounts[n] = {"tokens": sum(lengths), "answer_tokens": sum(answers), "longest": max(lengths), "flops": flops}
        for contender in contenders.values():
            environment(contender.runner, args.torch)
        for turn in range(args.rounds if contenders else 0):
            bounds.append(child(__file__, "--bound"))
            for name in turned(list(contenders), turn, args.rounds):
                if name in refused:
                    continue
                try:
                    result = run(name, contenders[name], train, val, args.torch)
                except RuntimeError as error:
                    refused[name] = str(error).partition("\n")[0]
                    print(f"{name} failed: {error}", file=sys.stderr, flush=True)
                    continue
                result = complete(result, name, flops, val)
                measured.setdefault(name, []).append(result)
                write(args.out, measured, bounds, amounts, refused)
                said = {key: value for key, value in result.items() if key not in ("losses", "versions")}
                print(f"round {turn + 1}: {name}: {said}", file=sys.stderr, flush=True)
    bounds.append(child(__file__, "--bound"))
    if not measured:
        sys.exit("no contender ran")
    rows = write(args.out, measured, bounds, amounts, refused)
    print(table(rows, ["base", *(name for name in CONTENDERS if name in measured)]))
    print(ratio(rows))
    if args.switch_rows:
        print("\n" + table(rows, [name for name in SWITCHES if name in measured]))
    if refused:
        sys.exit("failed: " + "; ".join(f"{name}: {why}" for name, why in refused.items()))
    return None


if __name__ == "__main__":
    main()
