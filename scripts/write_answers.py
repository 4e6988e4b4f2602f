"""Write one arm's answers out of the store.

    python scripts/write_answers.py --arm '{"run": "smollm2/base", "mode": "closed", …}' --decoding '{…}'
        --engines results/answers/smollm2/load0.json --prompt prompts/answer_with_context.txt --store store/llm
        --out answers.jsonl --usage …

No model is loaded: `answer` has asked for all of them, and --engines says of which engine.
"""

import argparse
from pathlib import Path

from tuneproof.errors import InputError, report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", required=True, help="the arm with its files, as JSON")
    parser.add_argument("--decoding", required=True, help="the `decoding` section, as JSON")
    parser.add_argument("--engines", required=True, type=Path, help="the engine of each run (JSON)")
    parser.add_argument("--prompt", required=True, type=Path, help="prompt with {context} and {question}")
    parser.add_argument("--store", required=True, type=Path, help="folder of the store of calls")
    parser.add_argument("--out", required=True, type=Path, help="answers to write (JSON Lines)")
    parser.add_argument("--usage", required=True, type=Path, help="calls and tokens to write (JSON)")
    args = parser.parse_args()

    from tuneproof.answers import ask
    from tuneproof.answers.arms import parse_arms, read_material
    from tuneproof.llm.calls import Engine
    from tuneproof.llm.client import usage
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.records import read_json, write_json, write_rows
    from tuneproof.study import Decoding

    (arm,) = parse_arms([args.arm])
    template = read_prompt(args.prompt, {"context", "question"})
    engines = read_json(args.engines)["engines"]
    if arm.run not in engines:
        raise InputError(f"{args.engines}: {arm.run} is not among its runs, expected one of: {', '.join(engines)}")
    material = read_material(arm)
    requests = ask.requests(
        material.examples, arm.mode, Decoding.parse(args.decoding), template, material.retrieved, material.chunks
    )

    def lost() -> Engine:
        raise InputError(
            f"{args.store} does not hold every answer of {arm.run} that {args.engines} says was asked for: delete "
            f"{args.engines} and run again, and what is missing is asked for anew"
        )

    what = f"write_answers {arm.run} {arm.mode} {arm.dataset}"
    answered = ask.answer(requests, engines[arm.run], lost, args.store, what)
    write_rows(args.out, ask.answers_from(material.examples, answered, arm.run, arm.mode, material.retrieved))
    write_json(args.usage, usage(f"answer, {arm.mode}", arm.run, answered))


if __name__ == "__main__":
    main()
