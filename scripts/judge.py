"""Have a judge score an arm's answers from 1 to 5 against the reference answers.

    python scripts/judge.py --answers answers.jsonl --tests test_new_pages.jsonl … --name qwen --llm '{…}'
        --model resources/models/X/lock.json --prompt prompts/judge.paper.txt --store store/llm --out scores.jsonl
        --usage usage.json

The score is the mean of the judge's distribution over 1 to 5, not the digit it would write.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", required=True, type=Path, help="answers of one arm (JSON Lines)")
    parser.add_argument("--tests", nargs="+", required=True, type=Path, help="test splits of the data set (JSON Lines)")
    parser.add_argument("--name", required=True, help="the judge's id")
    parser.add_argument("--llm", required=True, help="the LLM's section of the configuration, as JSON")
    parser.add_argument("--model", required=True, type=Path, help="lock of the LLM's model")
    parser.add_argument("--prompt", required=True, type=Path, help="rubric prompt")
    parser.add_argument("--store", required=True, type=Path, help="folder of the store of calls")
    parser.add_argument("--out", required=True, type=Path, help="scores to write (JSON Lines)")
    parser.add_argument("--usage", required=True, type=Path, help="calls and tokens to write (JSON)")
    args = parser.parse_args()

    from tuneproof.llm.client import usage
    from tuneproof.llm.engines import complete_with
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.records import Answer, Example, read_rows, write_json, write_rows
    from tuneproof.scores import judge
    from tuneproof.study import LLM

    answers = read_rows(args.answers, Answer)
    examples = {e.id: e for path in args.tests for e in read_rows(path, Example)}
    llm = LLM.parse(args.llm)
    requests = judge.requests(answers, examples, read_prompt(args.prompt, judge.GAPS))
    answered = complete_with(llm, args.model, requests, args.store, f"judge {args.name}")
    write_rows(args.out, judge.scores_from(answers, answered, args.name))
    write_json(args.usage, usage(f"judge {args.name}", llm.model, answered))


if __name__ == "__main__":
    main()
