"""Have a judge score answers that people have judged, drawn from a file in EVOUNA's format.

    python scripts/try_judge.py --answers '{"file": "NQ.json", "questions": 240}' --name qwen --judge '{"llm": …}'
        --llm '{…}' --model resources/models/X/lock.json --prompt prompts/judge.paper.txt --store store/llm
        --out scores.jsonl --usage usage.json

The judge is asked as in a study, through the same store, so that a trial that was killed goes on where it was. A judge
that gives few scores ends no trial: how many it gives is part of the verdict.
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
    parser.add_argument("--answers", required=True, help="which answers: file, questions and seed, as JSON")
    parser.add_argument("--name", required=True, help="the judge's id")
    parser.add_argument("--judge", required=True, help="the judge's section of the configuration, as JSON")
    parser.add_argument("--prompt", required=True, type=Path, help="the judge's prompt")
    parser.add_argument("--out", required=True, type=Path, help="scores to write (JSON Lines)")
    args = parser.parse_args()

    from tuneproof.llm.engines import complete_with, usage_of
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.records import write_json, write_rows
    from tuneproof.scores import judge
    from tuneproof.study import JudgedAnswers, JudgeSpec, parse_llm
    from tuneproof.trials import evouna

    drawn, spec = JudgedAnswers.parse(args.answers), JudgeSpec.parse(args.judge)
    answers, examples = evouna.as_asked(evouna.draw(drawn.path, drawn.questions, drawn.seed))
    llm, calls = parse_llm(args.llm, args.calls)
    requests = judge.requests(answers, examples, read_prompt(args.prompt, judge.GAPS), spec.scoring)
    answered = complete_with(llm, args.model, requests, args.store, f"try judge {args.name}", calls)
    scores = judge.scores_from(answers, answered, args.name, spec.scoring, spec.parser)
    answered = judge.checked(answered, scores)
    scored = sum(score.score is not None for score in scores)
    print(f"try judge {args.name}: {scored} of {len(scores)} answers have a score", file=sys.stderr)
    if spec.scoring == "generated":
        print(f"try judge {args.name}: {judge.rates(scores)}", file=sys.stderr)
    write_rows(args.out, scores)
    write_json(args.usage, usage_of(f"try judge {args.name}", llm, answered))


if __name__ == "__main__":
    main()
