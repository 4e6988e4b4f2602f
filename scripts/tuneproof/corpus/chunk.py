"""Cut pages into chunks by tokens, along headings and sentences, each with the path of headings above it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError
from tuneproof.parallel import in_order
from tuneproof.progress import progress
from tuneproof.records import Chunk, Page, content_id
from tuneproof.study import Chunks

_FENCED = re.compile(r"^(```|~~~).*?(?:^\1|\Z)", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$", re.MULTILINE)


def chunk_pages(pages: Iterable[Page], tokenizer_file: Path, spec: Chunks, processes: int = 1) -> Iterator[Chunk]:
    """Yield chunks of at most `spec.max_tokens` tokens (counted without special tokens), in the order of the pages."""
    none = True
    cut = functools.partial(_cut, tokenizer_file=str(tokenizer_file), spec=spec)
    with progress(None, "page", "chunk") as bar:
        for chunks in in_order(cut, pages, processes):
            bar.update()
            none = none and not chunks
            yield from chunks
    if none:
        raise InputError(f"no chunk has {spec.min_tokens} tokens (chunks.min_tokens): the pages are too short")


def _cut(page: Page, tokenizer_file: str, spec: Chunks) -> list[Chunk]:
    """Cut one page; runs in a process of the pool."""
    tokenizer, splitter = _splitter(tokenizer_file, spec.max_tokens)
    headings = headings_of(page.text)
    chunks = []
    for offset, text in splitter.chunk_indices(page.text):
        tokens = len(tokenizer.encode(text, add_special_tokens=False))
        if tokens >= spec.min_tokens:
            path = heading_path(headings, offset)
            if page.title not in path:  # a page may be titled outside its text
                path = [page.title, *path]
            identity = content_id(page.id, str(offset), text)
            chunks.append(Chunk(identity, page.id, page.url, page.group, path, text, tokens))
    return chunks


@functools.cache
def _splitter(tokenizer_file: str, max_tokens: int) -> tuple[Any, Any]:
    from semantic_text_splitter import MarkdownSplitter
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(tokenizer_file)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, MarkdownSplitter.from_huggingface_tokenizer(tokenizer, max_tokens)


def headings_of(text: str) -> list[tuple[int, int, str]]:
    """Return (offset, level, title) of the headings of a Markdown text; a comment in code is none."""
    text = _FENCED.sub(lambda block: " " * len(block[0]), text)
    return [(match.start(), len(match.group(1)), match.group(2)) for match in _HEADING.finditer(text)]


def heading_path(headings: list[tuple[int, int, str]], offset: int) -> list[str]:
    """Return the headings that `offset` of a text stands under, outermost first."""
    path: list[tuple[int, str]] = []
    for start, level, title in headings:
        if start >= offset:
            break
        path = [*((above, name) for above, name in path if above < level), (level, title)]
    return [title for _, title in path]
