"""Keep the pairs that are grounded in a verified quote, make sense without their page, and are asked once.

    python scripts/screen_pairs.py --pairs written.jsonl --chunks chunks.jsonl --encoder resources/models/X/lock.json
        --near-duplicate 0.95 --decisions reviews/X/ann.jsonl --screened screened.jsonl --reviewed reviewed.jsonl
        --out pairs.jsonl --dropped dropped.jsonl

Every dropped pair is kept in --dropped with the reason. Then what reviewers decided is followed: --screened is what
they are shown, --reviewed what became of it.
"""

import argparse
from pathlib import Path

from tuneproof.errors import InputError, report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", required=True, type=Path, help="pairs as written (JSON Lines)")
    parser.add_argument("--chunks", required=True, type=Path, help="chunks they were written from (JSON Lines)")
    parser.add_argument("--encoder", required=True, type=Path, help="lock of the encoder that compares questions")
    parser.add_argument("--near-duplicate", required=True, type=float, help="cosine from which two questions are one")
    parser.add_argument("--wanted", type=int, help="pairs to keep at most, drawn evenly over groups; all if unset")
    parser.add_argument("--decisions", nargs="*", default=[], type=Path, help="reviewers' files (JSON Lines or CSV)")
    parser.add_argument("--screened", required=True, type=Path, help="pairs before the review to write (JSON Lines)")
    parser.add_argument("--reviewed", required=True, type=Path, help="what the review changed, to write (JSON Lines)")
    parser.add_argument("--out", required=True, type=Path, help="kept pairs to write (JSON Lines)")
    parser.add_argument("--dropped", required=True, type=Path, help="dropped pairs to write (JSON Lines)")
    args = parser.parse_args()

    import dataclasses
    from collections import Counter

    from tuneproof.corpus.index import Encoder
    from tuneproof.pairs.review import follow, read_decisions
    from tuneproof.pairs.screen import draw_pairs, screen
    from tuneproof.records import Chunk, Pair, read_rows, write_rows

    pairs = read_rows(args.pairs, Pair)
    chunks = {chunk.id: chunk for chunk in read_rows(args.chunks, Chunk)}
    encoder = Encoder(args.encoder)
    kept, dropped = screen(pairs, chunks, lambda texts: encoder.embed(texts, "embed questions"), args.near_duplicate)
    write_rows(args.screened, kept)
    decisions = [decision for path in args.decisions for decision in read_decisions(path)]
    kept, rejected, record = follow(kept, {pair.id: pair for pair in pairs}, decisions)
    write_rows(args.reviewed, record)
    kept, spare = draw_pairs(kept, {chunk.id: chunk.group for chunk in chunks.values()}, args.wanted)
    dropped += rejected + [(pair, "more than wanted") for pair in spare]
    write_rows(args.dropped, [{**dataclasses.asdict(pair), "reason": reason} for pair, reason in dropped])
    if not kept:
        why = ", ".join(f"{reason} {count}" for reason, count in Counter(r for _, r in dropped).most_common())
        raise InputError(f"{args.pairs}: none of {len(pairs)} pairs can be kept: {why or 'there are none'}")
    write_rows(args.out, kept)


if __name__ == "__main__":
    main()
