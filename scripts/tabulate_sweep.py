"""Compare the variants of a sweep by validation loss, with intervals over seeds, and say which is best.

python scripts/tabulate_sweep.py --name rank --sweep '{"model": …}' --variants '{"lora-rank8": {"rank": 8}, …}'
    --runs results/runs --table sweep.rank.csv --text sweep.rank.md --data sweep.rank.json
"""

import argparse
import json
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="the sweep's id in the configuration")
    parser.add_argument("--sweep", required=True, help="the sweep's section of the configuration, as JSON")
    parser.add_argument("--variants", required=True, help="each variant's point of the grid, as JSON")
    parser.add_argument("--runs", required=True, type=Path, help="folder of runs: MODEL/VARIANT/DATASET/seedN below it")
    parser.add_argument("--table", required=True, type=Path, help="table to write (CSV)")
    parser.add_argument("--text", required=True, type=Path, help="the same for people (Markdown)")
    parser.add_argument("--data", required=True, type=Path, help="the same with every seed's loss (JSON)")
    args = parser.parse_args()

    from tuneproof.records import atomic_write, write_json
    from tuneproof.study import SweepSpec
    from tuneproof.sweeps import table
    from tuneproof.tables import to_csv

    spec = SweepSpec.parse(args.sweep)
    compared, said = table.read(spec, json.loads(args.variants), args.runs)
    with atomic_write(args.table) as stream:
        stream.write(to_csv(table.to_rows(compared)))
    with atomic_write(args.text) as stream:
        stream.write(table.to_markdown(args.name, spec.model, spec.dataset, compared, said))
    write_json(args.data, table.to_json(args.name, spec.model, spec.dataset, compared, said))


if __name__ == "__main__":
    main()
