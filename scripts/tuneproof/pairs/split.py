"""Split pairs into training, validation and two test sets: by page, never by pair.

    test_new_pages      questions about pages that were never trained on: what a model guesses
    test_trained_pages  new wordings of questions about trained pages: what a model has learned

The wording that is held out is never trained on, for any pair, so that every fact is trained equally often.
"""

from __future__ import annotations

from collections import Counter

from tuneproof.errors import InputError
from tuneproof.records import Chunk, Example, Pair, Phrasing, content_id
from tuneproof.study import Split, Splits


def split_pages(groups: dict[str, str], spec: Splits) -> dict[str, Split]:
    """Assign each page (id -> group) to train, val or test_new_pages, in the same shares within each group."""
    by_group: dict[str, list[str]] = {}
    for page in sorted(groups, key=lambda p: content_id("split", p)):
        by_group.setdefault(groups[page], []).append(page)
    # dealt over all groups in one sequence, so that groups of one page fill the splits in turn too
    sequence = [page for group in sorted(by_group) for page in by_group[group]]
    assigned: dict[str, Split] = {}
    counts: Counter[str] = Counter()
    for n, page in enumerate(sequence, 1):
        split: Split = "train"
        if counts["test"] + 0.5 < n * spec.test_pages:
            split = "test_new_pages"
            counts["test"] += 1
        elif counts["val"] + 0.5 < n * spec.val_pages:
            split = "val"
            counts["val"] += 1
        assigned[page] = split
    return assigned


def make_examples(
    pairs: list[Pair], phrasings: list[Phrasing], chunks: dict[str, Chunk], spec: Splits
) -> dict[Split, list[Example]]:
    """Return the rows of each split. Raises InputError where a split would be empty."""
    wordings = {p.pair_id: p.questions for p in phrasings}
    for pair in pairs:
        if pair.chunk_id not in chunks:
            raise InputError(f"pair {pair.id}: its chunk {pair.chunk_id!r} is not among the {len(chunks)} chunks")
        if pair.id not in wordings:
            raise InputError(f"pair {pair.id}: no row among the phrasings, expected one for each pair")
    pages = split_pages({pair.page_id: chunks[pair.chunk_id].group for pair in pairs}, spec)
    splits: dict[Split, list[Example]] = {"train": [], "val": [], "test_trained_pages": [], "test_new_pages": []}
    for pair in pairs:
        chunk, split = chunks[pair.chunk_id], pages[pair.page_id]
        if split != "train":
            splits[split].append(_example(pair, chunk, pair.question, split))
            continue
        others = wordings[pair.id]
        trained = [pair.question, *others[:-1]]
        splits["train"] += [_example(pair, chunk, question, "train") for question in trained]
        if others:
            splits["test_trained_pages"].append(_example(pair, chunk, others[-1], "test_trained_pages"))
    splits["test_trained_pages"] = _draw(splits["test_trained_pages"], spec.max_trained_page_questions)
    splits["test_new_pages"] = _draw(splits["test_new_pages"], spec.max_new_page_questions)
    for split, examples in splits.items():
        if not examples:
            raise InputError(
                f"split {split} is empty: {len(pairs)} pairs from {len(pages)} pages are too few to split; "
                "give more pages, more pairs per chunk or other shares (datasets: splits)"
            )
    return splits


def _draw(examples: list[Example], limit: int) -> list[Example]:
    chosen = sorted(examples, key=lambda e: content_id("draw", e.id))[:limit]
    keep = {e.id for e in chosen}
    return [e for e in examples if e.id in keep]


def _example(pair: Pair, chunk: Chunk, question: str, split: Split) -> Example:
    return Example(
        id=content_id(pair.id, question, split),
        pair_id=pair.id,
        chunk_id=chunk.id,
        page_id=chunk.page_id,
        url=chunk.url,
        group=chunk.group,
        split=split,
        question=question,
        answer=pair.answer,
        messages=[{"role": "user", "content": question}, {"role": "assistant", "content": pair.answer}],
    )
