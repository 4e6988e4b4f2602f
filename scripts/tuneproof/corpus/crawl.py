"""Crawl websites into a WARC, so that a corpus can be rebuilt without the site.

Scrapy does the crawling: robots.txt, sitemaps, delay and concurrency per host, retries, limits of size and time.
The WARC is written as the crawl goes on and serves as its cache: a crawl that was killed reads back what it has
fetched and fetches nothing twice.
"""

from __future__ import annotations

import io
import os
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import scrapy
from scrapy.crawler import CrawlerProcess
from scrapy.exceptions import CloseSpider
from scrapy.http import Headers, HtmlResponse, Request, Response
from scrapy.linkextractors import LinkExtractor
from scrapy.responsetypes import responsetypes
from scrapy.utils.sitemap import Sitemap, sitemap_urls_from_robots
from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from tuneproof.errors import InputError
from tuneproof.progress import progress
from tuneproof.study import Crawl

# Headers of the transport, no longer true of the body that is archived.
_HOP_BY_HOP = {"content-encoding", "transfer-encoding", "content-length", "connection"}
# What may pass in a moment is not archived: a resumed crawl asks again.
_TRANSIENT = {408, 429, 500, 502, 503, 504}


@dataclass
class Visit:
    """What a crawl met: pages by URL and the requests that gave none, with the reason."""

    pages: int = 0
    from_archive: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    finished: str = ""


def crawl(spec: Crawl, archive: Path, proxy: str | None = None) -> Visit:
    """Crawl the hosts of `spec.start` into `archive` (gzipped WARC). Resumes from `archive` + ".part".

    Raises InputError where a start page gives nothing: a site that is down is an error, a dead link is not.
    """
    partial = archive.with_name(archive.name + ".part")
    archive.parent.mkdir(parents=True, exist_ok=True)
    visit = Visit()
    if proxy:  # through the environment, because Scrapy's own request for robots.txt must take it too
        os.environ.update(http_proxy=proxy, no_proxy="")
    process = CrawlerProcess(_settings(spec, partial))
    process.crawl(_Spider, spec=spec, visit=visit)
    process.start()
    for url in spec.start:
        if reason := visit.failures.get(url):
            raise InputError(f"{url}: {reason}, expected a page to start from")
    if visit.pages == 0:
        raise InputError(f"{', '.join(spec.start)}: no page was found ({visit.finished}), expected at least one")
    if visit.finished not in ("finished", "closespider_pagecount", "closespider_timeout"):
        raise InputError(f"the crawl stopped early: {visit.finished}; run again to go on")
    if visit.finished != "finished":
        print(f"the crawl stopped at its limit: {visit.finished}", file=sys.stderr)
    partial.replace(archive)
    return visit


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


def _records(stream: Any, archive: Path) -> Iterator[Any]:
    try:
        for record in ArchiveIterator(stream):
            if record.format != "warc":  # any text passes for the older ARC
                raise ArchiveLoadFailed(f"it is {record.format}")
            yield record
    except ArchiveLoadFailed as error:
        raise InputError(f"{archive}: {error}, expected a WARC") from None


def _settings(spec: Crawl, partial: Path) -> dict[str, Any]:
    return {
        "ROBOTSTXT_OBEY": True,
        "USER_AGENT": "tuneproof (research crawler; obeys robots.txt)",
        "DOWNLOAD_DELAY": spec.delay_s,
        "RANDOMIZE_DOWNLOAD_DELAY": False,
        "CONCURRENT_REQUESTS_PER_DOMAIN": spec.concurrency,
        "CONCURRENT_REQUESTS": spec.concurrency * len({urlsplit(url).netloc for url in spec.start}),
        "RETRY_TIMES": spec.retries,
        "DOWNLOAD_TIMEOUT": spec.timeout_s,
        "DOWNLOAD_MAXSIZE": int(spec.max_page_mb * 1e6),
        "DOWNLOAD_WARNSIZE": 0,
        "CLOSESPIDER_TIMEOUT": spec.max_minutes * 60,
        "HTTPCACHE_ENABLED": True,
        "HTTPCACHE_STORAGE": "tuneproof.corpus.crawl.WarcStorage",
        "HTTPCACHE_IGNORE_HTTP_CODES": sorted(_TRANSIENT),
        "TUNEPROOF_WARC": str(partial),
        "TELNETCONSOLE_ENABLED": False,
        "LOG_ENABLED": False,
        "LOG_INSTALL_ROOT_HANDLER": False,
    }


class _Spider(scrapy.Spider):
    name = "tuneproof"

    def __init__(self, spec: Crawl, visit: Visit) -> None:
        super().__init__()
        self.spec, self.visit = spec, visit
        self._hosts = {urlsplit(url).netloc.lower() for url in spec.start}
        self._links = LinkExtractor()
        self._bar = progress(None, "page", "crawl")

    async def start(self) -> Any:
        """Ask for robots.txt (it may name sitemaps) and the start pages."""
        for url in self.spec.start:
            parts = urlsplit(url)
            robots = f"{parts.scheme}://{parts.netloc}/robots.txt"
            yield self._request(robots, self.parse_robots)
            yield self._request(url, self.parse)

    def parse_robots(self, response: Response) -> Iterator[Request]:
        """Follow the sitemaps that robots.txt names."""
        for url in sitemap_urls_from_robots(response.text, base_url=response.url):
            yield self._request(url, self.parse_sitemap)

    def parse_sitemap(self, response: Response) -> Iterator[Request]:
        """Follow a sitemap's pages, and the sitemaps of an index."""
        sitemap = Sitemap(response.body)
        follow = self.parse_sitemap if sitemap.type == "sitemapindex" else self.parse
        for entry in sitemap:
            if urlsplit(entry["loc"]).netloc in self._hosts:
                yield self._request(entry["loc"], follow)

    def parse(self, response: Response) -> Iterator[Request]:
        """Count a page and follow its links."""
        if not isinstance(response, HtmlResponse):
            return
        self.visit.pages += 1
        self.visit.from_archive += "cached" in response.flags
        self._bar.update()
        if self.visit.pages >= self.spec.max_pages:
            raise CloseSpider("closespider_pagecount")
        for link in self._links.extract_links(response):
            if urlsplit(link.url).netloc.lower() in self._hosts:
                yield self._request(link.url.split("#")[0], self.parse)

    def failed(self, failure: Any) -> None:
        """Remember why a request gave no page."""
        url = failure.request.meta.get("redirect_urls", [failure.request.url])[0]
        response = getattr(failure.value, "response", None)
        if response is not None:
            reason = f"HTTP status {response.status}"
        elif "size" in str(failure.value) or failure.type.__name__ in ("CancelledError", "DownloadCancelledError"):
            reason = f"larger than max_page_mb {self.spec.max_page_mb:g}"
        elif failure.type.__name__ == "IgnoreRequest":
            reason = "forbidden by robots.txt"
        else:
            reason = f"{failure.type.__name__}: {str(failure.value).strip() or 'no answer'}"
        self.visit.failures[url] = reason
        print(f"no page: {url}: {reason}", file=sys.stderr)

    def closed(self, reason: str) -> None:
        """Keep Scrapy's reason for stopping."""
        self._bar.close()
        self.visit.finished = reason

    def _request(self, url: str, callback: Any) -> Request:
        return Request(url, callback=callback, errback=self.failed)


class WarcStorage:
    """Scrapy's HTTP cache on top of the WARC that is being written: the archive of the crawl is its cache."""

    def __init__(self, settings: Any) -> None:
        self._path = Path(settings["TUNEPROOF_WARC"])
        self._offsets: dict[str, int] = {}

    def open_spider(self, spider: Any) -> None:
        """Find what an earlier attempt fetched; a torn tail is cut off."""
        if self._path.exists():
            _cut_torn_tail(self._path)
            with self._path.open("rb") as stream:
                records = ArchiveIterator(stream)
                for record in records:
                    self._offsets[record.rec_headers.get_header("WARC-Target-URI")] = records.get_record_offset()
            print(f"crawl: {len(self._offsets)} responses of an earlier attempt are kept", file=sys.stderr)
        self._stream = self._path.open("ab")
        self._writer = WARCWriter(self._stream, gzip=True)

    def close_spider(self, spider: Any) -> None:
        """Flush the archive to the disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def retrieve_response(self, spider: Any, request: Request) -> Response | None:
        """Return the archived response to a request, or None."""
        if request.url not in self._offsets:
            return None
        with self._path.open("rb") as stream:
            stream.seek(self._offsets[request.url])
            record = next(iter(ArchiveIterator(stream)))
            headers = Headers(dict(record.http_headers.headers))
            status, body = int(record.http_headers.get_statuscode()), record.content_stream().read()
        response_class = responsetypes.from_args(headers=headers, url=request.url, body=body)
        return response_class(url=request.url, headers=headers, status=status, body=body)

    def store_response(self, spider: Any, request: Request, response: Response) -> None:
        """Append a response to the archive."""
        names = [(k, v) for k, v in response.headers.to_unicode_dict().items() if k.lower() not in _HOP_BY_HOP]
        record = self._writer.create_warc_record(
            request.url,
            "response",
            payload=io.BytesIO(response.body),  # as Scrapy hands it over: decompressed
            http_headers=StatusAndHeaders(str(response.status), names, protocol="HTTP/1.1"),
            warc_headers_dict={"WARC-Date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
        )
        self._offsets[request.url] = self._stream.tell()
        self._writer.write_record(record)
        self._stream.flush()


def _cut_torn_tail(path: Path) -> None:
    """Truncate a file of gzip members after its last whole member: a kill can tear only the last one."""
    keep = position = 0
    decoder = zlib.decompressobj(wbits=31)
    with path.open("r+b") as stream:
        while block := stream.read(1 << 16):
            position += len(block)
            while block:
                try:
                    decoder.decompress(block)
                except zlib.error:
                    break
                block = decoder.unused_data
                if decoder.eof:
                    keep = position - len(block)
                    decoder = zlib.decompressobj(wbits=31)
        if keep < position:
            print(f"{path}: a torn record of {position - keep} bytes was cut off", file=sys.stderr)
            stream.truncate(keep)
