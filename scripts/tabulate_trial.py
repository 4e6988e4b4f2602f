"""Tabulate a trial: each judge beside string match, ROUGE-L, embedding cosine and BERTScore, and who is marked.

python scripts/tabulate_trial.py --name nq --trial '{"file": "NQ.json", …}' --judge qwen … --scores qwen.jsonl …
    --encoder resources/models/X/lock.json
    --table trial.nq.csv --text trial.nq.md --data trial.nq.json
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="the trial's id")
    parser.add_argument("--trial", required=True, help="the trial's section of the configuration, as JSON")
    parser.add_argument("--judge", nargs="+", required=True, help="the judges' ids")
    parser.add_argument("--scores", nargs="+", required=True, type=Path, help="their scores, in the same order")
    parser.add_argument("--encoder", required=True, type=Path, help="lock of the encoder of cosine and BERTScore")
    parser.add_argument("--resamples", default=10_000, type=int, help="bootstrap resamples")
    parser.add_argument("--table", required=True, type=Path, help="table to write (CSV)")
    parser.add_argument("--text", required=True, type=Path, help="the same for people (Markdown)")
    parser.add_argument("--data", required=True, type=Path, help="the same with reliability bins (JSON)")
    args = parser.parse_args()

    from tuneproof.records import atomic_write, write_json
    from tuneproof.study import TrialSpec
    from tuneproof.tables import to_csv
    from tuneproof.trials import table

    spec = TrialSpec.parse(args.trial)
    trial = table.hold(spec, dict(zip(args.judge, args.scores, strict=True)), args.encoder, args.resamples)
    source = spec.path.name
    with atomic_write(args.table) as stream:
        stream.write(to_csv(table.to_rows(trial)))
    with atomic_write(args.text) as stream:
        stream.write(table.to_markdown(args.name, source, trial))
    write_json(args.data, table.to_json(args.name, source, trial))


if __name__ == "__main__":
    main()
