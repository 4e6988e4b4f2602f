"""Cut pages into chunks that fit a prompt, along headings and sentences.

    python scripts/chunk_pages.py --pages pages.jsonl --encoder resources/models/X/lock.json --spec '{…}'
        --out chunks.jsonl

Tokens are counted by the encoder's tokenizer: what is longer than it reads would be retrieved by its first half.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", required=True, type=Path, help="pages (JSON Lines)")
    parser.add_argument("--encoder", required=True, type=Path, help="lock of the encoder, whose tokens are counted")
    parser.add_argument("--spec", required=True, help="the corpus's `chunks` section, as JSON")
    parser.add_argument("--out", required=True, type=Path, help="chunks to write (JSON Lines)")
    parser.add_argument("--processes", type=int, default=1, help="processes that cut pages")
    args = parser.parse_args()

    from tuneproof.corpus.chunk import chunk_pages
    from tuneproof.fetch.weights import read_lock
    from tuneproof.records import Page, iter_rows, write_rows
    from tuneproof.study import Chunks

    read_lock(args.encoder)
    spec = Chunks.parse(args.spec)
    tokenizer = args.encoder.parent / "tokenizer.json"
    write_rows(args.out, chunk_pages(iter_rows(args.pages, Page), tokenizer, spec, args.processes))


if __name__ == "__main__":
    main()
