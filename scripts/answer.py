"""Let one arm (a run in a mode) answer the test questions of a data set.

    python scripts/answer.py --tests test_new_pages.jsonl … --run smollm2/base --mode closed --decoding '{…}'
        --student resources/models/X/student/lock.json [--adapter results/runs/…/adapter] [--retrieved retrieved.jsonl
        --chunks chunks.jsonl] --prompt prompts/answer_with_context.txt --store store/llm --out answers.jsonl --usage …

Greedy, in batches; answered batches are in the store, so a killed attempt goes on where it was.
"""

import argparse
import os
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", nargs="+", required=True, type=Path, help="test splits of the data set (JSON Lines)")
    parser.add_argument("--run", required=True, help="id of the run")
    parser.add_argument("--mode", required=True, choices=["closed", "rag"], help="with retrieved chunks or not")
    parser.add_argument("--decoding", required=True, help="the `decoding` section, as JSON")
    parser.add_argument("--student", required=True, type=Path, help="lock of the prepared student")
    parser.add_argument("--adapter", type=Path, help="folder of the adapter; none for the base model")
    parser.add_argument("--retrieved", type=Path, help="chunks per question (mode rag)")
    parser.add_argument("--chunks", type=Path, help="chunks (mode rag)")
    parser.add_argument("--prompt", required=True, type=Path, help="prompt with {context} and {question} (mode rag)")
    parser.add_argument("--store", required=True, type=Path, help="folder of the store of calls")
    parser.add_argument("--calls", default=os.environ.get("TUNEPROOF_CALLS", ""), help="rules for all calls, as JSON")
    parser.add_argument("--out", required=True, type=Path, help="answers to write (JSON Lines)")
    parser.add_argument("--usage", required=True, type=Path, help="calls and tokens to write (JSON)")
    args = parser.parse_args()

    from tuneproof.answers import ask
    from tuneproof.llm.client import usage
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.records import Chunk, Example, Retrieved, read_rows, write_json, write_rows
    from tuneproof.study import Decoding, parse_calls

    decoding = Decoding.parse(args.decoding)
    examples = [example for path in args.tests for example in read_rows(path, Example)]
    template = read_prompt(args.prompt, {"context", "question"})
    retrieved = {r.example_id: r for r in read_rows(args.retrieved, Retrieved)} if args.retrieved else {}
    chunks = {c.id: c for c in read_rows(args.chunks, Chunk)} if args.chunks else {}
    requests = ask.requests(examples, args.mode, decoding, template, retrieved, chunks)
    what = f"answer {args.run} {args.mode}"
    calls = parse_calls(args.calls)
    answered = ask.answer(requests, args.student, args.adapter, decoding.batch_size, args.store, what, calls)
    write_rows(args.out, ask.answers_from(examples, answered, args.run, args.mode, retrieved))
    write_json(args.usage, usage(f"answer, {args.mode}", args.run, answered))


if __name__ == "__main__":
    main()
