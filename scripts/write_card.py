"""Write a data set's card, as Markdown and JSON, and its splits as Parquet.

    python scripts/write_card.py --name X --spec '{…}' --corpus '{…}' --splits train.jsonl val.jsonl …
        --funnel funnel.json --encoder resources/models/X/lock.json --model resources/models/Y/lock.json
        --api '{"gpt": "gpt-4.1"}' --prompt prompts/write_pairs.txt --out results/datasets/X

Writes card.md, card.json, README.md and data/SPLIT.parquet into --out: `datasets.load_dataset` opens the folder.
"""

import argparse
import json
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="the data set's id in the configuration")
    parser.add_argument("--spec", required=True, help="the data set's section of the configuration, as JSON")
    parser.add_argument("--corpus", nargs="?", help="its corpus's section, as JSON; empty for a catalogue")
    parser.add_argument("--splits", nargs="+", required=True, type=Path, help="the data set's splits (JSON Lines)")
    parser.add_argument("--funnel", required=True, type=Path, help="its counts (JSON)")
    parser.add_argument(
        "--types", nargs="?", type=Path, help="each pair's type (JSON Lines); empty where there is none"
    )
    parser.add_argument(
        "--encoder", required=True, type=Path, help="lock of the encoder, whose tokenizer counts tokens"
    )
    parser.add_argument("--model", nargs="*", default=[], type=Path, help="locks of the models that it was made with")
    parser.add_argument("--api", default="{}", help="models behind APIs that it was made with, by id, as JSON")
    parser.add_argument("--prompt", nargs="*", default=[], type=Path, help="prompts that it was made with")
    parser.add_argument("--decisions", nargs="*", default=[], type=Path, help="reviewers' files (JSON Lines or CSV)")
    parser.add_argument("--out", required=True, type=Path, help="folder of the data set")
    args = parser.parse_args()

    from tokenizers import Tokenizer

    from tuneproof.fetch.weights import read_lock, weights_sha256
    from tuneproof.pairs.card import card, markdown, parquet, readme
    from tuneproof.pairs.review import read_decisions, summary
    from tuneproof.records import (
        Example,
        atomic_write,
        file_sha256,
        iter_json_lines,
        read_json,
        read_rows,
        write_json,
    )
    from tuneproof.study import CorpusSpec, parse_dataset

    splits = {path.stem: read_rows(path, Example) for path in args.splits}
    types = {row["pair_id"]: row["type"] for _, row in iter_json_lines(args.types)} if args.types else {}
    locks = [read_lock(path) for path in args.model]
    made_with = {
        "tokenizer": read_lock(args.encoder)["model"],
        "models": [
            *({"model": lock["model"], "licence": lock["licence"], "digest": weights_sha256(lock)} for lock in locks),
            *({"model": m, "licence": "the provider's terms", "digest": "none"} for m in json.loads(args.api).values()),
        ],
        "prompts": {path.as_posix(): file_sha256(path) for path in args.prompt},
    }
    tokenizer = Tokenizer.from_file(str(args.encoder.parent / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def tokens(texts: list[str]) -> list[int]:
        return [len(encoding) for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    corpus = CorpusSpec.parse(args.corpus) if args.corpus else None
    counts = read_json(args.funnel)
    decisions = [decision for path in args.decisions for decision in read_decisions(path)]
    written = card(
        args.name, parse_dataset(args.spec), corpus, counts, splits, types, made_with, summary(decisions), tokens
    )
    for split, rows in splits.items():
        with atomic_write(args.out / "data" / f"{split}.parquet", "wb") as stream:
            stream.write(parquet(rows))
    with atomic_write(args.out / "card.md") as stream:
        stream.write(markdown(written))
    with atomic_write(args.out / "README.md") as stream:
        stream.write(readme(written))
    write_json(args.out / "card.json", written)


if __name__ == "__main__":
    main()
