"""Tabulate pairwise comparisons: how often an arm's answers are taken, and how far the order decides.

python scripts/tabulate_comparisons.py --comparisons '{"tune-or-look-up": {"judge": "qwen", "arms": […]}}'
    --choices tune-or-look-up.jsonl … --trial trial.nq.json … --out pairwise.csv
"""

import argparse
import json
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", required=True, help="the study's section `comparisons`, as JSON")
    parser.add_argument("--choices", nargs="+", required=True, type=Path, help="their choices, in the same order")
    parser.add_argument("--trial", nargs="*", default=[], type=Path, help="judges on trial (JSON), to mark those here")
    parser.add_argument("--out", required=True, type=Path, help="table to write (CSV)")
    args = parser.parse_args()

    from tuneproof.records import atomic_write, read_json, read_rows
    from tuneproof.scores.pairwise import Choice, summarise
    from tuneproof.tables import to_csv
    from tuneproof.trials.table import marked

    marks = marked([read_json(path) for path in args.trial])
    rows = [
        row
        for (name, comparison), path in zip(json.loads(args.comparisons).items(), args.choices, strict=True)
        for row in summarise(name, comparison["judge"], comparison["arms"], read_rows(path, Choice), marks)
    ]
    with atomic_write(args.out) as stream:
        stream.write(to_csv(rows))


if __name__ == "__main__":
    main()
