"""Turn archived or local documents into pages: text without navigation, the page's group, no copies.

Text is Markdown by trafilatura. Near-duplicates are found by MinHash (datasketch) over word 5-grams.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tuneproof.corpus.crawl import read_archive
from tuneproof.errors import InputError
from tuneproof.progress import progress
from tuneproof.records import Page, content_id
from tuneproof.study import CorpusSpec, Folder

_SHINGLE_WORDS = 5
_FRONT_TITLE = re.compile(r"""^\s*["']?title["']?\s*:\s*["']?(.+?)["']?\s*,?\s*$""", re.MULTILINE)
_HTML = {".html", ".htm", ".xhtml"}


@dataclass(frozen=True)
class Document:
    """A document as it came: `html` is None for Markdown and plain text, which `text` then holds."""

    url: str
    html: bytes | None
    text: str
    fetched_at: str


def archived_documents(archive: Path) -> Iterator[Document]:
    """Yield the HTML pages (status 200) of a WARC, sorted by URL: the order of a crawl is an accident."""
    pages = [
        Document(url, body, "", date)
        for url, status, kind, body, date in read_archive(archive)
        if status == 200 and "html" in kind
    ]
    yield from sorted(pages, key=lambda d: d.url)


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
            yield Document(url, None, data.decode("utf-8"), "")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: byte {error.start} is not UTF-8, expected UTF-8 text") from None


def extract_pages(documents: Iterable[Document], spec: CorpusSpec) -> tuple[list[Page], dict[str, int]]:
    """Return the pages with text and without copies, and the counts of what was dropped on the way.

    Raises InputError where no page is left.
    """
    counts = {"documents": 0, "without text": 0, "near-duplicates": 0}
    pages: list[Page] = []
    originals: set[str] = set()
    with progress(None, "page", "extract") as bar:
        for document in documents:
            counts["documents"] += 1
            bar.update()
            title, text, is_original = _text(document)
            if not text.strip():
                counts["without text"] += 1
                print(f"no text: {document.url}", file=sys.stderr)
                continue
            group = group_of(document.url, spec.groups)
            identity = content_id(document.url, text)
            originals |= {identity} if is_original else set()
            pages.append(Page(identity, document.url, group, title, text, document.fetched_at))
    # of two alike, the one that names itself as the original stays
    unique = {p.id for p in _without_copies(sorted(pages, key=lambda p: p.id not in originals), spec.near_duplicate)}
    kept = [page for page in pages if page.id in unique]
    counts["near-duplicates"] = len(pages) - len(kept)
    if not kept:
        raise InputError(f"the corpus is empty: {counts['documents']} documents, none of them with text")
    return kept, counts


def group_of(url: str, groups: dict[str, str]) -> str:
    """Return the first group whose pattern matches the URL's path; without one, the first folder, else "top"."""
    path = urlsplit(url).path
    for name, pattern in groups.items():
        if re.search(pattern, path):
            return name
    parts = path.strip("/").split("/")
    return parts[0] if len(parts) > 1 else "top"


def _text(document: Document) -> tuple[str, str, bool]:
    if document.html is None:
        front, body = _front_matter(document.text)
        text = _without_links(body)
        heading = _FRONT_TITLE.search(front) or re.search(r"^#\s+(.+)$", text, re.MULTILINE)
        return (heading.group(1).strip() if heading else document.url), text, True
    import trafilatura

    extracted = trafilatura.extract(
        document.html,
        output_format="markdown",
        include_tables=True,
        include_links=False,
        include_comments=False,
        prune_xpath=["//nav"],
    )
    metadata = trafilatura.extract_metadata(document.html)
    title = metadata.title if metadata and metadata.title else document.url
    return title, extracted or "", bool(metadata and metadata.url == document.url)


def _front_matter(text: str) -> tuple[str, str]:
    """Cut a Markdown file into its metadata block, in either of the two ways it is written, and the rest."""
    block = re.match(r"\s*---\n.*?\n---\n|\s*<!--\s*<meta>.*?</meta>\s*-->", text, flags=re.DOTALL)
    end = block.end() if block else 0
    return text[:end], text[end:]


def _without_links(text: str) -> str:
    """Keep a link's words and drop its address, as for HTML; drop images."""
    return re.sub(r"(!?)\[([^\]]*)\]\([^)\s]*(?:\s[^)]*)?\)", lambda m: "" if m[1] else m[2], text)


def _without_copies(pages: list[Page], threshold: float) -> list[Page]:
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=threshold, num_perm=128)
    kept: list[Page] = []
    urls: dict[str, str] = {}
    for page in pages:
        words = re.findall(r"\w+", page.text.lower())
        shingles = {" ".join(words[i : i + _SHINGLE_WORDS]) for i in range(max(1, len(words) - _SHINGLE_WORDS + 1))}
        sketch = MinHash(num_perm=128, seed=1)
        sketch.update_batch([s.encode() for s in sorted(shingles)])
        if twins := lsh.query(sketch):
            print(f"near-duplicate: {page.url} of {urls[twins[0]]}", file=sys.stderr)
            continue
        lsh.insert(page.id, sketch)
        urls[page.id] = page.url
        kept.append(page)
    return kept
