"""Have an LLM annotate pairs as conceptual or factual, drawn evenly over the corpus's groups.

python scripts/annotate_types.py --pairs pairs.jsonl --chunks chunks.jsonl --limit 5000 --calibrated --llm '{…}'
    --model resources/models/X/lock.json --prompt prompts/annotate_type.txt --store store/llm
    --out annotated.jsonl --usage usage.json
"""

import argparse
import sys
from pathlib import Path

from tuneproof.errors import report_errors
from tuneproof.llm.arguments import add_llm_arguments


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_llm_arguments(parser)
    parser.add_argument("--pairs", required=True, type=Path, help="pairs (JSON Lines)")
    parser.add_argument("--chunks", required=True, type=Path, help="chunks they were written from (JSON Lines)")
    parser.add_argument("--limit", required=True, type=int, help="pairs to annotate at most")
    parser.add_argument("--calibrated", action="store_true", help="take off the LLM's leaning")
    parser.add_argument("--prompt", required=True, type=Path, help="prompt with {question}")
    parser.add_argument("--out", required=True, type=Path, help="annotated pairs to write (JSON Lines)")
    args = parser.parse_args()

    from tuneproof.llm.engines import complete_with, usage_of
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.pairs.draw import evenly
    from tuneproof.records import Chunk, Pair, read_rows, write_json, write_rows
    from tuneproof.study import parse_llm
    from tuneproof.types import annotate

    template = read_prompt(args.prompt, annotate.GAPS)
    groups = {chunk.id: chunk.group for chunk in read_rows(args.chunks, Chunk)}
    pairs = read_rows(args.pairs, Pair)
    drawn = evenly({pair.id: groups[pair.chunk_id] for pair in pairs}, args.limit)
    pairs = [pair for pair in pairs if pair.id in drawn]
    requests = annotate.requests([pair.question for pair in pairs], template, args.calibrated)
    llm, calls = parse_llm(args.llm, args.calls)
    answered = complete_with(llm, args.model, requests, args.store, "annotate types", calls)
    annotated = annotate.annotations_from([pair.id for pair in pairs], answered)
    if missing := len(pairs) - len(annotated):
        print(f"annotate types: {missing} of {len(pairs)} replies give no type", file=sys.stderr)
    write_rows(args.out, annotated)
    write_json(args.usage, usage_of("annotate types", llm, answered))


if __name__ == "__main__":
    main()
