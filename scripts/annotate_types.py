"""Have an LLM annotate pairs as conceptual or factual, drawn evenly over the corpus's groups.

    python scripts/annotate_types.py --pairs pairs.jsonl --chunks chunks.jsonl --spec '{…}' --llm '{…}'
        --model resources/models/X/lock.json --prompt prompts/annotate_type.txt --store store/llm
        --out annotated.jsonl --human-out human.jsonl --usage usage.json

Where the section names questions that people have sorted, these are annotated too: LLM and classifier are held
against them.
"""

import argparse
import os
import sys
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", required=True, type=Path, help="pairs (JSON Lines)")
    parser.add_argument("--chunks", required=True, type=Path, help="chunks they were written from (JSON Lines)")
    parser.add_argument("--spec", required=True, help="the data set's section `types`, as JSON")
    parser.add_argument("--llm", required=True, help="the LLM's section of the configuration, as JSON")
    parser.add_argument("--model", nargs="?", type=Path, help="lock of the LLM's model; empty for an API")
    parser.add_argument("--prompt", required=True, type=Path, help="prompt with {question}")
    parser.add_argument("--store", required=True, type=Path, help="folder of the store of calls")
    parser.add_argument(
        "--calls",
        default=os.environ.get("TUNEPROOF_CALLS", ""),
        help="budget, mode and how each API is asked, as JSON; default: $TUNEPROOF_CALLS",
    )
    parser.add_argument("--out", required=True, type=Path, help="annotated pairs to write (JSON Lines)")
    parser.add_argument("--human-out", required=True, type=Path, help="annotated questions to write (JSON Lines)")
    parser.add_argument("--usage", required=True, type=Path, help="calls and tokens to write (JSON)")
    args = parser.parse_args()

    from tuneproof.llm.engines import complete_with, usage_of
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.pairs.draw import evenly
    from tuneproof.records import Chunk, Pair, read_rows, write_json, write_rows
    from tuneproof.study import Types, parse_llm
    from tuneproof.types import annotate
    from tuneproof.types.human import read_human

    spec = Types.parse(args.spec)
    template = read_prompt(args.prompt, annotate.GAPS)
    groups = {chunk.id: chunk.group for chunk in read_rows(args.chunks, Chunk)}
    pairs = read_rows(args.pairs, Pair)
    drawn = evenly({pair.id: groups[pair.chunk_id] for pair in pairs}, spec.annotated)
    pairs = [pair for pair in pairs if pair.id in drawn]
    questions = read_human(spec.human)[0] if spec.human else []
    requests = annotate.requests([row.question for row in (*pairs, *questions)], template, spec.calibrated)
    llm, calls = parse_llm(args.llm, args.calls)
    answered = complete_with(llm, args.model, requests, args.store, "annotate types", calls)
    asked = [*(pair.id for pair in pairs), *(row.id for row in questions)]
    annotated = {row.id: row for row in annotate.annotations_from(asked, answered)}
    if missing := len(asked) - len(annotated):
        print(f"annotate types: {missing} of {len(asked)} replies give no type", file=sys.stderr)
    write_rows(args.out, [annotated[pair.id] for pair in pairs if pair.id in annotated])
    write_rows(args.human_out, [annotated[row.id] for row in questions if row.id in annotated])
    write_json(args.usage, usage_of("annotate types", llm, answered))


if __name__ == "__main__":
    main()
