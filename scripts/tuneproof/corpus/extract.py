"""Turn archived or local documents into pages: text without navigation, the page's group, no copies.

Text is Markdown by trafilatura, read in several processes. Near-duplicates are found by MinHash (datasketch) over word
5-grams. What is sorted and looked up, pages and signatures, lies in a scratch database on the disk (SQLite), so that
memory does not grow with the corpus.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sqlite3
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tuneproof.corpus.archive import is_html, read_archive
from tuneproof.errors import InputError
from tuneproof.parallel import in_order
from tuneproof.progress import progress
from tuneproof.records import Page, content_id
from tuneproof.study import Extraction, Folder

_SHINGLE_WORDS = 5
_ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F)
_PERMUTATIONS = 128
_SLOTS = 1 << 25  # 34 million, of a byte each
_ENOUGH_TO_GUESS = 50_000  # bytes, of an encoding
_ENOUGH_TO_TELL = 1000  # characters, of a language
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_FEW_LOST = 0.25  # of the characters beyond ASCII, up to which a text that is not wholly UTF-8 is UTF-8
_BODY_TEXT = "//body//text()[not({})]".format(
    " or ".join(f"ancestor::{tag}" for tag in "nav header footer aside script style".split())
)
_LITTLE = 0.5  # of that text, below which a quick extraction is not trusted
_SURE = 0.9  # probability from which a page is said to be in a language; tables and code are in none
# what can be wrong with a document: as it is counted, and as the log says it
_LOGGED = {"without text": "no text", "not readable": "not readable", "in another language": "another language"}
_FRONT_TITLE = re.compile(r"""^\s*["']?title["']?\s*:\s*["']?(.+?)["']?\s*,?\s*$""", re.MULTILINE)
# What stands in code is neither an escape nor a link.
_CODE = r"(```.*?```|~~~.*?~~~|`[^`\n]*`)"
# `boot\_interface`: for a renderer; who reads, quotes and compares wants the name.
_ESCAPED = re.compile(_CODE + r"|\\([_<\[\]])", re.DOTALL)
_LINK = re.compile(_CODE + r"|(!?)(?<!\\)\[([^\]]*)\]\([^)\s]*(?:\s[^)]*)?\)", re.DOTALL)
_HTML = {".html", ".htm", ".xhtml"}


@dataclass(frozen=True)
class Document:
    """A document as it came: `html` is None for Markdown and plain text, which `text` then holds."""

    url: str
    html: bytes | None
    text: str
    fetched_at: str
    content_type: str = ""


@dataclass(frozen=True)
class _Extract:
    """What is read from a document: `original` says that it names itself as such, `trouble` why there is nothing."""

    url: str
    fetched_at: str
    title: str = ""
    text: str = ""
    original: bool = False
    signature: bytes = b""
    trouble: str = ""
    detail: str = ""


def archived_documents(archive: Path) -> Iterator[Document]:
    """Yield the HTML pages (status 200) of a WARC, in the order of the crawl."""
    for url, status, kind, body, date in read_archive(archive):
        # some sites answer with their front page to whatever they do not have
        if status == 200 and is_html(kind, body) and urlsplit(url).path != "/robots.txt":
            yield Document(url, body, "", date, kind)


def folder_documents(folder: Folder) -> Iterator[Document]:
    """Yield the files of a folder, sorted; raise InputError for a folder without any, or a file that is not UTF-8."""
    root = folder.root
    if not root.is_dir():
        raise InputError(f"folder.path: {str(root)!r} is no folder, expected one with HTML or Markdown files")
    files = folder.files()
    if not files:
        raise InputError(f"folder.path: {str(root)!r} has no file that matches {', '.join(folder.patterns)}")
    for path in files:
        url = path.relative_to(root).as_posix()
        data = path.read_bytes()
        if path.suffix.lower() in _HTML:
            yield Document(url, data, "", "")
            continue
        try:
            yield Document(url, None, data.decode("utf-8-sig").replace("\r\n", "\n"), "")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: byte {error.start} is not UTF-8, expected UTF-8 text") from None


def extract_pages(
    documents: Iterable[Document], spec: Extraction, processes: int = 1, scratch: Path | None = None
) -> tuple[Iterator[Page], dict[str, int]]:
    """Return the pages with text and without copies, sorted by URL, and the counts of documents and what was dropped.

    The order of a crawl is an accident, so all documents are read before the first page comes, and the counts are
    complete after the last. The scratch database lies in the folder `scratch`, else where temporary files do, and is
    gone in the end. Raises InputError where no page is left.
    """
    counts = dict.fromkeys(["documents", *_LOGGED, "near-duplicates", "pages"], 0)
    return _in_scratch(documents, spec, processes, counts, scratch), counts


def _in_scratch(
    documents: Iterable[Document], spec: Extraction, processes: int, counts: dict[str, int], scratch: Path | None
) -> Iterator[Page]:
    with (
        tempfile.NamedTemporaryFile(dir=scratch, prefix=".pages-", suffix=".sqlite") as file,
        closing(sqlite3.connect(file.name, isolation_level=None)) as database,
    ):
        yield from _pages(database, documents, spec, processes, counts)


def _pages(
    database: sqlite3.Connection,
    documents: Iterable[Document],
    spec: Extraction,
    processes: int,
    counts: dict[str, int],
) -> Iterator[Page]:
    database.executescript(
        """
        PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -32000;
        CREATE TABLE page (original INT, copy INT, url TEXT, title TEXT, fetched_at TEXT, signature BLOB, text TEXT);
        CREATE INDEX by_url ON page (url);
        CREATE TABLE band (key INTEGER PRIMARY KEY, page INT);
        BEGIN;
        """
    )
    read = functools.partial(_read, languages=frozenset(spec.languages))
    bands = _Bands(spec.near_duplicate)
    with progress(None, "page", "extract") as bar:
        for found in in_order(read, documents, processes):
            counts["documents"] += 1
            bar.update()
            if found.trouble:
                counts[found.trouble] += 1
                print(f"{_LOGGED[found.trouble]}: {found.url}{found.detail}", file=sys.stderr)
                continue
            row = (found.original, 0, found.url, found.title, found.fetched_at, found.signature, found.text)
            database.execute("INSERT INTO page VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            bands.count(found.signature)
    counts["near-duplicates"] = _mark_copies(database, bands)
    kept = database.execute("SELECT url, title, text, fetched_at FROM page WHERE NOT copy ORDER BY url, rowid")
    for url, title, text, fetched_at in kept:
        counts["pages"] += 1
        yield Page(content_id(url, text), url, group_of(url, spec.groups), title, text, fetched_at)
    if not counts["pages"]:
        raise InputError(f"the corpus is empty: {counts['documents']} documents, none of them with text")


def group_of(url: str, groups: dict[str, str]) -> str:
    """Return the first group whose pattern matches; without one, the first folder of the path, else "top".

    A pattern is matched against the URL's path, one that begins with ^// against //host/path.
    """
    parts = urlsplit(url)
    for name, pattern in groups.items():
        if re.search(pattern, f"//{parts.netloc}{parts.path}" if pattern.startswith("^//") else parts.path):
            return name
    folders = parts.path.strip("/").split("/")
    return folders[0] if len(folders) > 1 else "top"


def decoded(body: bytes, content_type: str) -> str:
    """Return a page's text: what is UTF-8 is UTF-8, whatever it says; else as declared, else by statistics.

    A torn or a pasted character makes no other encoding of UTF-8: in any other, next to no byte beyond ASCII fits it.
    """
    from charset_normalizer import from_bytes
    from w3lib.encoding import html_body_declared_encoding, http_content_type_encoding, read_bom

    encoding, mark = read_bom(body)
    if encoding and mark:
        return body[len(mark) :].decode(encoding, errors="replace")
    if b"\0" not in body and b"\x1b$" not in body:  # UTF-16 and ISO-2022, whose bytes are valid UTF-8 too
        text = body.decode("utf-8", errors="replace")
        lost = text.count("\ufffd") - body.count("\ufffd".encode())
        if lost <= _FEW_LOST * (len(_BEYOND_ASCII.findall(text)) - lost):
            return text
    for declared in (http_content_type_encoding(content_type), html_body_declared_encoding(body)):
        if declared and declared != "utf-8":
            return body.decode(declared, errors="replace")
    likely = from_bytes(body[:_ENOUGH_TO_GUESS]).best()
    return body.decode(likely.encoding if likely else "cp1252", errors="replace")


def _read(document: Document, languages: frozenset[str]) -> _Extract:
    """Read one document; runs in a process of the pool."""
    source = document.url, document.fetched_at
    try:
        title, text, original = _text(document)
    except Exception as error:  # one page that a parser stumbles over is no reason to lose the others
        return _Extract(*source, trouble="not readable", detail=f": {type(error).__name__}: {error}")
    if not text.strip():
        return _Extract(*source, trouble="without text")
    if languages:
        language, probability = _identifier().classify(text[:_ENOUGH_TO_TELL])
        if language not in languages and probability >= _SURE:
            return _Extract(*source, trouble="in another language", detail=f": {language} ({probability:.2f})")
    return _Extract(*source, title, text, original, _signature(text))


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _text(document: Document) -> tuple[str, str, bool]:
    if document.html is None:
        front, body = _front_matter(document.text)
        text = _without_escapes(_without_links(body))
        heading = _FRONT_TITLE.search(front) or re.search(r"^#\s+(.+)$", text, re.MULTILINE)
        return (heading.group(1).strip() if heading else document.url), text, True
    import trafilatura
    from trafilatura.metadata import examine_meta, extract_meta_json, extract_title, extract_url

    tree = trafilatura.load_html(decoded(document.html, document.content_type))
    if tree is None:
        return document.url, "", False
    # of extract_metadata only these: it also looks for a date, which takes longer than the text
    metadata = extract_meta_json(tree, examine_meta(tree))
    title = metadata.title or extract_title(tree) or document.url
    original = (metadata.url or extract_url(tree)) == document.url
    text = _main_text(tree, fast=True)
    # its quick way is as good as the full one on most pages, and misses most of the text on some
    if len(text) < _LITTLE * sum(len(part.strip()) for part in tree.xpath(_BODY_TEXT)):
        text = _main_text(tree, fast=False)
    return title, text, original


def _main_text(tree: Any, fast: bool) -> str:
    """Return a page's text as Markdown; `fast` trusts one extractor, otherwise it is compared with two others."""
    import trafilatura

    text: str | None = trafilatura.extract(tree, options=_options(fast), prune_xpath=["//nav"])
    return _without_escapes(text or "")


def _without_escapes(text: str) -> str:
    return _ESCAPED.sub(lambda found: found[1] or found[2], text)


@functools.cache
def _options(fast: bool) -> Any:
    """How trafilatura extracts; made once, because reading its settings takes a twentieth of a page's time."""
    from trafilatura.settings import Extractor

    return Extractor(output_format="markdown", fast=fast, comments=False, links=False, tables=True)


def _front_matter(text: str) -> tuple[str, str]:
    """Cut a Markdown file into its metadata block, in either of the two ways it is written, and the rest.

    A block begins with a key; a file that begins with a rule (`---`) has none.
    """
    key = r"""(?:#.*\n)*["']?[\w.-]+["']?[ ]*:"""
    block = re.match(rf"\s*---[ ]*\n(?={key})(?s:.*?)\n---[ ]*(?:\n|\Z)|(?s:\s*<!--\s*<meta>.*?</meta>\s*-->)", text)
    end = block.end() if block else 0
    return text[:end], text[end:]


def _without_links(text: str) -> str:
    """Keep a link's words and drop its address, as for HTML; drop images."""
    return _LINK.sub(lambda found: found[1] or ("" if found[2] else found[3]), text)


@functools.cache
def _min_hash() -> Any:
    from datasketch import MinHash

    # what it is given are hashes already
    return MinHash(_PERMUTATIONS, seed=1, scheme="affine32", hashfunc=int)


def _signature(text: str) -> bytes:
    """Return the MinHash of a text's word 5-grams, 128 numbers of 32 bits.

    The hash of a 5-gram is the upper half of the sum of its words' hashes, each times an odd number of its place
    (multiply-shift, Dietzfelbinger 1996): one sum of arrays for all of a page.
    """
    import numpy as np
    import xxhash

    words = re.findall(r"\w+", text.lower())
    hashes = np.zeros(max(len(words), _SHINGLE_WORDS), np.uint64)
    hashes[: len(words)] = [xxhash.xxh32_intdigest(word.encode()) for word in words]
    windows = np.lib.stride_tricks.sliding_window_view(hashes, _SHINGLE_WORDS)
    shingles = np.unique((windows * np.array(_ODD, np.uint64)).sum(axis=1) >> np.uint64(32))
    sketch = _min_hash().copy()
    sketch.update_batch(shingles.tolist())
    signature: bytes = sketch.hashvalues.astype("<u4").tobytes()
    return signature


class _Bands:
    """The bands of signatures, and which of them several pages may share; memory stays the same for any corpus."""

    def __init__(self, threshold: float) -> None:
        import numpy as np

        self.threshold = threshold
        self._rows = _rows_per_band(threshold)
        self._pages = np.zeros(_SLOTS, np.uint8)  # pages of each slot: 0, 1 or more; a slot is that of many keys

    def keys(self, signature: bytes) -> list[int]:
        """Return a 64-bit key of each band, and one of the whole signature."""
        return _band_keys(signature, self._rows)

    def count(self, signature: bytes) -> None:
        """Note a page's bands."""
        slots = [key % _SLOTS for key in self.keys(signature)]
        self._pages[slots] += self._pages[slots] < 2

    def shared(self, signature: bytes) -> list[int]:
        """Return the keys that another page may have too: for nearly all pages none."""
        return [key for key in self.keys(signature) if self._pages[key % _SLOTS] > 1]


def _mark_copies(database: sqlite3.Connection, bands: _Bands) -> int:
    """Set `copy` for each page that is like one that is kept; of two alike, the one that says it is the original stays.

    Pages whose signatures share a band are compared by the whole signatures: so bands may be short, which misses few,
    and what is less alike than the threshold stays nevertheless.
    """
    import numpy as np

    copies = 0
    pages = "SELECT rowid, url, signature FROM page WHERE original = ? ORDER BY url, rowid"
    total = database.execute("SELECT count(*) FROM page").fetchone()[0]
    with progress(total, "page", "compare") as bar:
        for page, url, signature in chain(*(database.execute(pages, (original,)) for original in (1, 0))):
            bar.update()
            if not (keys := bands.shared(signature)):
                continue
            alike = database.execute(
                "SELECT DISTINCT page.url, signature FROM band JOIN page ON page.rowid = band.page "
                f"WHERE key IN ({', '.join('?' * len(keys))})",
                keys,
            )
            values = np.frombuffer(signature, "<u4")
            for twin, other in alike:
                if np.mean(values == np.frombuffer(other, "<u4")) >= bands.threshold:
                    print(f"near-duplicate: {url} of {twin}", file=sys.stderr)
                    database.execute("UPDATE page SET copy = 1 WHERE rowid = ?", (page,))
                    copies += 1
                    break
            else:
                database.executemany("INSERT OR IGNORE INTO band VALUES (?, ?)", [(key, page) for key in keys])
    return copies


def _rows_per_band(threshold: float) -> int:
    """Return the longest bands that miss at most one in a hundred pairs as alike as the threshold.

    Two signatures of similarity s share one of b bands of r rows with probability 1 - (1 - s^r)^b (Leskovec,
    Rajaraman and Ullman, Mining of Massive Datasets, 3.4.2).
    """
    fitting = [r for r in (1, 2, 4, 8, 16, 32, 64) if (1 - threshold**r) ** (_PERMUTATIONS // r) <= 0.01]
    return max(fitting, default=1)


def _band_keys(signature: bytes, rows: int) -> list[int]:
    """Return a 64-bit key of each band of `rows` numbers, and one of the whole signature: equal texts always meet."""
    bands = [signature[i : i + 4 * rows] for i in range(0, len(signature), 4 * rows)]
    numbered = [bytes([n]) + band for n, band in enumerate([signature, *bands])]
    return [int.from_bytes(hashlib.blake2b(b, digest_size=8).digest(), "little", signed=True) for b in numbered]
