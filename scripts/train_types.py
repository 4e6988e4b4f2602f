"""Fine-tune a BERT on annotated pairs, conceptual or factual, and measure it on pages that it was not trained on.

    python scripts/train_types.py --name X --annotated annotated.jsonl --pairs pairs.jsonl --chunks chunks.jsonl
        --human-annotated human.jsonl --spec '{…}' --encoder resources/models/X/lock.json --threads 2
        --out results/datasets/X/types

Writes classifier/, evaluation.json and evaluation.md into --out. Against it stand: the commoner type, the question's
words, a logistic regression on the encoder's embeddings and, where people have sorted the questions, the LLM itself.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="the data set's id in the configuration")
    parser.add_argument("--annotated", required=True, type=Path, help="annotated pairs (JSON Lines)")
    parser.add_argument("--pairs", required=True, type=Path, help="pairs (JSON Lines)")
    parser.add_argument("--chunks", required=True, type=Path, help="chunks they were written from (JSON Lines)")
    parser.add_argument("--spec", required=True, help="the data set's section `types`, as JSON")
    parser.add_argument("--encoder", required=True, type=Path, help="lock of the BERT that is fine-tuned")
    parser.add_argument(
        "--human-annotated",
        nargs="?",
        type=Path,
        help="annotated questions that people have sorted (JSON Lines); empty where there are none",
    )
    parser.add_argument("--threads", required=True, type=int, help="cores to use")
    parser.add_argument("--out", required=True, type=Path, help="folder to write into")
    args = parser.parse_args()

    import torch

    from tuneproof.records import Annotation, Chunk, Pair, atomic_write, read_rows, write_json
    from tuneproof.study import Types
    from tuneproof.types.evaluate import markdown
    from tuneproof.types.learn import learn

    torch.set_num_threads(args.threads)
    chunks = {chunk.id: chunk for chunk in read_rows(args.chunks, Chunk)}
    classifier, sets = learn(
        read_rows(args.pairs, Pair),
        {chunk_id: chunk.group for chunk_id, chunk in chunks.items()},
        read_rows(args.annotated, Annotation),
        Types.parse(args.spec),
        args.encoder,
        read_rows(args.human_annotated, Annotation) if args.human_annotated else [],
    )
    classifier.save(args.out / "classifier")
    evaluation = {"dataset": args.name, "sets": sets}
    write_json(args.out / "evaluation.json", evaluation)
    with atomic_write(args.out / "evaluation.md") as stream:
        stream.write(markdown(evaluation))


if __name__ == "__main__":
    main()
