"""Draw train and validation loss by step, a panel a data set, a colour a run.

    python scripts/plot_loss.py --log results/runs/m/lora/d/seed1/train_log.jsonl --run m/lora/d/seed1 \
        --out results/figures/loss.svg --data results/figures/loss.csv

Give as many --run as --log, in the same order.
"""

import argparse
from pathlib import Path

from tuneproof.errors import InputError, report_errors


@report_errors
def main() -> None:
    """Read the logs, write the figure and the numbers behind it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", required=True, nargs="+", type=Path, help="training logs (JSON Lines)")
    parser.add_argument("--run", required=True, nargs="+", help="the run of each log")
    parser.add_argument("--out", required=True, type=Path, help="figure to write (SVG)")
    parser.add_argument("--data", required=True, type=Path, help="its data to write (CSV)")
    args = parser.parse_args()
    if len(args.log) != len(args.run):
        raise InputError(f"--run: {len(args.run)} names for {len(args.log)} logs, expected one each")

    from tuneproof.records import atomic_write, iter_json_lines
    from tuneproof.report.figures import to_svg
    from tuneproof.report.training import loss_chart, loss_curve
    from tuneproof.tables import to_csv

    logs = {run: [row for _, row in iter_json_lines(path)] for run, path in zip(args.run, args.log, strict=True)}
    data = loss_curve(logs)
    with atomic_write(args.data) as stream:
        stream.write(to_csv(data))
    with atomic_write(args.out) as stream:
        stream.write(to_svg(loss_chart(data)))


if __name__ == "__main__":
    main()
