"""Print the studies' tables, ours beside the published numbers: CSV for numbers, Markdown and LaTeX to read.

    python scripts/tabulate_studies.py --scores scores.csv --rows rows.jsonl --published report/published.csv
        --of '{"haldrune": "d-naive"}' --tables judged texts … --out results/tables/studies

`--of` says which published data set each of ours is held against.
"""

import argparse
from pathlib import Path

from tuneproof.errors import InputError, report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", required=True, type=Path, help="table of scores (CSV)")
    parser.add_argument("--rows", required=True, type=Path, help="one row per answer (JSON Lines)")
    parser.add_argument("--published", required=True, type=Path, help="published numbers (CSV)")
    parser.add_argument("--of", required=True, help="our data set -> that of the published numbers, as JSON")
    parser.add_argument("--tables", nargs="+", required=True, help="which tables to write")
    parser.add_argument("--out", required=True, type=Path, help="folder of the tables")
    args = parser.parse_args()

    import json

    from tuneproof.records import atomic_write, iter_json_lines
    from tuneproof.scores.studies import as_csv, as_latex, as_markdown, make
    from tuneproof.tables import read_csv

    rows = [row for _, row in iter_json_lines(args.rows)]
    made = make(read_csv(args.scores), rows, read_csv(args.published), json.loads(args.of))
    if unknown := set(args.tables) - made.keys():
        raise InputError(f"--tables: {sorted(unknown)[0]!r}, expected some of: {', '.join(made)}")
    for name in args.tables:
        table = made[name]
        for kind, text in (("csv", as_csv(table)), ("md", as_markdown(table)), ("tex", as_latex(table, name))):
            with atomic_write(args.out / f"{name}.{kind}") as stream:
                stream.write(text)


if __name__ == "__main__":
    main()
