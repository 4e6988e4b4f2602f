"""Draw the conceptual or the factual rows of a data set, as many of the one type as of the other.

    python scripts/draw_typed.py --name X --spec '{…}' --parent results/datasets/P --types types.jsonl
        --out results/datasets/X

Writes train.jsonl, val.jsonl, test_trained_pages.jsonl, test_new_pages.jsonl and funnel.json into --out.
"""

import argparse
import sys
from pathlib import Path
from typing import get_args

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="the data set's id in the configuration")
    parser.add_argument("--spec", required=True, help="the data set's section of the configuration, as JSON")
    parser.add_argument("--parent", required=True, type=Path, help="folder of the data set that is drawn from")
    parser.add_argument("--types", required=True, type=Path, help="types of its pairs (JSON Lines)")
    parser.add_argument("--out", required=True, type=Path, help="folder of the data set")
    args = parser.parse_args()

    from tuneproof.records import Example, TypedPair, read_rows, write_json, write_rows
    from tuneproof.study import Split, TypedSpec
    from tuneproof.types.draw import draw, fewer

    spec = TypedSpec.parse(args.spec)
    parent = {split: read_rows(args.parent / f"{split}.jsonl", Example) for split in get_args(Split)}
    types = {row.pair_id: row.type for row in read_rows(args.types, TypedPair)}
    splits, steps = draw(parent, types, spec)
    for split, count, wanted in fewer(splits, spec):
        print(f"draw typed: {args.name} has {count} pairs of {split}, {wanted} were wanted", file=sys.stderr)
    counts = {split: len(rows) for split, rows in splits.items()}
    funnel = {"dataset": args.name, "steps": steps, "dropped": {}, "splits": counts}
    for split, rows in splits.items():
        write_rows(args.out / f"{split}.jsonl", rows)
    write_json(args.out / "funnel.json", funnel)


if __name__ == "__main__":
    main()
