"""Time this repository's students beside transformers' text-generation pipeline: `make bench-answers`.

    TUNEPROOF_DATA=… python benchmarks/answers.py [--prompts 110] [--rounds 1]

Four adapters of one student answer the same test dialogues of TWEETSUM ($TUNEPROOF_DATA/tweetsumm), greedily, at most
64 tokens each, on this machine's CPU. Nothing is trained: the adapters are random, and small enough that the student
still writes sentences. The contenders, each in a process of its own, take turns adapter by adapter, beginning
with another one each time:

    ours             the base is loaded once, adapters beside it; batches of 32 of like length; stored
    ours, in turn    the same, the base loaded anew for each adapter
    pipeline         transformers' text-generation pipeline, a dialogue at a time, an adapter at a time (PEFT)
    pipeline, merged the same with the adapter merged into the weights, which changes the answers

Loading is counted, imports are not.
"""

import argparse
import contextlib
import importlib.metadata
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm import HERE
from llm_local import row, same_beginning, show, write

ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "scripts"))
STUDENT = ROOT / "resources/models/smollm2-135m-instruct/student/lock.json"
SYSTEM = ROOT / "prompts/summarise_dialogue.txt"
ADAPTERS, MAX_TOKENS, BATCH = 4, 64, 32
# what rules/common.smk gives every job that trains or answers: freed blocks are not faulted in again at every step
KEEP_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4000000000"
CONTENDERS = ("ours", "ours, in turn", "pipeline", "pipeline, merged")
Messages = list[dict[str, str]]


def questions(n: int) -> list[Messages]:
    """The first n test dialogues, as the study of TWEETSUM asks for their summaries."""
    from tuneproof.dialogues.layouts import read
    from tuneproof.dialogues.rows import make_rows
    from tuneproof.study import Dialogues

    if not (data := os.environ.get("TUNEPROOF_DATA")):
        sys.exit("TUNEPROOF_DATA is not set, expected the folder that holds tweetsumm/")
    spec = Dialogues(path=str(Path(data, "tweetsumm")), clean=True)
    splits, _ = make_rows(read(spec), SYSTEM.read_text().strip(), cleaned=True)
    tests = splits["test_new_pages"] or splits["test_trained_pages"]
    return [example.messages[:-1] for example in tests[:n]]


def make_adapters(folder: Path) -> list[Path]:
    """Random LoRA adapters, rank 16 on all linear layers. B begins at zero in training: here it is small instead."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folders = [folder / f"adapter{n}" for n in range(ADAPTERS)]
    for n, path in enumerate(folders):
        torch.manual_seed(n)
        base = AutoModelForCausalLM.from_pretrained(STUDENT.parent, dtype=torch.bfloat16)
        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(base, lora)
        with torch.no_grad():
            for name, weights in model.named_parameters():
                if "lora_B" in name:
                    weights.normal_(0, 0.002)
        model.save_pretrained(path)
    return folders


def ours(shared: bool, asked: list[Messages], precision: str, store: Path) -> Callable[[Path], list[str]]:
    """Our engine, on a base that is loaded at the first adapter, or at each."""
    from tuneproof.answers import ask
    from tuneproof.llm.calls import Request
    from tuneproof.llm.transformers import Base, engine_id
    from tuneproof.training.fused import fuse

    requests = [Request(messages, MAX_TOKENS) for messages in asked]
    loaded: list[Base] = []

    def answer(adapter: Path) -> list[str]:
        if not shared:
            loaded.clear()
        if not loaded:
            loaded.append(Base(STUDENT, precision, fuse))
        identity = engine_id(STUDENT, adapter, BATCH, precision)
        answered = ask.answer(requests, identity, lambda: loaded[0].engine(adapter, BATCH), store, "bench")
        return [a.reply.text for a in answered]

    return answer


def pipeline(merged: bool, asked: list[Messages], precision: str) -> Callable[[Path], list[str]]:
    """The dissertation's way."""
    import torch
    import transformers
    from peft import PeftModel

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(STUDENT.parent)

    def answer(adapter: Path) -> list[str]:
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        base: Any = transformers.AutoModelForCausalLM.from_pretrained(STUDENT.parent, dtype=dtype)
        model: Any = PeftModel.from_pretrained(base, adapter)
        model = model.merge_and_unload() if merged else model
        pipe = transformers.pipeline("text-generation", model=model.eval(), tokenizer=tokenizer)
        options = {"max_new_tokens": MAX_TOKENS, "do_sample": False, "return_full_text": False}
        return [pipe(messages, **options)[0]["generated_text"].strip() for messages in asked]

    return answer


def work(contender: str, asked: list[Messages], precision: str, store: Path, connection: Any) -> None:
    """A contender's process: adapters come in, seconds and texts go out."""
    import peft  # noqa: F401
    import transformers

    transformers.logging.set_verbosity_error()
    if contender.startswith("ours"):
        answer = ours(contender == "ours", asked, precision, store)
    else:
        answer = pipeline("merged" in contender, asked, precision)
    connection.send("ready")
    while adapter := connection.recv():
        began = time.perf_counter()
        texts = answer(adapter)
        connection.send((time.perf_counter() - began, texts))


def compete(
    contenders: list[str], asked: list[Messages], precision: str, adapters: list[Path], store: Path
) -> dict[str, list[Any]]:
    """Return each contender's seconds and texts, adapter by adapter."""
    spawn = multiprocessing.get_context("spawn")
    results: dict[str, list[Any]] = {name: [] for name in contenders}
    with contextlib.ExitStack() as stack:
        ends = {}
        for name in contenders:
            mine, theirs = spawn.Pipe()
            process = spawn.Process(target=work, args=(name, asked, precision, store / name.replace(", ", "-"), theirs))
            process.start()
            theirs.close()  # so that one that dies is noticed
            stack.callback(process.join)
            stack.callback(mine.send, None)
            ends[name] = mine
            assert mine.recv() == "ready"
        for turn, adapter in enumerate(adapters):
            shift = turn % len(contenders)
            for name in (*contenders[shift:], *contenders[:shift]):
                ends[name].send(adapter)
                results[name].append(ends[name].recv())
                print(f"{adapter.name}: {name}: {results[name][-1][0]:.1f} s", file=sys.stderr, flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="times that every contender answers all")
    parser.add_argument("--prompts", type=int, default=110, help="dialogues that each adapter answers")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="arithmetic of all contenders")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="who takes part")
    parser.add_argument("--out", type=Path, default=HERE / "answers.json", help="file to write")
    args = parser.parse_args()
    asked = questions(args.prompts)
    os.environ["GLIBC_TUNABLES"] = KEEP_MEMORY  # for the contenders' processes, all of them
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        adapters = make_adapters(Path(folder))
        for n in range(args.rounds):
            rounds.append(compete(args.contenders, asked, args.precision, adapters, Path(folder, f"store{n}")))
    answers = len(asked) * ADAPTERS
    seconds = {name: [sum(took for took, _ in one[name]) for one in rounds] for name in args.contenders}
    rows = []
    for name in args.contenders:
        mine = name.startswith("ours")
        rows.append(row(name, mine, "answers_per_s", "1/s", [answers / total for total in seconds[name]]))
        rows.append(row(name, mine, "seconds", "s", seconds[name]))
    for name in args.contenders:
        if name == "ours" or "ours" not in args.contenders:
            continue
        times = [theirs / own for theirs, own in zip(seconds[name], seconds["ours"], strict=True)]
        rows.append(row(f"ours and {name}", True, "times_as_fast", "ratio", times))
        both = [
            (x, y)
            for (_, one), (_, other) in zip(rounds[0]["ours"], rounds[0][name], strict=True)
            for x, y in zip(one, other, strict=True)
        ]
        equal = statistics.mean(float(x == y) for x, y in both)
        begun = statistics.mean(same_beginning(x, y) / max(len(x), len(y), 1) for x, y in both)
        rows.append(row(f"ours and {name}", True, "equal_answers", "share", [equal]))
        rows.append(row(f"ours and {name}", True, "equal_beginning", "share", [begun]))
    versions = {package: importlib.metadata.version(package) for package in ("transformers", "peft", "torch")}
    write(args.out, versions, rows)
    show(rows)


if __name__ == "__main__":
    main()
