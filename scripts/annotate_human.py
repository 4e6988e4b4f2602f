"""Have an LLM annotate questions that people have sorted: LLM and classifier are held against the people.

python scripts/annotate_human.py --questions nf-cats/ --calibrated --llm '{…}'
    --model resources/models/X/lock.json --prompt prompts/annotate_type.txt --store store/llm
    --out human.jsonl --usage usage.json
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
    parser.add_argument("--questions", required=True, type=Path, help="folder with train.csv and test.csv (NF-CATS)")
    parser.add_argument("--calibrated", action="store_true", help="take off the LLM's leaning")
    parser.add_argument("--prompt", required=True, type=Path, help="prompt with {question}")
    parser.add_argument("--out", required=True, type=Path, help="annotated questions to write (JSON Lines)")
    args = parser.parse_args()

    from tuneproof.llm.engines import complete_with, usage_of
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.records import write_json, write_rows
    from tuneproof.study import parse_llm
    from tuneproof.types import annotate
    from tuneproof.types.human import read_human

    template = read_prompt(args.prompt, annotate.GAPS)
    questions = read_human(args.questions)[0]
    requests = annotate.requests([row.question for row in questions], template, args.calibrated)
    llm, calls = parse_llm(args.llm, args.calls)
    answered = complete_with(llm, args.model, requests, args.store, "annotate human", calls)
    annotated = annotate.annotations_from([row.id for row in questions], answered)
    if missing := len(questions) - len(annotated):
        print(f"annotate human: {missing} of {len(questions)} replies give no type", file=sys.stderr)
    write_rows(args.out, annotated)
    write_json(args.usage, usage_of("annotate human", llm, answered))


if __name__ == "__main__":
    main()
