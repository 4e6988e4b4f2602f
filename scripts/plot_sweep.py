"""Draw a sweep: validation loss by variant with its intervals, and by each hyper-parameter.

    python scripts/plot_sweep.py --table results/tables/sweep.X.json --out results/figures/sweep.X.svg \
        --data results/figures/sweep.X.csv
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, type=Path, help="the sweep's table (JSON)")
    parser.add_argument("--out", required=True, type=Path, help="figure to write (SVG)")
    parser.add_argument("--data", required=True, type=Path, help="its data to write (CSV)")
    args = parser.parse_args()

    from tuneproof.records import atomic_write, read_json
    from tuneproof.report.figures import to_svg
    from tuneproof.report.sweep import sweep_chart, sweep_rows
    from tuneproof.tables import to_csv

    table = read_json(args.table)
    data = sweep_rows(table)
    with atomic_write(args.data) as stream:
        stream.write(to_csv(data))
    with atomic_write(args.out) as stream:
        stream.write(to_svg(sweep_chart(table, data)))


if __name__ == "__main__":
    main()
