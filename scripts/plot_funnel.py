"""Draw what became of the corpus: documents, chunks, pairs, training rows, one bar a step.

    python scripts/plot_funnel.py --funnel results/datasets/haldrune/funnel.json \
        --out results/figures/funnel.svg --data results/figures/funnel.csv
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    """Read the counts, write the figure and the numbers behind it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--funnel", required=True, nargs="+", type=Path, help="counts of each data set (JSON)")
    parser.add_argument("--out", required=True, type=Path, help="figure to write (SVG)")
    parser.add_argument("--data", required=True, type=Path, help="its data to write (CSV)")
    args = parser.parse_args()

    from tuneproof.records import atomic_write, read_json
    from tuneproof.report.figures import funnel_chart, funnel_steps, to_svg
    from tuneproof.tables import to_csv

    data = funnel_steps(read_json(path) for path in args.funnel)
    with atomic_write(args.data) as stream:
        stream.write(to_csv(data))
    with atomic_write(args.out) as stream:
        stream.write(to_svg(funnel_chart(data)))


if __name__ == "__main__":
    main()
