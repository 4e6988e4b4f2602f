"""Tabulate how far the judges agree: Krippendorff's alpha over all of them, weighted kappa of each pair.

    python scripts/tabulate_agreement.py --rows results/tables/rows.jsonl --out results/tables/agreement.csv

A row for each data set, test set and arm, and for all arms together; 95 % intervals by page.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True, type=Path, help="one row per answer, with its scores (JSON Lines)")
    parser.add_argument("--out", required=True, type=Path, help="table to write (CSV)")
    args = parser.parse_args()

    from tuneproof.records import atomic_write, iter_json_lines
    from tuneproof.scores.agreement import agree
    from tuneproof.scores.table import DIGITS
    from tuneproof.tables import to_csv

    table = agree([row for _, row in iter_json_lines(args.rows)])
    with atomic_write(args.out) as stream:
        stream.write(to_csv(table, DIGITS))


if __name__ == "__main__":
    main()
