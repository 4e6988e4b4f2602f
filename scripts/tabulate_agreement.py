"""Tabulate how far the judges agree: Krippendorff's alpha over all of them, weighted kappa of each pair.

    python scripts/tabulate_agreement.py --rows rows.jsonl --trial trial.nq.json … --out agreement.csv

A row for each data set, test set and arm, and for all arms together; 95 % intervals by page.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True, type=Path, help="one row per answer, with its scores (JSON Lines)")
    parser.add_argument("--trial", nargs="*", default=[], type=Path, help="judges on trial (JSON), to mark those here")
    parser.add_argument("--out", required=True, type=Path, help="table to write (CSV)")
    args = parser.parse_args()

    from tuneproof.records import atomic_write, iter_json_lines, read_json
    from tuneproof.scores.agreement import agree
    from tuneproof.scores.table import DIGITS
    from tuneproof.tables import to_csv
    from tuneproof.trials.table import marked

    trials = [read_json(path) for path in args.trial]
    table = agree([row for _, row in iter_json_lines(args.rows)], marked(trials))
    with atomic_write(args.out) as stream:
        stream.write(to_csv(table, DIGITS))


if __name__ == "__main__":
    main()
