"""Measure answers without a judge: ROUGE-L and the facts recalled.

    python scripts/measure.py --answers answers.jsonl --tests test_new_pages.jsonl … --train train.jsonl
        [--facts facts.jsonl] --out measures.jsonl

Fails where answers and test questions are not the same set.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", required=True, type=Path, help="answers of one arm (JSON Lines)")
    parser.add_argument("--tests", nargs="+", required=True, type=Path, help="test splits of the data set (JSON Lines)")
    parser.add_argument("--train", required=True, type=Path, help="training examples, for the facts that were trained")
    parser.add_argument("--facts", type=Path, help="table of facts of the corpus, where there is one")
    parser.add_argument("--out", required=True, type=Path, help="measures to write (JSON Lines)")
    args = parser.parse_args()

    from tuneproof.records import Answer, Example, read_rows, write_rows
    from tuneproof.scores.facts import read_facts
    from tuneproof.scores.measure import measure

    examples = [example for path in args.tests for example in read_rows(path, Example)]
    answers = read_rows(args.answers, Answer)
    write_rows(args.out, measure(answers, examples, read_rows(args.train, Example), read_facts(args.facts)))


if __name__ == "__main__":
    main()
