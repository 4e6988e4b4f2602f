"""Derive every cell of a study's tables again from its stored rows, and walk every row back to its page.

    python scripts/verify.py [--study studies/x.yaml] [--root .]

Says what holds, or names the first cell that does not (file, line, column, what is stored, what is derived) and exits
with 1. Nothing is written and no model is asked. With --study the results have to be of that study, as it now is.
"""

import argparse
from pathlib import Path

from tuneproof.errors import InputError, report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, help="YAML file that is laid over config.yaml; else results/study.json")
    parser.add_argument("--root", type=Path, default=Path(), help="folder that holds results/, resources/ and store/")
    args = parser.parse_args()

    from tuneproof.progress import progress
    from tuneproof.records import read_json
    from tuneproof.study import load
    from tuneproof.verify import Verifier

    resolved = args.root / "results" / "study.json"
    config = load(read_json(resolved))
    if args.study:
        from plan_study import dry_run

        given, _ = dry_run(args.study, Path("profiles/local"))
        if given != config:
            raise InputError(f"{resolved}: it is of {config.study.name} with other settings than {args.study}")
    verifier = Verifier(args.root, config)
    with progress(verifier.files(), "file", "verify") as bar:
        verifier.done = lambda _: bar.update()
        verifier.verify()
    print(f"{config.study.name}: {verifier.cells:,} cells of {verifier.rows:,} rows hold")
    print(
        f"{verifier.calls:,} calls are in the store"
        if verifier.calls
        else "the store is not here: replies were taken as the rows have them"
    )


if __name__ == "__main__":
    main()
