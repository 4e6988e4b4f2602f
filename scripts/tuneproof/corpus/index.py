"""Embed chunks and find those nearest to a question: a BERT encoder, mean pooling, FAISS by inner product."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from tuneproof.errors import InputError
from tuneproof.fetch.weights import read_lock
from tuneproof.progress import progress
from tuneproof.records import Chunk

_BLOCK = 8192  # texts that are sorted by length together


def searched_text(chunk: Chunk) -> str:
    """Return what of a chunk is searched: its headings and its text."""
    return "\n".join([*chunk.headings, chunk.text])


class Encoder:
    """A sentence encoder: mean of the last layer over the tokens, normalised to length 1."""

    def __init__(self, lock: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        self._context = read_lock(lock)["context"]
        self._tokenizer = AutoTokenizer.from_pretrained(lock.parent)
        self._model = AutoModel.from_pretrained(lock.parent).eval()

    def embed(self, texts: list[str], what: str, batch_size: int = 32) -> Any:
        """Return a float32 array of shape (texts, dimensions). Longest texts first, so that batches pad little."""
        with progress(len(texts), "text", what) as bar:
            return self._embed(texts, bar, batch_size)

    def embed_in_blocks(
        self, texts: Iterable[str], what: str, block: int = 8192, batch_size: int = 32
    ) -> Iterator[Any]:
        """Yield the same as arrays of at most `block` rows, so that memory does not grow with the texts."""
        texts = iter(texts)
        with progress(None, "text", what) as bar:
            while some := list(islice(texts, block)):
                yield self._embed(some, bar, batch_size)

    def _embed(self, texts: list[str], bar: Any, batch_size: int) -> Any:
        import numpy as np
        import torch

        order = sorted(range(len(texts)), key=lambda i: (-len(texts[i]), i))
        vectors: Any = None
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                batch = self._tokenizer(
                    [texts[i] for i in rows],
                    padding=True,
                    truncation=True,
                    max_length=self._context,
                    return_tensors="pt",
                )
                hidden = self._model(**batch).last_hidden_state
                mask = batch["attention_mask"].unsqueeze(-1)
                mean = (hidden * mask).sum(1) / mask.sum(1)
                unit = torch.nn.functional.normalize(mean, dim=1).numpy()
                if vectors is None:
                    vectors = np.zeros((len(texts), unit.shape[1]), dtype="float32")
                vectors[rows] = unit
                bar.update(len(rows))
        return vectors


def write_index(stream: IO[bytes], blocks: Iterable[Any]) -> None:
    """Write an exact FAISS index of blocks of vectors, one block at a time: memory does not grow with their number.

    With vectors of length 1 the inner product is the cosine. FAISS's own writer wants all vectors in memory; the file
    of a flat index is a header, which holds their number at byte 8 and ends in the number of floats, and the vectors.
    Raises InputError where there is no vector.
    """
    import faiss

    vectors, header = 0, b""
    for block in blocks:
        if not header:
            header = faiss.serialize_index(faiss.IndexFlatIP(block.shape[1])).tobytes()
            stream.write(header)
        stream.write(block.astype("<f4").tobytes())
        vectors += len(block)
        floats = vectors * block.shape[1]
    if not header:
        raise InputError("nothing to index: there is no chunk")
    stream.seek(8)
    stream.write(struct.pack("<q", vectors))
    stream.seek(len(header) - 8)
    stream.write(struct.pack("<Q", floats))


def search(index_file: Path, chunks: int, queries: Any, top_k: int) -> tuple[Any, Any]:
    """Return (cosines, row numbers of chunks), each of shape (queries, top_k), best first."""
    import faiss

    index = faiss.read_index(str(index_file))
    if index.ntotal != chunks:
        raise InputError(f"{index_file}: {index.ntotal} vectors for {chunks} chunks; delete it and run again")
    return index.search(queries, min(top_k, chunks))
