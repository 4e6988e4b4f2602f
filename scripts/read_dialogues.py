"""Read published dialogues and their summaries, clean what is said, and write the rows of each split.

    python scripts/read_dialogues.py --name X --spec '{…}' --system prompts/summarise_dialogue.txt
        --out results/datasets/X

Writes train.jsonl, val.jsonl, test_trained_pages.jsonl (empty), test_new_pages.jsonl, dropped.jsonl and
funnel.json into --out.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="the data set's id in the configuration")
    parser.add_argument("--spec", required=True, help="which dialogues are read, and how, as JSON")
    parser.add_argument("--system", nargs="?", type=Path, help="the rows' system prompt; empty: none")
    parser.add_argument("--out", required=True, type=Path, help="folder of the data set")
    args = parser.parse_args()

    from tuneproof.dialogues.layouts import read
    from tuneproof.dialogues.rows import funnel, make_rows
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.records import write_json, write_rows
    from tuneproof.study import Dialogues

    spec = Dialogues.parse(args.spec)
    system = read_prompt(args.system, set()).format() if args.system else None
    dialogues = read(spec)
    splits, dropped = make_rows(dialogues, system, spec.clean)
    for split, rows in splits.items():
        write_rows(args.out / f"{split}.jsonl", rows)
    write_rows(args.out / "dropped.jsonl", [{"id": d.id, "where": d.where, "reason": reason} for d, reason in dropped])
    write_json(args.out / "funnel.json", funnel(args.name, dialogues, dropped, splits))


if __name__ == "__main__":
    main()
