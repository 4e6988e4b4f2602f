"""What there is to know of a data set before it is used: counts, sources, lengths, samples, weaknesses; and Parquet.

A card is made of the files that every data set has, whatever its kind: its four splits and its funnel.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tuneproof.records import Chunk, Example, Pair, content_id
from tuneproof.study import AnyDataset, CorpusSpec, DialoguesSpec

SAMPLES = 20
ABOUT = {
    "pairs": (
        "Questions and answers that an LLM wrote about single chunks of the corpus (D-Naive), to tune a model on what "
        "the corpus says.",
        [
            "An answer rests on one chunk; what other pages say about the subject is not in it.",
            "Rules check that a pair is grounded in its page, not that the page is right.",
            "Where nobody reviewed the pairs, what the rules let through is still there.",
        ],
    ),
    "reanswered": (
        "The questions of another data set, answered again from what a retriever found in the whole corpus (D-RAG), to "
        "compare both answers row by row.",
        [
            "Where the retriever missed the source, the answer is wrong or evasive, and is trained on all the same.",
            "Reference answers differ from those of the other data set: scores against them are no fair comparison.",
        ],
    ),
    "typed": (
        "The conceptual or the factual pairs of another data set, drawn to equal numbers, to compare what is learned "
        "from the one and from the other.",
        [
            "Types are a classifier's, taught by an LLM: its errors, in the classifier's table, are in here.",
            "Conceptual and factual test sets differ in difficulty: compare models on the same test set.",
        ],
    ),
    "recommendation": (
        "A requirement and a list of products, of which one fits: to tune a model to name the right one.",
        [
            "Requirements are an LLM's, written from the product that is asked for: real customers say less.",
            "A distractor may fit too, where two products differ by little.",
        ],
    ),
    "next-steps": (
        "A sales call and what was agreed in it: to tune a model to write down who does what next.",
        [
            "The steps are drawn from two lists, so that they are right; real calls agree on more than stands there.",
            "What is asked and answered are pairs of another data set: people do not talk so.",
            "The first and the last words are an LLM's: their style is its own.",
        ],
    ),
    "dialogues": (
        "Dialogues of customers and agents, and summaries that people wrote of them: to tune a model to summarise.",
        [
            "Annotators differ: the reference answer is the first summary of several; the others are in `references`.",
            "What was taken out to clean a dialogue (addresses, names) may be what it was about.",
            "Pages are dialogues here: test_new_pages holds dialogues that are in no other split.",
        ],
    ),
    "pitch": (
        "A sales pitch of what a page describes: to tune a model to write what a colleague would.",
        [
            "Pitches are an LLM's: their style is its own.",
            "There are many good pitches; the reference is one.",
        ],
    ),
}
ORACLE = (
    "The questions of another data set, answered again from the chunk that each was written from: the upper bound of "
    "answering them from what a retriever finds (D-RAG).",
    [
        "No retriever always finds the right chunk: a model that is tuned on this does not show what D-RAG gives.",
        ABOUT["reanswered"][1][1],
    ],
)
WEAK_EVERYWHERE = [
    "test_trained_pages asks in new words for facts that train states, on purpose: it measures recall, nothing else.",
    "Pages repeat one another: what test_new_pages asks may stand on a trained page; results/tables/leaks.md counts.",
]


def funnel(
    dataset: str,
    page_counts: dict[str, int],
    chunks: list[Chunk],
    written: list[Pair],
    unusable: int,
    dropped: list[dict[str, Any]],
    splits: dict[str, list[Example]],
    wanted: int | None = None,
) -> dict[str, Any]:
    """Count every step from documents to training rows, and every reason for a drop; `wanted` pairs were asked for."""
    reasons = Counter(row["reason"] for row in dropped)
    return {
        "dataset": dataset,
        "wanted": wanted,
        "steps": [
            {"step": "documents", "count": page_counts["documents"]},
            {"step": "pages with text, copies dropped", "count": page_counts["pages"]},
            {"step": "chunks", "count": len(chunks)},
            {"step": "chunks asked about", "count": len({p.chunk_id for p in written}) + unusable},
            {"step": "pairs written", "count": len(written)},
            {"step": "pairs kept", "count": len(written) - len(dropped)},
            {"step": "training rows (all wordings)", "count": len(splits["train"])},
        ],
        "unusable_replies": unusable,
        "dropped": dict(reasons.most_common()),
        "splits": {split: len(rows) for split, rows in splits.items()},
    }


def card(
    name: str,
    spec: AnyDataset,
    corpus: CorpusSpec | None,
    counts: Mapping[str, Any],
    splits: Mapping[str, Sequence[Example]],
    types: Mapping[str, str],
    made_with: Mapping[str, Any],
    review: Sequence[str],
    tokens: Callable[[list[str]], list[int]],
) -> dict[str, Any]:
    """Return the card as plain data.

    `types` maps pair ids to conceptual or factual, and is empty where nobody told them apart; `tokens` counts the
    tokens of texts; `made_with` holds the digests of models and prompts; `review` says what reviewers decided.
    """
    purpose, weaknesses = ORACLE if getattr(spec, "retriever", None) == "oracle" else ABOUT[spec.kind]
    return {
        "dataset": name,
        "kind": spec.kind,
        "purpose": purpose,
        "weaknesses": [*weaknesses, *(WEAK_EVERYWHERE if spec.kind != "dialogues" else [])],
        "source": _source(spec, corpus),
        "funnel": dict(counts),
        "splits": {split: _split(rows, types, tokens) for split, rows in splits.items()},
        "made_with": dict(made_with),
        "review": list(review),
        "samples": [
            {key: getattr(row, key) for key in ("split", "url", "question", "answer")} for row in samples(splits)
        ],
    }


def samples(splits: Mapping[str, Sequence[Example]]) -> list[Example]:
    """Return rows chosen by the hash of their ids, from the splits in turn: no hand and no alphabet chooses."""
    queues = [sorted(rows, key=lambda row: content_id("sample", row.id)) for rows in splits.values()]
    longest = max(map(len, queues), default=0)
    return [queue[i] for i in range(longest) for queue in queues if i < len(queue)][:SAMPLES]


def markdown(card: Mapping[str, Any]) -> str:
    """Return the card as Markdown. Questions, answers and addresses are other people's text and are escaped."""
    source, counts = card["source"], card["funnel"]
    made = card["made_with"]
    lines = [
        *(f"# Data set {card['dataset']}", "", card["purpose"], ""),
        f"Source: {_plain(source['from'])}. Licence: {_plain(source['licence'] or 'not stated')}.",
        *("", "## Splits", ""),
        *_table(
            ["split", "rows", "pairs", "pages", "groups", "types"],
            [[k, s["rows"], s["pairs"], s["pages"], _counts(s["groups"]), _counts(s["types"])] for k, s in _of(card)],
        ),
        *("", f"No page is in train and in val or test_new_pages. Tokens, counted by `{made['tokenizer']}`:", ""),
        *_table(
            ["split", "text", "mean", "median", "95 %", "longest"],
            [
                [split, text, *(s["tokens"][text][key] for key in ("mean", "p50", "p95", "max"))]
                for split, s in _of(card)
                for text in ("question", "answer")
                if s["rows"]
            ],
        ),
        *("", "## From documents to rows", ""),
        *([f"Pairs wanted: {counts['wanted']}.", ""] if counts.get("wanted") else []),
        *_table(["step", "count"], [[step["step"], step["count"]] for step in counts["steps"]]),
        *("", "## Dropped", ""),
        *_table(["reason", "count"], [[reason, count] for reason, count in counts.get("dropped", {}).items()]),
        *("", "## Made with", ""),
        *_table(["model", "licence", "digest"], [[m["model"], m["licence"], m["digest"]] for m in made["models"]]),
        "",
        *_table(["prompt", "SHA-256"], [[path, digest] for path, digest in made["prompts"].items()]),
        *("", "## Review", ""),
        *[f"- {_plain(line)}" for line in card["review"]],
        *("", "## Known weaknesses", ""),
        *[f"- {weakness}" for weakness in card["weaknesses"]],
        *("", f"## {len(card['samples'])} samples, chosen by hash", ""),
        *[
            f"- *{row['split']}* [{_plain(row['url'])}] **{_plain(row['question'])}** {_plain(row['answer'])}"
            for row in card["samples"]
        ],
    ]
    return "\n".join(lines) + "\n"


def readme(card: Mapping[str, Any]) -> str:
    """Return the card with the front matter by which `datasets.load_dataset(folder)` finds the Parquet files."""
    licence = card["source"]["licence"]
    front = {
        "pretty_name": card["dataset"],
        **({"license": "other", "license_name": licence} if licence else {}),
        "configs": [
            {
                "config_name": "default",
                # `datasets` refuses to open a split without rows
                "data_files": [{"split": k, "path": f"data/{k}.parquet"} for k, s in _of(card) if s["rows"]],
            }
        ],
    }
    block = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items())
    return f"---\n{block}\n---\n\n{markdown(card)}"


def parquet(rows: Sequence[Example]) -> bytes:
    """Return rows as Parquet: `messages` as TRL, LLaMA-Factory and axolotl read them, and where they are from.

    Rows with references have a column of them.
    """
    import pyarrow
    from pyarrow import parquet

    message = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
    names = ("id", "pair_id", "page_id", "url", "group")
    columns = {"messages": pyarrow.list_(message), **dict.fromkeys(names, pyarrow.string())}
    if any(row.references for row in rows):
        columns["references"] = pyarrow.list_(pyarrow.string())
    schema = pyarrow.schema(columns.items())
    table = pyarrow.Table.from_pylist([{name: getattr(row, name) for name in columns} for row in rows], schema)
    stream = pyarrow.BufferOutputStream()
    with parquet.ParquetWriter(stream, schema) as writer:
        if rows:  # `datasets` cannot read a row group without rows
            writer.write_table(table)
    return bytes(stream.getvalue())


def _source(spec: AnyDataset, corpus: CorpusSpec | None) -> dict[str, Any]:
    if isinstance(spec, DialoguesSpec):
        return {"from": spec.source or f"the folder {spec.path}", "licence": spec.licence}
    if corpus is None:
        return {"from": f"the catalogue {getattr(spec, 'catalogue', None)}", "licence": None}
    if corpus.crawl:
        place = "a crawl from " + ", ".join(corpus.crawl.start)
    else:
        assert corpus.folder
        place = f"the folder {corpus.folder.path}"
    return {"from": place, "licence": corpus.licence}


def _split(
    rows: Sequence[Example], types: Mapping[str, str], tokens: Callable[[list[str]], list[int]]
) -> dict[str, Any]:
    return {
        "rows": len(rows),
        "pairs": len({row.pair_id for row in rows}),
        "pages": len({row.page_id for row in rows}),
        "groups": dict(sorted(Counter(row.group for row in rows).items())),
        "types": dict(sorted(Counter(types[row.pair_id] for row in rows if row.pair_id in types).items())),
        "tokens": {
            "question": _lengths(tokens([row.question for row in rows])),
            "answer": _lengths(tokens([row.answer for row in rows])),
        },
    }


def _lengths(counts: list[int]) -> dict[str, float]:
    import numpy as np

    if not counts:
        return {}
    p50, p95 = np.percentile(counts, [50, 95])
    return {
        "mean": round(float(np.mean(counts)), 1),
        "p50": float(p50),
        "p95": round(float(p95), 1),
        "max": max(counts),
    }


def _of(card: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(card["splits"].items())


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    if not rows:
        return ["None."]
    numbers = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(head))]
    return [
        f"| {' | '.join(head)} |",
        f"|{'|'.join('---:' if number else '---' for number in numbers)}|",
        *[f"| {' | '.join(_plain(str(cell)) for cell in row)} |" for row in rows],
    ]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _plain(text: str) -> str:
    """One line, in which Markdown and HTML are words."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    for sign in "\\`*|[]":
        line = line.replace(sign, f"\\{sign}")
    return line
