"""Have an LLM write question-answer pairs about each chunk of a corpus (D-Naive).

    python scripts/write_pairs.py --chunks chunks.jsonl --spec '{…}' --llm '{…}' --model resources/models/X/lock.json
        --prompt prompts/write_pairs.txt --store store/llm --out written.jsonl --failed unusable.jsonl --usage u.json

Replies that are no usable JSON are kept with their text; the rule fails when their share is above `max_failed`.
"""

import argparse
from pathlib import Path

from tuneproof.errors import InputError, report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", required=True, type=Path, help="chunks (JSON Lines)")
    parser.add_argument("--spec", required=True, help="the data set's section of the configuration, as JSON")
    parser.add_argument("--llm", required=True, help="the LLM's section of the configuration, as JSON")
    parser.add_argument("--model", nargs="?", type=Path, help="lock of the LLM's model; empty for an API")
    parser.add_argument("--prompt", required=True, type=Path, help="prompt with {n}, {title}, {text}")
    parser.add_argument("--store", required=True, type=Path, help="folder of the store of calls")
    parser.add_argument("--out", required=True, type=Path, help="pairs to write (JSON Lines)")
    parser.add_argument("--failed", required=True, type=Path, help="unusable replies to write (JSON Lines)")
    parser.add_argument("--usage", required=True, type=Path, help="calls and tokens to write (JSON)")
    args = parser.parse_args()

    from tuneproof.llm.client import usage
    from tuneproof.llm.engines import complete_with
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.pairs import write
    from tuneproof.records import Chunk, read_rows, write_json, write_rows
    from tuneproof.study import DatasetSpec, parse_llm

    spec = DatasetSpec.parse(args.spec)
    template = read_prompt(args.prompt, {"n", "title", "text"})
    chunks = write.draw_chunks(read_rows(args.chunks, Chunk), spec.max_chunks)
    requests = write.requests(chunks, template, spec.pairs_per_chunk)
    llm = parse_llm(args.llm)
    answered = complete_with(llm, args.model, requests, args.store, "write pairs")
    pairs, failed = write.pairs_from(chunks, answered)
    write_rows(args.failed, failed)
    if len(failed) > spec.max_failed * len(chunks):
        raise InputError(
            f"{len(failed)} of {len(chunks)} replies are unusable ({failed[0]['reason']}), more than max_failed "
            f"{spec.max_failed:g}; see {args.failed}"
        )
    write_rows(args.out, pairs)
    write_json(args.usage, usage("write pairs", llm.model, answered))


if __name__ == "__main__":
    main()
