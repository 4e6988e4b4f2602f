"""Cut pages into chunks by tokens, along headings and sentences, each with the path of headings above it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tuneproof.errors import InputError
from tuneproof.records import Chunk, Page, content_id
from tuneproof.study import Chunks

_FENCED = re.compile(r"^(```|~~~).*?(?:^\1|\Z)", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$", re.MULTILINE)


def chunk_pages(pages: Iterable[Page], tokenizer_file: Path, spec: Chunks) -> list[Chunk]:
    """Return chunks of at most `spec.max_tokens` tokens (counted without special tokens), in the order of the pages."""
    from semantic_text_splitter import MarkdownSplitter
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    splitter = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, spec.max_tokens)
    chunks = []
    for page in pages:
        for offset, text in splitter.chunk_indices(page.text):
            tokens = len(tokenizer.encode(text, add_special_tokens=False))
            if tokens >= spec.min_tokens:
                headings = heading_path(page.text, offset)
                if page.title not in headings:  # a page may be titled outside its text
                    headings = [page.title, *headings]
                identity = content_id(page.id, str(offset), text)
                chunks.append(Chunk(identity, page.id, page.url, page.group, headings, text, tokens))
    if not chunks:
        raise InputError(f"no chunk has {spec.min_tokens} tokens (chunks.min_tokens): the pages are too short")
    return chunks


def heading_path(text: str, offset: int) -> list[str]:
    """Return the headings that `offset` of a Markdown text stands under, outermost first."""
    path: list[tuple[int, str]] = []
    text = _FENCED.sub(lambda block: " " * len(block[0]), text)  # a comment in code is no heading
    for match in _HEADING.finditer(text, 0, offset):
        level = len(match.group(1))
        path = [(depth, title) for depth, title in path if depth < level]
        path.append((level, match.group(2)))
    return [title for _, title in path]
