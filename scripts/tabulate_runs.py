"""Write a table with a row a training: steps, tokens, speed, memory, minutes and losses.

    python scripts/tabulate_runs.py --log results/runs/m/lora/d/seed1/train_log.jsonl
        --telemetry results/runs/m/lora/d/seed1/telemetry.jsonl --run m/lora/d/seed1 --out results/tables/runs.csv

Give as many --log and --telemetry as --run, in the same order.
"""

import argparse
from pathlib import Path

from tuneproof.errors import InputError, report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", required=True, nargs="+", type=Path, help="training logs (JSON Lines)")
    parser.add_argument("--telemetry", required=True, nargs="+", type=Path, help="telemetry of the runs (JSON Lines)")
    parser.add_argument("--run", required=True, nargs="+", help="the run of each file")
    parser.add_argument("--out", required=True, type=Path, help="table to write (CSV)")
    args = parser.parse_args()
    for name in ("log", "telemetry"):
        if len(files := getattr(args, name)) != len(args.run):
            raise InputError(f"--run: {len(args.run)} names for {len(files)} files of --{name}, expected one each")

    from tuneproof.records import atomic_write, iter_json_lines
    from tuneproof.report.training import run_table
    from tuneproof.tables import to_csv

    def read(paths: list[Path]) -> dict[str, list[dict[str, object]]]:
        return {r: [row for _, row in iter_json_lines(path)] for r, path in zip(args.run, paths, strict=True)}

    with atomic_write(args.out) as stream:
        stream.write(to_csv(run_table(read(args.log), read(args.telemetry))))


if __name__ == "__main__":
    main()
