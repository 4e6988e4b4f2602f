"""Join all arms' answers with their scores and make the tables with intervals and paired differences.

    python scripts/tabulate_scores.py --arms '{"dataset": …, "answers": …, "scores": […], …}' …
        --tests results/datasets/X/test_new_pages.jsonl … --chunks chunks.jsonl … --flips 10000 --wished 0.05
        --trial trial.nq.json … --rows rows.jsonl --tunes tunes.csv --out scores.csv

An arm is named by its files; a test file belongs to the data set whose folder it lies in.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", required=True, help="the arms and their files, each as JSON")
    parser.add_argument("--tests", nargs="+", required=True, type=Path, help="test splits of the data set (JSON Lines)")
    parser.add_argument("--chunks", nargs="*", default=[], type=Path, help="chunks of every corpus (JSON Lines)")
    parser.add_argument("--flips", required=True, type=int, help="sign flips behind each permutation test")
    parser.add_argument("--wished", required=True, type=float, help="difference to plan for, share of a metric's scale")
    parser.add_argument("--trial", nargs="*", default=[], type=Path, help="judges on trial (JSON), to mark those here")
    parser.add_argument("--rows", required=True, type=Path, help="one row per answer to write (JSON Lines)")
    parser.add_argument("--tunes", required=True, type=Path, help="table of tunes less tunes to write (CSV)")
    parser.add_argument("--out", required=True, type=Path, help="table of all arms to write (CSV)")
    args = parser.parse_args()

    import json

    from tuneproof.records import Answer, Chunk, Example, Measure, Score, atomic_write, read_json, read_rows, write_rows
    from tuneproof.scores.table import DIGITS, join, summarise
    from tuneproof.tables import to_csv
    from tuneproof.trials.table import marked

    chunks = {chunk.id: chunk for path in args.chunks for chunk in read_rows(path, Chunk)}
    tests: dict[str, list[Example]] = {}
    for path in args.tests:
        tests.setdefault(path.parent.name, []).extend(read_rows(path, Example))
    rows = []
    for arm in map(json.loads, args.arms):
        rows += join(
            tests[arm["dataset"]],
            arm["dataset"],
            arm["label"],
            read_rows(Path(arm["answers"]), Answer),
            read_rows(Path(arm["measures"]), Measure),
            [score for path in arm["scores"] for score in read_rows(Path(path), Score)],
            chunks,
        )
    trials = [read_json(path) for path in args.trial]
    tables = summarise(rows, args.flips, args.wished, marked(trials))
    write_rows(args.rows, rows)
    for path, table in ((args.tunes, tables.tunes), (args.out, tables.scores)):
        with atomic_write(path) as stream:
            stream.write(to_csv(table, DIGITS))


if __name__ == "__main__":
    main()
