"""Have an LLM ask each question in other words.

    python scripts/rephrase_questions.py --pairs pairs.jsonl --chunks chunks.jsonl --phrasings 3 --llm '{…}'
        --model resources/models/X/lock.json --prompt prompts/rephrase_question.txt --store store/llm
        --out phrasings.jsonl --failed unusable.jsonl --failed-log logs/unusable.jsonl --max-failed 0.2
        --usage usage.json

A fact that is trained in one wording is often recalled in that wording only; one further wording is held out for
testing. A wording that loses or adds a name is dropped.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors
from tuneproof.llm.arguments import add_llm_arguments


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_llm_arguments(parser)
    parser.add_argument("--pairs", required=True, type=Path, help="pairs (JSON Lines)")
    parser.add_argument("--chunks", required=True, type=Path, help="chunks they were written from (JSON Lines)")
    parser.add_argument("--phrasings", required=True, type=int, help="wordings per question, the first included")
    parser.add_argument("--prompt", required=True, type=Path, help="prompt with {n} and {question}")
    parser.add_argument("--out", required=True, type=Path, help="phrasings to write (JSON Lines)")
    parser.add_argument("--failed", required=True, type=Path, help="unusable replies to write (JSON Lines)")
    parser.add_argument("--failed-log", required=True, type=Path, help="the same, where it stays when the stage fails")
    parser.add_argument("--max-failed", required=True, type=float, help="their share above which to stop")
    args = parser.parse_args()

    from tuneproof.llm.client import failures, refuse_above
    from tuneproof.llm.engines import complete_with, usage_of
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.pairs import rephrase
    from tuneproof.records import Chunk, Pair, read_rows, write_json, write_rows
    from tuneproof.study import parse_llm

    template = read_prompt(args.prompt, {"n", "question"})
    pairs = read_rows(args.pairs, Pair)
    texts = {chunk.id: chunk.text for chunk in read_rows(args.chunks, Chunk)}
    requests = rephrase.requests(pairs, template, args.phrasings)
    llm, calls = parse_llm(args.llm, args.calls)
    answered = complete_with(llm, args.model, requests, args.store, "rephrase questions", calls, rephrase.SHAPE)
    failed = failures(answered)
    for path in (args.failed, args.failed_log):
        write_rows(path, failed)
    refuse_above(args.max_failed, failed, len(pairs), args.failed_log)
    write_rows(args.out, rephrase.phrasings_from(pairs, answered, texts, args.phrasings))
    write_json(args.usage, usage_of("rephrase questions", llm, answered))


if __name__ == "__main__":
    main()
