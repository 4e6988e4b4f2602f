"""Draw the memory of each training over time: the GPU's allocated and reserved, or the process's where there is none.

    python scripts/plot_memory.py --telemetry results/runs/m/lora/d/seed1/telemetry.jsonl --run m/lora/d/seed1 \
        --out results/figures/memory.svg --data results/figures/memory.csv

Give as many --run as --telemetry, in the same order.
"""

import argparse
from pathlib import Path

from tuneproof.errors import InputError, report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--telemetry", required=True, nargs="+", type=Path, help="telemetry of the runs (JSON Lines)")
    parser.add_argument("--run", required=True, nargs="+", help="the run of each file")
    parser.add_argument("--out", required=True, type=Path, help="figure to write (SVG)")
    parser.add_argument("--data", required=True, type=Path, help="its data to write (CSV)")
    args = parser.parse_args()
    if len(args.telemetry) != len(args.run):
        raise InputError(f"--run: {len(args.run)} names for {len(args.telemetry)} files, expected one each")

    from tuneproof.records import atomic_write, iter_json_lines
    from tuneproof.report.figures import to_svg
    from tuneproof.report.training import memory_chart, memory_curve
    from tuneproof.tables import to_csv

    files = zip(args.run, args.telemetry, strict=True)
    data = memory_curve({run: [row for _, row in iter_json_lines(path)] for run, path in files})
    with atomic_write(args.data) as stream:
        stream.write(to_csv(data))
    with atomic_write(args.out) as stream:
        stream.write(to_svg(memory_chart(data)))


if __name__ == "__main__":
    main()
