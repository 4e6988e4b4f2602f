"""Join all arms' answers with their scores and make the table with intervals and paired differences.

    python scripts/tabulate_scores.py --arms '[{"dataset": …, "answers": …, "scores": […], …}, …]'
        --tests results/datasets/X/test_new_pages.jsonl … --chunks chunks.jsonl … --bootstrap 10000
        --rows rows.jsonl --out scores.csv

An arm is named by its files; a test file belongs to the data set whose folder it lies in.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", required=True, help="the arms and their files, as JSON")
    parser.add_argument("--tests", nargs="+", required=True, type=Path, help="test splits of the data set (JSON Lines)")
    parser.add_argument("--chunks", nargs="*", default=[], type=Path, help="chunks of every corpus (JSON Lines)")
    parser.add_argument("--bootstrap", required=True, type=int, help="resamples behind each interval")
    parser.add_argument("--rows", required=True, type=Path, help="one row per answer to write (JSON Lines)")
    parser.add_argument("--out", required=True, type=Path, help="table to write (CSV)")
    args = parser.parse_args()

    import csv
    import json

    from tuneproof.records import Answer, Chunk, Example, Measure, Score, atomic_write, read_rows, write_rows
    from tuneproof.scores.table import join, summarise

    chunks = {chunk.id: chunk for path in args.chunks for chunk in read_rows(path, Chunk)}
    tests: dict[str, list[Example]] = {}
    for path in args.tests:
        tests.setdefault(path.parent.name, []).extend(read_rows(path, Example))
    rows = []
    for arm in json.loads(args.arms):
        rows += join(
            tests[arm["dataset"]],
            arm["dataset"],
            arm["label"],
            read_rows(Path(arm["answers"]), Answer),
            read_rows(Path(arm["measures"]), Measure),
            [score for path in arm["scores"] for score in read_rows(Path(path), Score)],
            chunks,
        )
    table = summarise(rows, args.bootstrap)
    write_rows(args.rows, rows)
    with atomic_write(args.out) as stream:
        writer = csv.DictWriter(stream, fieldnames=list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()} for line in table)


if __name__ == "__main__":
    main()
