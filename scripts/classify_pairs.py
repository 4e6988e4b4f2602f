"""Label every pair as conceptual or factual: as the LLM has annotated it, or else by the classifier.

python scripts/classify_pairs.py --pairs pairs.jsonl --annotated annotated.jsonl --classifier types/classifier
    --threads 2 --out types.jsonl
"""

import argparse
import sys
import time
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", required=True, type=Path, help="pairs (JSON Lines)")
    parser.add_argument("--annotated", required=True, type=Path, help="annotated pairs (JSON Lines)")
    parser.add_argument("--classifier", required=True, type=Path, help="folder of the classifier")
    parser.add_argument("--threads", required=True, type=int, help="cores to use")
    parser.add_argument("--out", required=True, type=Path, help="types to write (JSON Lines)")
    args = parser.parse_args()

    import torch

    from tuneproof.records import Annotation, Pair, read_rows, write_rows
    from tuneproof.types import classifier

    torch.set_num_threads(args.threads)
    pairs = read_rows(args.pairs, Pair)
    annotated = {row.id: row for row in read_rows(args.annotated, Annotation)}
    labeller = classifier.load(args.classifier)
    began = time.monotonic()
    rows = classifier.typed(pairs, annotated, labeller)
    labelled, seconds = len(pairs) - len(annotated), time.monotonic() - began
    print(f"label types: {labelled} questions in {seconds:.1f} s, {labelled / seconds:.0f}/s", file=sys.stderr)
    write_rows(args.out, rows)


if __name__ == "__main__":
    main()
