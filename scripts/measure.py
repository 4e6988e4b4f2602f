"""Measure answers without a judge: ROUGE, BERTScore, facts recalled, the product named, length, refusals.

    python scripts/measure.py --answers answers.jsonl --tests test_new_pages.jsonl … --train train.jsonl
        --metrics '{…}' [--facts facts.jsonl] [--products products.jsonl] [--encoder resources/models/E/lock.json]
        --out measures.jsonl

Fails where answers and test questions are not the same set.
"""

import argparse
from pathlib import Path

from tuneproof.errors import InputError, report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", required=True, type=Path, help="answers of one arm (JSON Lines)")
    parser.add_argument("--tests", nargs="+", required=True, type=Path, help="test splits of the data set (JSON Lines)")
    parser.add_argument("--train", required=True, type=Path, help="training examples, for the facts that were trained")
    parser.add_argument("--facts", type=Path, help="table of facts of the corpus, where there is one")
    parser.add_argument("--metrics", default="{}", help="the `metrics` section, as JSON")
    parser.add_argument("--products", type=Path, help="products of a data set of recommendations (JSON Lines)")
    parser.add_argument("--encoder", type=Path, help="lock of BERTScore's encoder, where it is computed")
    parser.add_argument("--out", required=True, type=Path, help="measures to write (JSON Lines)")
    args = parser.parse_args()

    from tuneproof.instructions.products import Product
    from tuneproof.records import Answer, Example, read_rows, write_rows
    from tuneproof.scores.bertscore import BertScore
    from tuneproof.scores.facts import read_facts
    from tuneproof.scores.measure import measure
    from tuneproof.study import Metrics

    metrics = Metrics.parse(args.metrics)
    if (metrics.bertscore is None) != (args.encoder is None):
        raise InputError(f"--encoder: {args.encoder}, expected one where, and only where, metrics.bertscore is set")
    examples = [example for path in args.tests for example in read_rows(path, Example)]
    answers = read_rows(args.answers, Answer)
    rows = measure(
        answers,
        examples,
        read_rows(args.train, Example),
        read_facts(args.facts),
        stemmer=metrics.stemmer,
        bertscore=BertScore(args.encoder, metrics.bertscore.layer) if metrics.bertscore else None,
        products=read_rows(args.products, Product) if args.products else None,
    )
    write_rows(args.out, rows)


if __name__ == "__main__":
    main()
