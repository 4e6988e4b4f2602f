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

    import faiss

    from tuneproof.corpus.index import Encoder, build_index, searched_text
    from tuneproof.records import Chunk, atomic_write, read_rows

    chunks = read_rows(args.chunks, Chunk)
    texts = [searched_text(chunk) for chunk in chunks]
    index = build_index(Encoder(args.encoder).embed(texts, "embed chunks"))
    with atomic_write(args.out, "wb") as stream:
        stream.write(faiss.serialize_index(index).tobytes())


if __name__ == "__main__":
    main()
