"""How well retrievers find the chunk that a question was written from.

That chunk is the only one that counts as right. A near-copy of it, or another page that tells the same, counts as a
miss, so the figures are lower bounds of what a reader of the retrieved chunks can know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tuneproof.corpus.retrieve import DEPTH
from tuneproof.records import Example
from tuneproof.scores.statistics import Estimate, estimate
from tuneproof.study import Retrieval

CUTS = (1, 3, 5, 10)
METRICS = (*(f"recall@{k}" for k in CUTS), "MRR", "nDCG@10")
RERANKED = ", reranked"  # behind the name of a retriever whose ranking a cross-encoder has put in order


@dataclass(frozen=True)
class Measured:
    """One retriever over the questions of a group; over all of them where `group` is None.

    `gain` is the paired difference in MRR to the retriever that comes first; None for that one, and for a group.
    """

    retriever: str
    group: str | None
    pages: int
    metrics: dict[str, Estimate]
    gain: Estimate | None


def rank_of(source: str, found: Sequence[str]) -> int | None:
    """Return the place of the source among the chunks that were found, from 1; None where it is not among them."""
    return found.index(source) + 1 if source in found else None


def metrics_at(rank: int | None) -> dict[str, float]:
    """Return the metrics of one question whose one relevant chunk has a rank.

    recall@k is 1 where it is among the first k; MRR takes 1 / rank; nDCG@10 takes 1 / log2(1 + rank) within the first
    10, since with one relevant chunk the ideal is 1 (Järvelin and Kekäläinen 2002).
    """
    recall = {f"recall@{k}": float(rank is not None and rank <= k) for k in CUTS}
    gain = 1 / math.log2(1 + rank) if rank is not None and rank <= 10 else 0.0
    return {**recall, "MRR": 1 / rank if rank else 0.0, "nDCG@10": gain}


def measure(examples: list[Example], found: Mapping[str, list[list[str]]]) -> list[Measured]:
    """Return a row for each retriever over all questions, then one for each retriever and group.

    `found` maps a retriever to the ids of the chunks that it found for each example, best first.
    """
    values = {
        name: [metrics_at(rank_of(e.chunk_id, ids)) for e, ids in zip(examples, lists, strict=True)]
        for name, lists in found.items()
    }
    first = next(iter(values))
    rows = []
    for group in (None, *sorted({e.group for e in examples})):
        members = [i for i, e in enumerate(examples) if group in (None, e.group)]
        pages = [examples[i].page_id for i in members]
        for name, of_each in values.items():
            metrics = {
                metric: estimate([of_each[i][metric] for i in members], pages, scale=(0.0, 1.0)) for metric in METRICS
            }
            gains = [of_each[i]["MRR"] - values[first][i]["MRR"] for i in members]
            gain = estimate(gains, pages, scale=(-1.0, 1.0)) if group is None and name != first else None
            rows.append(Measured(name, group, len(set(pages)), metrics, gain))
    return rows


def count_found(examples: list[Example], given: Mapping[str, list[str]]) -> dict[str, dict[str, int]]:
    """Count by split how many questions there are, and for how many the source is among the chunks that were given."""
    splits: dict[str, dict[str, int]] = {}
    for example in examples:
        counts = splits.setdefault(example.split, {"questions": 0, "source_found": 0})
        counts["questions"] += 1
        counts["source_found"] += example.chunk_id in given[example.id]
    return splits


def to_json(
    dataset: str,
    study: Retrieval,
    rows: Sequence[Measured],
    examples: list[Example],
    given: Mapping[str, list[str]],
    chunks: int,
) -> dict[str, Any]:
    """Return what retrieval.json holds; `given` are the chunks that the arms got for the questions that they answer."""
    return {
        "dataset": dataset,
        "top_k": study.top_k,
        "retriever": study.retriever + (RERANKED if study.reranker else ""),
        "splits": count_found([e for e in examples if e.id in given], given),
        "chunks": chunks,
        "retrievers": [asdict(row) for row in rows],
    }


def as_markdown(dataset: str, rows: Sequence[Measured], chunks: int) -> str:
    """Return the rows as a table that people read."""
    total = next(row for row in rows if row.group is None)
    head = ["retriever", "group", "questions", "pages", *METRICS, f"MRR less {total.retriever}’s"]
    lines = [
        f"# What retrievers find: {dataset}",
        "",
        f"{total.metrics['MRR'].n} questions about {total.pages} pages, each searched for among {chunks} chunks. "
        f"In brackets 95 % intervals, by page. For MRR a chunk that is not among the first {DEPTH} is not found.",
        "",
        "Only the chunk that a question was written from counts as right: a copy of it, or another page that tells the "
        "same, counts as a miss. A question also shares words with its chunk, which helps BM25.",
        "",
        "| " + " | ".join(head) + " |",
        "|---|---|" + "---:|" * (len(head) - 2),
    ]
    for row in rows:
        values = [row.metrics[name] for name in METRICS]
        cells = [row.retriever, row.group or "all", str(values[0].n), str(row.pages), *map(_cell, values)]
        lines.append("| " + " | ".join([*cells, _cell(row.gain, "+") if row.gain else ""]) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: Estimate, sign: str = "") -> str:
    if value.mean is None:
        return "–"
    ends = "" if value.low is None else f" ({value.low:{sign}.2f} to {value.high:{sign}.2f})"
    return f"{value.mean:{sign}.2f}{ends}".replace("-", "−")
