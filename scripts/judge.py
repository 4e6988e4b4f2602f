"""Have a judge score an arm's answers from 1 to 5 against the reference answers.

    python scripts/judge.py --answers answers.jsonl --tests test_new_pages.jsonl … --name qwen
        --scoring generated --parser strict --llm '{…}' --model resources/models/X/lock.json
        --prompt prompts/judge.paper.txt --store store/llm --out scores.jsonl
        --failed-log logs/unscored.jsonl --max-failed 0.2 --usage usage.json

The score is the mean of the judge's distribution over 1 to 5 (`expected`), that of Yes and No (`yes_no`), or the digit
it writes (`generated`), of which a strict and a lenient parse are kept, and both rates printed.
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
    parser.add_argument("--answers", required=True, type=Path, help="answers of one arm (JSON Lines)")
    parser.add_argument("--tests", nargs="+", required=True, type=Path, help="test splits of the data set (JSON Lines)")
    parser.add_argument("--name", required=True, help="the judge's id")
    parser.add_argument(
        "--scoring", required=True, choices=["expected", "yes_no", "generated"], help="how a score is had"
    )
    parser.add_argument("--parser", default="strict", choices=["strict", "lenient"], help="whose reading counts")
    parser.add_argument("--prompt", required=True, type=Path, help="rubric prompt")
    parser.add_argument("--out", required=True, type=Path, help="scores to write (JSON Lines)")
    parser.add_argument("--failed-log", required=True, type=Path, help="replies without a score to write (JSON Lines)")
    parser.add_argument("--max-failed", required=True, type=float, help="their share above which to stop")
    args = parser.parse_args()

    from tuneproof.llm.client import failures, refuse_above
    from tuneproof.llm.engines import complete_with, usage_of
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.records import Answer, Example, read_rows, write_json, write_rows
    from tuneproof.scores import judge
    from tuneproof.study import parse_llm

    answers = read_rows(args.answers, Answer)
    examples = {e.id: e for path in args.tests for e in read_rows(path, Example)}
    llm, calls = parse_llm(args.llm, args.calls)
    requests = judge.requests(answers, examples, read_prompt(args.prompt, judge.GAPS), args.scoring)
    answered = complete_with(llm, args.model, requests, args.store, f"judge {args.name}", calls)
    scores = judge.scores_from(answers, answered, args.name, args.scoring, args.parser)
    if args.scoring == "generated":
        print(f"judge {args.name}: {judge.rates(scores)}", file=sys.stderr)
    answered = judge.checked(answered, scores)
    failed = failures(answered)
    if failed:
        print(f"judge {args.name}: {len(failed)} of {len(answers)} replies give no score", file=sys.stderr)
    write_rows(args.failed_log, failed)
    refuse_above(args.max_failed, failed, len(answers), args.failed_log)
    write_rows(args.out, scores)
    write_json(args.usage, usage_of(f"judge {args.name}", llm, answered))


if __name__ == "__main__":
    main()
