"""Split a data set by page into train, val and two test sets, and count the way there.

    python scripts/split_pairs.py --name X --spec '{…}' --pairs pairs.jsonl --phrasings phrasings.jsonl
        --chunks chunks.jsonl --page-counts pages.json --written written.jsonl --unusable unusable.jsonl
        --dropped dropped.jsonl --out results/datasets/X

Writes train.jsonl, val.jsonl, test_trained_pages.jsonl, test_new_pages.jsonl and funnel.json into --out.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="the data set's id in the configuration")
    parser.add_argument("--spec", required=True, help="the data set's section of the configuration, as JSON")
    parser.add_argument("--pairs", required=True, type=Path, help="kept pairs (JSON Lines)")
    parser.add_argument("--phrasings", required=True, type=Path, help="further wordings (JSON Lines)")
    parser.add_argument("--chunks", required=True, type=Path, help="chunks (JSON Lines)")
    parser.add_argument("--page-counts", required=True, type=Path, help="counts of the corpus (JSON)")
    parser.add_argument("--written", required=True, type=Path, help="pairs as written (JSON Lines)")
    parser.add_argument("--unusable", required=True, type=Path, help="unusable replies (JSON Lines)")
    parser.add_argument("--dropped", required=True, type=Path, help="dropped pairs with reasons (JSON Lines)")
    parser.add_argument("--out", required=True, type=Path, help="folder of the data set")
    args = parser.parse_args()

    from tuneproof.pairs.card import funnel
    from tuneproof.pairs.split import make_examples
    from tuneproof.records import (
        Chunk,
        Pair,
        Phrasing,
        iter_json_lines,
        read_json,
        read_rows,
        write_json,
        write_rows,
    )
    from tuneproof.study import DatasetSpec

    spec = DatasetSpec.parse(args.spec)
    chunks = read_rows(args.chunks, Chunk)
    pairs, phrasings = read_rows(args.pairs, Pair), read_rows(args.phrasings, Phrasing)
    splits = make_examples(pairs, phrasings, {chunk.id: chunk for chunk in chunks}, spec.splits)
    unusable = sum(1 for _ in iter_json_lines(args.unusable))
    dropped = [row for _, row in iter_json_lines(args.dropped)]
    written = read_rows(args.written, Pair)
    counts = funnel(
        args.name, read_json(args.page_counts), chunks, written, unusable, dropped, dict(splits), spec.pairs
    )
    for split, rows in splits.items():
        write_rows(args.out / f"{split}.jsonl", rows)
    write_json(args.out / "funnel.json", counts)


if __name__ == "__main__":
    main()
