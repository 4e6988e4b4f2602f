"""Have an LLM write question-answer pairs about each chunk of a corpus (D-Naive).

    python scripts/write_pairs.py --chunks chunks.jsonl --spec '{…}' --llm '{…}' --model resources/models/X/lock.json
        --prompt prompts/write_pairs.txt --store store/llm --out written.jsonl --failed unusable.jsonl
        --failed-log logs/unusable.jsonl --usage u.json

Without `pairs` all chunks (at most `max_chunks`) are asked about; with it, as many as so many pairs take.

A reply that is no usable JSON is asked for once more. What then is none is kept with its text; the rule fails when the
share is above `max_failed`.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors
from tuneproof.llm.arguments import add_llm_arguments

# Calls to an API need not come in groups; rounds of fewer would wait for the slowest call too often.
_API_ROUND = 32


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_llm_arguments(parser)
    parser.add_argument("--chunks", required=True, type=Path, help="chunks (JSON Lines)")
    parser.add_argument("--spec", required=True, help="the data set's section of the configuration, as JSON")
    parser.add_argument("--prompt", required=True, type=Path, help="prompt with {n}, {title}, {text}")
    parser.add_argument("--out", required=True, type=Path, help="pairs to write (JSON Lines)")
    parser.add_argument("--failed", required=True, type=Path, help="unusable replies to write (JSON Lines)")
    parser.add_argument("--failed-log", required=True, type=Path, help="the same, where it stays when the stage fails")
    args = parser.parse_args()

    from tuneproof.llm.client import Answered, refuse_above
    from tuneproof.llm.engines import complete_with, usage_of
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.pairs import write
    from tuneproof.records import Chunk, read_rows, write_json, write_rows
    from tuneproof.study import DatasetSpec, parse_llm

    spec = DatasetSpec.parse(args.spec)
    template = read_prompt(args.prompt, {"n", "title", "text"})
    chunks = read_rows(args.chunks, Chunk)
    llm, calls = parse_llm(args.llm, args.calls)

    def ask(asked: list[Chunk]) -> list[Answered]:
        requests = write.requests(asked, template, spec.pairs_per_chunk)
        return complete_with(llm, args.model, requests, args.store, "write pairs", calls, write.SHAPE)

    def check(asked: list[Chunk], answered: list[Answered]) -> None:
        failed = write.pairs_from(asked, answered)[1]
        for path in (args.failed, args.failed_log):
            write_rows(path, failed)
        refuse_above(spec.max_failed, failed, len(asked), args.failed_log)

    if spec.pairs is None:
        chunks = write.draw_chunks(chunks, spec.max_chunks)
        answered = ask(chunks)
        check(chunks, answered)
    else:
        group = getattr(llm, "group_size", _API_ROUND)
        drawn = write.in_turn(chunks)[: spec.max_chunks]
        chunks, answered = write.write_until(drawn, spec.pairs, spec.pairs_per_chunk, group, ask, check)
    write_rows(args.out, write.pairs_from(chunks, answered)[0])
    write_json(args.usage, usage_of("write pairs", llm, answered))


if __name__ == "__main__":
    main()
