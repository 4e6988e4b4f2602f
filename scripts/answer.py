"""Let all arms that share a base answer their test questions: it is loaded once, and one adapter after the other used.

    python scripts/answer.py --arms '{"run": "smollm2/base", "mode": "closed", …}' … --decoding '{…}'
        --prompt prompts/answer_with_context.txt --store store/llm --out results/answers/smollm2/load0.json

Greedy, in batches; answered batches are in the store, so a killed attempt goes on where it was, and where the store
knows every answer nothing is loaded. Writes which engine, adapter included, answered for each run, and on what
hardware; write_answers then writes each arm's answers.
"""

import argparse
import os
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", required=True, help="the arms with their files, each as JSON")
    parser.add_argument("--decoding", required=True, help="the `decoding` section, as JSON")
    parser.add_argument("--prompt", required=True, type=Path, help="prompt with {context} and {question}")
    parser.add_argument("--store", required=True, type=Path, help="folder of the store of calls")
    parser.add_argument("--calls", default=os.environ.get("TUNEPROOF_CALLS", ""), help="rules for all calls, as JSON")
    parser.add_argument("--out", required=True, type=Path, help="engine of each run, and the hardware, to write (JSON)")
    args = parser.parse_args()

    from tuneproof.answers import ask
    from tuneproof.answers.arms import parse_arms, read_material
    from tuneproof.answers.engines import Students
    from tuneproof.arithmetic import gpus_of, hardware_of
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.records import write_json
    from tuneproof.study import Decoding, parse_calls

    arms, decoding = parse_arms(args.arms), Decoding.parse(args.decoding)
    template = read_prompt(args.prompt, {"context", "question"})
    replay = parse_calls(args.calls).mode == "replay"
    students = Students(decoding, arms)
    for arm in arms:
        material = read_material(arm)
        requests = ask.requests(material.examples, arm.mode, decoding, template, material.retrieved, material.chunks)
        what = f"answer {arm.run} {arm.mode} {arm.dataset}"
        ask.answer(requests, students.id_of(arm), lambda arm=arm: students.engine(arm), args.store, what, replay)
    engines = {arm.run: students.id_of(arm) for arm in arms}
    hardware = {"gpus": gpus_of(decoding.engine), "hardware": hardware_of(decoding.engine)}
    write_json(args.out, {"engines": engines, **hardware})


if __name__ == "__main__":
    main()
