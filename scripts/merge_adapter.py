"""Merge a run's adapter into its base, as a transformers folder, and measure what merging changes.

    python scripts/merge_adapter.py --run m/lora/d/seed1 --out results/merged/m/lora/d/seed1

Writes the merged model in the base's type, with tokenizer and chat template, and merge.json: logits, next tokens and
validation loss of merged against unmerged. An adapter that was trained beside 4-bit weights is measured both ways,
merged into the base and merged into the dequantised 4-bit base; --onto says which of the two is written.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tuneproof.errors import InputError, report_errors


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="the run: model/method/dataset/seedN")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--runs", default=Path("results/runs"), type=Path, help="folder of runs")
    parser.add_argument("--models", default=Path("resources/models"), type=Path, help="folder of models")
    parser.add_argument("--datasets", default=Path("results/datasets"), type=Path, help="folder of data sets")
    parser.add_argument("--rows", default=32, type=int, help="validation rows that are compared, at most")
    parser.add_argument("--onto", choices=["base", "quantised"], default="base", help="for QLoRA: what to merge into")
    return parser.parse_args()


@report_errors
def main() -> None:
    args = parse_args()
    if args.run.count("/") != 3:
        raise InputError(f"--run: {args.run!r}, expected model/method/dataset/seedN")
    if args.rows < 1:
        raise InputError(f"--rows: {args.rows}, expected one at least")
    model, _, dataset, _ = args.run.split("/")

    from tuneproof.adapters import merge
    from tuneproof.fetch.weights import read_lock, weights_sha256
    from tuneproof.records import Example, read_json, read_rows, write_json
    from tuneproof.training.rows import tokenise

    run, adapter, student = args.runs / args.run, args.runs / args.run / "adapter", args.models / model / "student"
    spec = read_json(run / "spec.json")
    method = spec["method"]
    if method["kind"] == "full":
        raise InputError(f"{run}: all weights were trained, there is no adapter to merge")
    if args.onto == "quantised" and method["kind"] != "qlora":
        raise InputError(f"--onto quantised: {args.run} is of kind {method['kind']}, expected qlora")
    merge.read_adapter(adapter)
    if (weights := weights_sha256(read_lock(student / "lock.json"))) != spec["model_sha256"]:
        raise InputError(
            f"{student}: its weights are {weights[:12]}…, expected those that {args.run} was tuned on, "
            f"{spec['model_sha256'][:12]}…"
        )
    rows = read_rows(args.datasets / dataset / "val.jsonl", Example)[: args.rows]
    if not rows:
        raise InputError(f"{args.datasets / dataset / 'val.jsonl'}: no rows, expected some to compare on")

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(adapter)
    tokens = [tokenise(row.messages, tokenizer) for row in rows]
    report = {"run": args.run, "kind": method["kind"], "written": "merged"}
    quantised = None
    if method["kind"] == "qlora":
        base = merge.load_base(student)
        report["layers_quantised"] = merge.quantise(base, method.get("double_quantisation", True))
        beside = merge.with_adapter(base, adapter)
        before = merge.logits_of(beside, tokens)
        quantised = merge.merged(beside)
        report["merged_into_quantised"] = merge.compare(before, merge.logits_of(quantised, tokens), tokens)
        if args.onto == "base":
            del base, beside, quantised  # two models of 7B are not needed at once
        else:
            report["written"] = "merged_into_quantised"
    unmerged = merge.with_adapter(merge.load_base(student), adapter)
    if method["kind"] != "qlora":
        before = merge.logits_of(unmerged, tokens)
    result = merge.merged(unmerged)
    report["merged"] = merge.compare(before, merge.logits_of(result, tokens), tokens)
    report["dtype"] = str(result.dtype).removeprefix("torch.")
    if report["written"] == "merged_into_quantised":
        result = quantised

    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=".merged.") as folder:
        result.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(Path(folder) / "merge.json", report)
        shutil.rmtree(args.out, ignore_errors=True)
        Path(folder).chmod(0o755)
        shutil.move(folder, args.out)
        Path(folder).mkdir()  # TemporaryDirectory wants something to remove
    print("\n".join(f"merge: {sentence}" for sentence in merge.sentences(report)), file=sys.stderr)
    print(args.out)


if __name__ == "__main__":
    main()
