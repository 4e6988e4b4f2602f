"""Embed a corpus's chunks into a FAISS index.

    python scripts/index_chunks.py --chunks chunks.jsonl --encoder resources/models/X/lock.json --out chunks.faiss

Row n of the index is line n of the chunks. The headings are embedded with the text: they often name the subject.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", required=True, type=Path, help="chunks (JSON Lines)")
    parser.add_argument("--encoder", required=True, type=Path, help="lock of the encoder")
    parser.add_argument("--out", required=True, type=Path, help="index to write")
    args = parser.parse_args()

    from tuneproof.corpus.index import Encoder, searched_text, write_index
    from tuneproof.records import Chunk, atomic_write, iter_rows

    texts = (searched_text(chunk) for chunk in iter_rows(args.chunks, Chunk))
    with atomic_write(args.out, "wb") as stream:
        write_index(stream, Encoder(args.encoder).embed_in_blocks(texts, "embed chunks"))


if __name__ == "__main__":
    main()
