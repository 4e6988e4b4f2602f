"""Products: one per page of a corpus, or one per row of a catalogue file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError
from tuneproof.records import Chunk, iter_json_lines
from tuneproof.study import Split

# Five descriptions and a requirement are then some 500 tokens.
DESCRIPTION_LENGTH = 400
_SHORTEST = 40
_NO_PROSE = re.compile(r"^(#|\||```|~~~|!\[|<|---|\d+\.\s)")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")


@dataclass(frozen=True)
class Product:
    """A product. `page_id` is its page's id, or a catalogue's id; `chunk_id` and `url` are empty for a catalogue."""

    page_id: str
    name: str
    category: str
    description: str
    chunk_id: str = ""
    url: str = ""
    split: Split = "train"

    @property
    def text(self) -> str:
        """What stands in a list of products."""
        return f"{self.name}: {self.description}"


def from_catalogue(path: Path) -> list[Product]:
    """Read a YAML list or JSON Lines of products (id, name, category, description; further keys are left alone).

    Raises InputError that names file, row (a JSON Lines file's line, a YAML list's place from 1) and key.
    """
    products: list[Product] = []
    seen: set[str] = set()
    for where, row in _rows(path):
        number, name, category, text = (_text(where, row, key) for key in ("id", "name", "category", "description"))
        product = Product(number, name, category, cut(text, DESCRIPTION_LENGTH))
        if product.page_id in seen:
            raise InputError(f"{where}: id: {product.page_id!r} is there twice, expected each once")
        seen.add(product.page_id)
        products.append(product)
    if not products:
        raise InputError(f"{path}: no products, expected some")
    return products


def from_chunks(chunks: Iterable[Chunk], group: str | None) -> list[Product]:
    """Return one product per page of a group: its title, and the first sentences of its prose.

    A page without prose describes nothing and is left out. Raises InputError where the group has no page.
    """
    pages: dict[str, list[Chunk]] = {}
    for chunk in of_group(chunks, group):
        pages.setdefault(chunk.page_id, []).append(chunk)
    products = []
    for page, parts in pages.items():
        first = parts[0]
        description = cut(" ".join(prose(part.text) for part in parts), DESCRIPTION_LENGTH)
        if len(description) >= _SHORTEST:
            name = title_of(first)
            products.append(Product(page, name, first.group, description, first.id, first.url))
    return products


def of_group(chunks: Iterable[Chunk], group: str | None) -> list[Chunk]:
    """Return a group's chunks, or all of them; raise InputError where there is no such group."""
    chunks = list(chunks)
    chosen = [chunk for chunk in chunks if group in (None, chunk.group)]
    if not chosen:
        known = ", ".join(sorted({chunk.group for chunk in chunks}))
        raise InputError(f"group: {group!r} has no chunk, expected one of: {known}")
    return chosen


def title_of(chunk: Chunk) -> str:
    """Return the title of a chunk's page, without a manual's mark for links."""
    return " ".join(chunk.headings[0].rstrip("¶# ").split()) if chunk.headings else chunk.url


def distinct(products: list[Product]) -> tuple[list[Product], list[Product]]:
    """Return the products with the first of each name, and the rest: a name that two products have answers nothing."""
    kept: dict[str, Product] = {}
    copies = []
    for product in products:
        if kept.setdefault(product.name.casefold(), product) is not product:
            copies.append(product)
    return list(kept.values()), copies


def prose(text: str) -> str:
    """Return the sentences of a Markdown text on one line: no headings, tables, code, pictures or numbered steps."""
    text = re.sub(r"^(```|~~~).*?(?:^\1|\Z)", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = (line.strip() for line in text.splitlines())
    kept = (re.sub(r"^[-*+]\s+", "", line) for line in lines if line and not _NO_PROSE.match(line))
    plain = re.sub(r"[*`]|\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(kept))
    return " ".join(plain.split())


def cut(text: str, length: int) -> str:
    """Return the text on one line, cut after the last sentence that ends within `length` characters."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    ends = [match.end() for match in _SENTENCE_END.finditer(text, 0, length)]
    return text[: ends[-1]] if ends else text[:length].rsplit(" ", 1)[0]


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix not in (".yaml", ".yml"):
        yield from ((f"{path} line {number}", row) for number, row in iter_json_lines(path))
        return
    import yaml

    try:
        # the parser in C takes 0.3 s for 2,500 products, the one in Python 4 s
        rows = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected a YAML list of products") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}, expected a YAML list of products") from None
    if not isinstance(rows, list):
        raise InputError(f"{path}: {type(rows).__name__}, expected a list of products")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InputError(f"{path} row {number}: {str(row)[:40]!r}, expected a product with its keys")
        yield f"{path} row {number}", row


def _text(where: str, row: dict[str, Any], key: str) -> str:
    if key not in row:
        raise InputError(f"{where}: no {key!r}, expected id, name, category and description")
    value = row[key]
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {key}: {value!r} is wrong, expected a text")
    return " ".join(value.split())
