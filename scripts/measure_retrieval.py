"""Measure retrievers on every question of a data set, whose source chunk is known.

    python scripts/measure_retrieval.py --dataset X --splits train.jsonl … --retrieved retrieved.jsonl
        --retrieval '{…}' --chunks chunks.jsonl --index chunks.faiss --encoder resources/models/X/lock.json
        [--reranker resources/models/Y/lock.json] --out retrieval.json --table retrieval.md

Dense, BM25 and both fused, whichever the study uses; where it uses a reranker, the study's retriever with that too.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="the data set's id")
    parser.add_argument("--splits", nargs="+", required=True, type=Path, help="all rows of the data set (JSON Lines)")
    parser.add_argument("--retrieved", required=True, type=Path, help="what the study's arm was given (JSON Lines)")
    parser.add_argument("--retrieval", required=True, help="the `retrieval` section, as JSON")
    parser.add_argument("--chunks", required=True, type=Path, help="chunks (JSON Lines)")
    parser.add_argument("--index", required=True, type=Path, help="FAISS index of the chunks")
    parser.add_argument("--encoder", required=True, type=Path, help="lock of the encoder")
    parser.add_argument("--reranker", type=Path, help="lock of the study's cross-encoder")
    parser.add_argument("--out", required=True, type=Path, help="metrics and counts to write (JSON)")
    parser.add_argument("--table", required=True, type=Path, help="the same for people to write (Markdown)")
    args = parser.parse_args()

    from tuneproof.corpus import retrieve
    from tuneproof.records import Chunk, Example, Retrieved, atomic_write, read_rows, write_json
    from tuneproof.scores.retrieval import RERANKED, as_markdown, measure, to_json
    from tuneproof.study import Retrieval

    study = Retrieval.parse(args.retrieval)
    examples = [example for path in args.splits for example in read_rows(path, Example)]
    chunks = read_rows(args.chunks, Chunk)
    questions = [example.question for example in examples]
    rankings = retrieve.compared(questions, chunks, args.index, args.encoder)
    if args.reranker:
        best = retrieve.rerank(questions, chunks, rankings[study.retriever], args.reranker)
        rankings[study.retriever + RERANKED] = best
    rows = measure(examples, retrieve.chunk_ids(rankings, chunks))
    given = {row.example_id: row.chunk_ids for row in read_rows(args.retrieved, Retrieved)}
    write_json(args.out, to_json(args.dataset, study, rows, examples, given, len(chunks)))
    with atomic_write(args.table) as stream:
        stream.write(as_markdown(args.dataset, rows, len(chunks)))


if __name__ == "__main__":
    main()
