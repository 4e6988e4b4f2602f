"""Draw how each judge's scores are distributed, arms side by side, one panel per test set.

    python scripts/plot_scores.py --rows results/tables/rows.jsonl \
        --out results/figures/scores.svg --data results/figures/scores.csv
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    """Read the rows of answers, write the figure and the numbers behind it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True, type=Path, help="one object per answer (JSON Lines)")
    parser.add_argument("--out", required=True, type=Path, help="figure to write (SVG)")
    parser.add_argument("--data", required=True, type=Path, help="its data to write (CSV)")
    args = parser.parse_args()

    from tuneproof.records import atomic_write, iter_json_lines
    from tuneproof.report.figures import arm_colours, score_chart, score_distribution, to_svg
    from tuneproof.tables import to_csv

    rows = [row for _, row in iter_json_lines(args.rows)]
    data = score_distribution(rows)
    colours = arm_colours((row["run"], row["mode"], row["arm"]) for row in rows)
    with atomic_write(args.data) as stream:
        stream.write(to_csv(data))
    with atomic_write(args.out) as stream:
        stream.write(to_svg(score_chart(data, colours)))


if __name__ == "__main__":
    main()
