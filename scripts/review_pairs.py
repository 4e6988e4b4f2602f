"""Write a data set's pairs for people to review: a table and a page; and say what the decisions so far come to.

    python scripts/review_pairs.py --name X --pairs screened.jsonl --chunks chunks.jsonl
        --template report/review.html.j2 --decisions reviews/X/ann.jsonl --table review/X.csv --page review/X.html
        --summary review/X.txt

The page needs no network and keeps what is decided in the browser until it is exported to reviews/X/REVIEWER.jsonl.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="the data set's id in the configuration")
    parser.add_argument("--pairs", required=True, type=Path, help="screened pairs (JSON Lines)")
    parser.add_argument("--chunks", required=True, type=Path, help="chunks they were written from (JSON Lines)")
    parser.add_argument("--template", required=True, type=Path, help="the page's template")
    parser.add_argument("--decisions", nargs="*", default=[], type=Path, help="decisions so far (JSON Lines or CSV)")
    parser.add_argument("--table", required=True, type=Path, help="table to write (CSV)")
    parser.add_argument("--page", required=True, type=Path, help="page to write (HTML)")
    parser.add_argument("--summary", required=True, type=Path, help="what the decisions come to, to write (text)")
    args = parser.parse_args()

    from tuneproof.pairs.review import page, read_decisions, summary, table
    from tuneproof.records import Chunk, Pair, atomic_write, read_rows

    pairs = read_rows(args.pairs, Pair)
    chunks = {chunk.id: chunk for chunk in read_rows(args.chunks, Chunk)}
    decisions = [decision for path in args.decisions for decision in read_decisions(path)]
    template = args.template.read_text(encoding="utf-8")
    for path, text in (
        (args.table, table(pairs, chunks)),
        (args.page, page(template, args.name, pairs, chunks, decisions)),
        (args.summary, "\n".join(summary(decisions)) + "\n"),
    ):
        with atomic_write(path) as stream:
            stream.write(text)


if __name__ == "__main__":
    main()
