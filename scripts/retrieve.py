"""Find the chunks nearest to each test question, and count how often the source chunk is among them.

    python scripts/retrieve.py --tests test_new_pages.jsonl … --chunks chunks.jsonl --index chunks.faiss
        --encoder resources/models/X/lock.json --top-k 2 --dataset X --out retrieved.jsonl --counts retrieval.json

Each question knows the chunk it was written from, so the retriever is measured and not only used.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", nargs="+", required=True, type=Path, help="test splits of the data set (JSON Lines)")
    parser.add_argument("--chunks", required=True, type=Path, help="chunks (JSON Lines)")
    parser.add_argument("--index", required=True, type=Path, help="FAISS index of the chunks")
    parser.add_argument("--encoder", required=True, type=Path, help="lock of the encoder")
    parser.add_argument("--top-k", required=True, type=int, help="chunks per question")
    parser.add_argument("--dataset", required=True, help="the data set's id")
    parser.add_argument("--out", required=True, type=Path, help="chunks per question to write (JSON Lines)")
    parser.add_argument("--counts", required=True, type=Path, help="how often the source was found, to write (JSON)")
    args = parser.parse_args()

    from tuneproof.corpus.index import Encoder, search
    from tuneproof.records import Chunk, Example, Retrieved, read_rows, write_json, write_rows

    examples = [example for path in args.tests for example in read_rows(path, Example)]
    chunks = read_rows(args.chunks, Chunk)
    queries = Encoder(args.encoder).embed([e.question for e in examples], "embed questions")
    cosines, numbers = search(args.index, len(chunks), queries, args.top_k)
    rows = [
        Retrieved(example.id, [chunks[i].id for i in found], [round(float(c), 6) for c in similar])
        for example, found, similar in zip(examples, numbers, cosines, strict=True)
    ]
    splits: dict[str, dict[str, int]] = {}
    for example, row in zip(examples, rows, strict=True):
        counts = splits.setdefault(example.split, {"questions": 0, "source_found": 0})
        counts["questions"] += 1
        counts["source_found"] += example.chunk_id in row.chunk_ids
    write_rows(args.out, rows)
    write_json(args.counts, {"dataset": args.dataset, "top_k": args.top_k, "splits": splits})


if __name__ == "__main__":
    main()
