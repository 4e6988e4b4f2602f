"""Rank the chunks of a corpus for questions: by meaning, by words, by both; with a second look or without.

    dense   cosine between the embeddings of question and chunk (FAISS)
    bm25    words that both have, the rare ones first (Robertson and Zaragoza 2009)
    fused   both rankings by reciprocal rank (Cormack, Clarke and Büttcher 2009)

A reranker is a cross-encoder: it reads a question and a chunk together, and so only the best chunks of a ranking.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuneproof.corpus.index import Encoder, search, searched_text
from tuneproof.errors import InputError
from tuneproof.fetch.weights import read_lock
from tuneproof.progress import progress
from tuneproof.records import Chunk
from tuneproof.study import Retriever

# Chunks of one question as (row number, score), best first; of equal ones the earlier row comes first.
Ranking = list[tuple[int, float]]

DEPTH = 100  # chunks that a ranking holds, whatever top_k is: a fused rank must not depend on it
RERANKED = 50  # chunks of a ranking that a cross-encoder reads
_FUSION = 60  # Cormack et al.'s k: how much a first place in one ranking counts against good places in both
_BATCH = 32


def rank(retriever: Retriever, questions: list[str], chunks: list[Chunk], index: Path, encoder: Path) -> list[Ranking]:
    """Return a ranking of at most DEPTH chunks for each question."""
    if retriever == "dense":
        return dense(questions, chunks, index, encoder)
    if retriever == "bm25":
        return bm25(questions, chunks)
    return fuse([dense(questions, chunks, index, encoder), bm25(questions, chunks)])


def compared(questions: list[str], chunks: list[Chunk], index: Path, encoder: Path) -> dict[str, list[Ranking]]:
    """Return the rankings of the retrievers that are held against each other, whichever the study uses."""
    by = {"dense": dense(questions, chunks, index, encoder), "bm25": bm25(questions, chunks)}
    return {**by, "fused": fuse(list(by.values()))}


def chunk_ids(rankings: dict[str, list[Ranking]], chunks: list[Chunk]) -> dict[str, list[list[str]]]:
    """Return the ids of the chunks that each retriever has found for each question, best first."""
    return {name: [[chunks[i].id for i, _ in ranking] for ranking in of_each] for name, of_each in rankings.items()}


def dense(questions: list[str], chunks: list[Chunk], index: Path, encoder: Path) -> list[Ranking]:
    """Rank by the cosine between embeddings."""
    queries = Encoder(encoder).embed(questions, "embed questions")
    cosines, rows = search(index, len(chunks), queries, DEPTH)
    return [
        [(int(i), float(c)) for i, c in zip(found, near, strict=True)]
        for found, near in zip(rows, cosines, strict=True)
    ]


def bm25(questions: list[str], chunks: list[Chunk]) -> list[Ranking]:
    """Rank by BM25 with k1 1.5, b 0.75 and Lucene's idf, which no word makes negative; no shared word, no rank."""
    import bm25s

    # numbers instead of words: a word that is met again is no further string in memory
    known: dict[str, int] = {}
    numbered = [[known.setdefault(word, len(known)) for word in words(searched_text(chunk))] for chunk in chunks]
    index = bm25s.BM25()
    index.index((numbered, known), show_progress=False)
    rankings = []
    with progress(len(questions), "question", "rank by words") as bar:
        for question in questions:
            asked = [known[word] for word in words(question) if word in known]
            rankings.append(_best(index.get_scores(asked)) if asked else [])
            bar.update()
    return rankings


def words(text: str) -> list[str]:
    """Return the words that BM25 counts: case folded, no list of stop words, so that any language is served."""
    return re.findall(r"\w+", text.casefold())


def fuse(rankings: Sequence[list[Ranking]]) -> list[Ranking]:
    """Join several rankings of the same questions: a chunk scores the sum of 1 / (60 + its rank) over them."""
    fused = []
    for of_one_question in zip(*rankings, strict=True):
        scores: dict[int, float] = defaultdict(float)
        for ranking in of_one_question:
            for place, (chunk, _) in enumerate(ranking, 1):
                scores[chunk] += 1 / (_FUSION + place)
        fused.append(_sorted(scores.items())[:DEPTH])
    return fused


def rerank(questions: list[str], chunks: list[Chunk], rankings: list[Ranking], reranker: Path) -> list[Ranking]:
    """Put the first RERANKED chunks of each ranking in the order that a cross-encoder gives; the others are left out.

    `reranker` is the lock of a model for sequence classification with one output, the relevance.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reranker.parent)
    model = AutoModelForSequenceClassification.from_pretrained(reranker.parent).eval()
    if model.config.num_labels != 1:
        raise InputError(f"{reranker}: {model.config.num_labels} outputs, expected a cross-encoder with one")
    context = read_lock(reranker)["context"]
    asked = [(q, chunk) for q, ranking in enumerate(rankings) for chunk, _ in ranking[:RERANKED]]
    asked.sort(key=lambda pair: -len(chunks[pair[1]].text))  # longest first, so that batches pad little
    scores: list[dict[int, float]] = [{} for _ in questions]
    with torch.inference_mode(), progress(len(asked), "pair", "rerank") as bar:
        for start in range(0, len(asked), _BATCH):
            batch = asked[start : start + _BATCH]
            texts = [(questions[q], searched_text(chunks[chunk])) for q, chunk in batch]
            encoded = tokenizer(texts, padding=True, truncation=True, max_length=context, return_tensors="pt")
            for (q, chunk), score in zip(batch, model(**encoded).logits[:, 0].tolist(), strict=True):
                scores[q][chunk] = score
            bar.update(len(batch))
    return [_sorted(of_one.items()) for of_one in scores]


def _best(scores: Any) -> Ranking:
    """The rows with the DEPTH highest scores above 0; partitioned first, since a corpus may have a million rows."""
    import numpy as np

    least = np.partition(scores, -DEPTH)[-DEPTH] if len(scores) > DEPTH else 0
    rows = np.flatnonzero((scores > 0) & (scores >= least))
    return _sorted((int(row), float(scores[row])) for row in rows)[:DEPTH]


def _sorted(scored: Any) -> Ranking:
    return sorted(scored, key=lambda item: (-item[1], item[0]))
