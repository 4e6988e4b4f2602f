"""Find the chunks that answer each question of some rows.

    python scripts/retrieve.py --examples test_new_pages.jsonl … --chunks chunks.jsonl --index chunks.faiss
        --encoder resources/models/X/lock.json --retriever dense [--reranker resources/models/Y/lock.json] --top-k 2
        --out retrieved.jsonl

The retriever `oracle` gives the chunk that the question was written from: the upper bound of any retriever.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", nargs="+", required=True, type=Path, help="rows with questions (JSON Lines)")
    parser.add_argument("--chunks", required=True, type=Path, help="chunks (JSON Lines)")
    parser.add_argument("--index", required=True, type=Path, help="FAISS index of the chunks")
    parser.add_argument("--encoder", required=True, type=Path, help="lock of the encoder")
    parser.add_argument("--retriever", required=True, choices=["dense", "bm25", "fused", "oracle"], help="how to find")
    parser.add_argument("--reranker", type=Path, help="lock of a cross-encoder that sorts what was found")
    parser.add_argument("--top-k", required=True, type=int, help="chunks per question")
    parser.add_argument("--out", required=True, type=Path, help="chunks per question to write (JSON Lines)")
    args = parser.parse_args()

    from tuneproof.corpus.retrieve import rank, rerank
    from tuneproof.records import Chunk, Example, Retrieved, read_rows, write_rows

    examples = [example for path in args.examples for example in read_rows(path, Example)]
    if args.retriever == "oracle":
        write_rows(args.out, [Retrieved(e.id, [e.chunk_id], [1.0]) for e in examples])
        return
    chunks = read_rows(args.chunks, Chunk)
    questions = [example.question for example in examples]
    rankings = rank(args.retriever, questions, chunks, args.index, args.encoder)
    if args.reranker:
        rankings = rerank(questions, chunks, rankings, args.reranker)
    rows = [
        Retrieved(example.id, [chunks[i].id for i, _ in best], [round(score, 6) for _, score in best])
        for example, best in zip(examples, (ranking[: args.top_k] for ranking in rankings), strict=True)
    ]
    write_rows(args.out, rows)


if __name__ == "__main__":
    main()
