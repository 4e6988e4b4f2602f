"""Read what a crawl has archived. Apart from the crawl, so that who reads needs no crawler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed

from tuneproof.errors import InputError


def read_archive(archive: Path) -> Iterator[tuple[str, int, str, bytes, str]]:
    """Yield (url, status, content type, body, date) of each response in a WARC."""
    with archive.open("rb") as stream:
        for record in _records(stream, archive):
            if record.rec_type == "response":
                yield (
                    record.rec_headers.get_header("WARC-Target-URI"),
                    int(record.http_headers.get_statuscode()),
                    record.http_headers.get_header("Content-Type", ""),
                    record.content_stream().read(),
                    record.rec_headers.get_header("WARC-Date"),
                )


def is_html(kind: str, body: bytes) -> bool:
    """Tell whether a response is a page: by its declared type, and where it has none by its beginning."""
    return "html" in kind.lower() or (not kind and b"<html" in body[:1000].lower())


def _records(stream: Any, archive: Path) -> Iterator[Any]:
    try:
        for record in ArchiveIterator(stream):
            if record.format != "warc":  # any text passes for the older ARC
                raise ArchiveLoadFailed(f"it is {record.format}")
            yield record
    except ArchiveLoadFailed as error:
        raise InputError(f"{archive}: {error}, expected a WARC") from None
