"""Have a judge take the better of two arms' answers to each question, shown in both orders.

    python scripts/compare.py --answers one.jsonl other.jsonl --tests test_new_pages.jsonl … --name tune-or-look-up
        --scoring expected --llm '{…}' --model resources/models/X/lock.json --prompt prompts/compare.txt
        --store store/llm --out choices.jsonl --usage usage.json

With scoring `generated` the judge writes a feedback and ends with "[RESULT] A" or "B"; else its first token decides.
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
    parser.add_argument("--answers", nargs=2, required=True, type=Path, help="answers of the two arms (JSON Lines)")
    parser.add_argument("--tests", nargs="+", required=True, type=Path, help="test splits of the data set (JSON Lines)")
    parser.add_argument("--name", required=True, help="the comparison's id")
    parser.add_argument("--scoring", required=True, choices=["expected", "yes_no", "generated"], help="the judge's")
    parser.add_argument("--prompt", required=True, type=Path, help="prompt with two responses")
    parser.add_argument("--out", required=True, type=Path, help="choices to write (JSON Lines)")
    args = parser.parse_args()

    from tuneproof.llm.engines import complete_with, usage_of
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.records import Answer, Example, read_rows, write_json, write_rows
    from tuneproof.scores import pairwise
    from tuneproof.study import parse_llm

    paired = pairwise.pairs(*(read_rows(path, Answer) for path in args.answers))
    examples = {e.id: e for path in args.tests for e in read_rows(path, Example)}
    llm, calls = parse_llm(args.llm, args.calls)
    requests = pairwise.requests(paired, examples, read_prompt(args.prompt, pairwise.GAPS), args.scoring)
    answered = complete_with(llm, args.model, requests, args.store, f"compare {args.name}", calls) if requests else []
    choices = pairwise.choices_from(paired, examples, answered)
    undecided = sum(choice.outcome is None for choice in choices)
    print(f"compare {args.name}: {undecided} of {len(choices)} questions without a choice", file=sys.stderr)
    write_rows(args.out, choices)
    write_json(args.usage, usage_of(f"compare {args.name}", llm, answered))


if __name__ == "__main__":
    main()
