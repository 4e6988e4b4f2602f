"""Keep the calls and pitches that are grounded in their pages, and write the rows of each split.

    python scripts/split_instructions.py --name X --spec '{…}' --written written.jsonl --unusable unusable.jsonl
        --chunks chunks.jsonl --prompt prompts/next_steps.txt --out results/datasets/X

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
    parser.add_argument("--spec", required=True, help="the data set's section of the configuration, as JSON")
    parser.add_argument("--written", required=True, type=Path, help="what was written (JSON Lines)")
    parser.add_argument("--unusable", required=True, type=Path, help="unusable replies (JSON Lines)")
    parser.add_argument("--chunks", required=True, type=Path, help="chunks it was written about (JSON Lines)")
    parser.add_argument("--prompt", required=True, type=Path, help="the rows' prompt with {material}")
    parser.add_argument("--out", required=True, type=Path, help="folder of the data set")
    args = parser.parse_args()

    import dataclasses

    from tuneproof.instructions.funnel import funnel
    from tuneproof.instructions.write import TASKS, Written, make_rows, screen
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.records import Chunk, iter_json_lines, read_rows, write_json, write_rows
    from tuneproof.study import InstructionsSpec, parse_dataset

    spec = parse_dataset(args.spec)
    assert isinstance(spec, InstructionsSpec)
    template = read_prompt(args.prompt, {"material"})
    chunks, written = read_rows(args.chunks, Chunk), read_rows(args.written, Written)
    by_id = {chunk.id: chunk for chunk in chunks}
    kept, dropped = screen(written, TASKS[spec.kind], by_id)
    write_rows(args.out / "dropped.jsonl", [{**dataclasses.asdict(w), "reason": reason} for w, reason in dropped])
    splits = make_rows(kept, by_id, template, spec)
    unusable = sum(1 for _ in iter_json_lines(args.unusable))
    steps = {
        "chunks": len(chunks),
        "asked about": len(written) + unusable,
        "written": len(written),
        "kept": len(kept),
        "rows": sum(map(len, splits.values())),
    }
    counts = funnel(args.name, steps, unusable, [reason for _, reason in dropped], splits)
    for split, rows in splits.items():
        write_rows(args.out / f"{split}.jsonl", rows)
    write_json(args.out / "funnel.json", counts)


if __name__ == "__main__":
    main()
