"""Count and list what every test set shares with every training set; fail where it is too much.

    python scripts/audit_leaks.py --dataset results/datasets/a results/datasets/b --limits '{…}' --accept b
        --encoder resources/models/X/lock.json --table leaks.csv --text leaks.md --pairs leaks.jsonl

Where it fails, the log has the text: Snakemake deletes the outputs of a rule that failed.
"""

import argparse
import sys
from pathlib import Path

from tuneproof.errors import InputError, report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", required=True, type=Path, help="folders of all data sets")
    parser.add_argument("--limits", required=True, help="section study.leaks of the configuration, as JSON")
    parser.add_argument("--accept", nargs="*", default=[], help="data sets whose test sets may share anything")
    parser.add_argument("--encoder", required=True, type=Path, help="lock of the encoder that compares texts")
    parser.add_argument("--table", required=True, type=Path, help="counts to write (CSV)")
    parser.add_argument("--text", required=True, type=Path, help="counts with some leaks to write (Markdown)")
    parser.add_argument("--pairs", required=True, type=Path, help="pairs of rows to write (JSON Lines)")
    args = parser.parse_args()

    from tuneproof.corpus.index import Encoder
    from tuneproof.fetch.weights import read_lock
    from tuneproof.pairs.leaks import audit, markdown, read, rows_of, too_many
    from tuneproof.records import atomic_write, write_rows
    from tuneproof.study import Leaks
    from tuneproof.tables import to_csv

    limits = Leaks.parse(args.limits)
    encoder = Encoder(args.encoder)
    cells, leaks = audit(read(args.dataset), limits, lambda texts: encoder.embed(texts, "embed texts"))
    text = markdown(cells, leaks, limits, read_lock(args.encoder)["model"])
    write_rows(args.pairs, rows_of(leaks))
    with atomic_write(args.text) as stream:
        stream.write(text)
    with atomic_write(args.table) as stream:
        stream.write(to_csv([cell.line() for cell in cells]))
    if sentences := too_many(cells, limits, args.accept):
        print(text, file=sys.stderr)
        raise InputError(
            f"{'; '.join(sentences)}: more than study.leaks.max_share {limits.max_share:g}. They are listed above; "
            "accept_leaks of the data set goes on all the same"
        )


if __name__ == "__main__":
    main()
