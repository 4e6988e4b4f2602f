"""Crawl websites into a WARC, so that a corpus can be rebuilt without the site.

Scrapy does the crawling: robots.txt, sitemaps, delay and concurrency per host, retries, limits of size and time.
The WARC is written as the crawl goes on and serves as its cache: a crawl that was killed reads back what it has
fetched and fetches nothing twice.

A site may be hostile, by intent or by accident: every request passes `Guard`, every address `PublicResolver`, and
every URL that gave no page is counted with its reason.
"""

from __future__ import annotations

import io
import ipaddress
import os
import re
import socket
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from urllib.request import getproxies

import scrapy
from scrapy import signals
from scrapy.crawler import CrawlerProcess
from scrapy.exceptions import CloseSpider, IgnoreRequest, StopDownload
from scrapy.http import Headers, Request, Response, TextResponse
from scrapy.linkextractors import LinkExtractor
from scrapy.resolver import CachingThreadedResolver
from scrapy.responsetypes import responsetypes
from scrapy.utils.gz import gunzip, gzip_magic_number
from scrapy.utils.sitemap import Sitemap, sitemap_urls_from_robots
from twisted.internet.error import DNSLookupError
from w3lib.url import canonicalize_url
from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from tuneproof.corpus.archive import is_html
from tuneproof.errors import InputError
from tuneproof.progress import progress
from tuneproof.records import content_id
from tuneproof.study import Crawl

# Headers of the transport, no longer true of the body that is archived.
_HOP_BY_HOP = {"content-encoding", "transfer-encoding", "content-length", "connection"}
# What may pass in a moment is not archived: a resumed crawl asks again.
_TRANSIENT = {408, 429, *range(500, 600)}

_SHORT_BODY = 1 << 16  # bytes that come with the headers
_DEEPEST_SITEMAP = 3  # one in the other; the protocol has two
_LONGEST_URL = 2000  # characters; browsers and servers take about as much


@dataclass
class Visit:
    """What a crawl met: pages, and the URLs that gave none, with the reason: "what" or "what: in detail"."""

    pages: int = 0
    from_archive: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    finished: str = ""

    def counts(self) -> dict[str, Any]:
        """Return what is written beside the archive; reasons are counted without their details."""
        reasons = Counter(reason.partition(": ")[0] for reason in self.failures.values())
        return {
            "pages": self.pages,
            "pages_of_an_earlier_attempt": self.from_archive,
            "urls_without_a_page": len(self.failures),
            "reasons": dict(sorted(reasons.items())),
            "finished": self.finished,
        }


def crawl(spec: Crawl, archive: Path, proxy: str | None = None) -> Visit:
    """Crawl the hosts of `spec.start` into `archive` (gzipped WARC). Resumes from what `unfinished` names.

    Raises InputError where a start page gives nothing: a site that is down is an error, a dead link is not.
    """
    partial = unfinished(archive, spec)
    archive.parent.mkdir(parents=True, exist_ok=True)
    for other in set(archive.parent.glob(f"{archive.name}*.part")) - {partial}:
        print(f"{other}: of other start pages, deleted", file=sys.stderr)
        other.unlink()
    visit = Visit()
    if proxy:  # through the environment, because Scrapy's own request for robots.txt must take it too
        os.environ.update(http_proxy=proxy, no_proxy="")
    process = CrawlerProcess(_settings(spec, partial))
    process.crawl(_Spider, spec=spec, visit=visit)
    process.start()
    for url in spec.start:
        if reason := visit.failures.get(url):
            raise InputError(f"{url}: {reason}, expected a page to start from; what came so far is in {partial}")
    if visit.pages == 0:
        raise InputError(f"{', '.join(spec.start)}: no page was found ({visit.finished}), expected at least one")
    if visit.finished not in ("finished", "closespider_pagecount", "closespider_timeout"):
        raise InputError(f"the crawl stopped early: {visit.finished}; run again to go on")
    if visit.finished != "finished":
        print(f"the crawl stopped at its limit: {visit.finished}", file=sys.stderr)
    partial.replace(archive)
    return visit


def unfinished(archive: Path, spec: Crawl) -> Path:
    """Return where a crawl is archived until it has ended: of other start pages nothing may enter the corpus."""
    return archive.with_name(f"{archive.name}.{content_id(*sorted(spec.start))[:8]}.part")


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
        # breadth first: a page is met by its shortest way, and a limit cuts what is deepest
        "DEPTH_PRIORITY": 1,
        "SCHEDULER_MEMORY_QUEUE": "scrapy.squeues.FifoMemoryQueue",
        "DOWNLOADER_MIDDLEWARES": {
            "tuneproof.corpus.crawl.Guard": 50,  # before robots.txt is asked for
            # before the cache (900), which is the archive: what is archived is unpacked
            "scrapy.downloadermiddlewares.httpcompression.HttpCompressionMiddleware": 910,
        },
        "DNS_RESOLVER": "tuneproof.corpus.crawl.PublicResolver",
        "TWISTED_DNS_RESOLVER": "tuneproof.corpus.crawl.PublicResolver",
        "HTTPCACHE_ENABLED": True,
        "HTTPCACHE_STORAGE": "tuneproof.corpus.crawl.WarcStorage",
        "HTTPCACHE_IGNORE_HTTP_CODES": sorted(_TRANSIENT),
        "TUNEPROOF_WARC": str(partial),
        "TELNETCONSOLE_ENABLED": False,
        "LOG_ENABLED": False,
        "LOG_INSTALL_ROOT_HANDLER": False,
    }


class Guard:
    """Scrapy's middleware that sees every request, the next step of a redirect too, before anything is sent."""

    def __init__(self, crawler: Any) -> None:
        self._crawler = crawler

    @classmethod
    def from_crawler(cls, crawler: Any) -> Guard:
        return cls(crawler)

    def process_request(self, request: Request) -> None:
        """Drop what must not be asked for; the reason reaches the spider's errback."""
        if reason := self._crawler.spider.refusal(request.url):
            raise IgnoreRequest(reason)


class PublicResolver(CachingThreadedResolver):
    """Scrapy's resolver, whose answer is the address that is connected to: a private one is no answer."""

    _process: CrawlerProcess

    @classmethod
    def from_crawler(cls, crawler: Any, reactor: Any) -> PublicResolver:
        resolver: PublicResolver = super().from_crawler(crawler, reactor)
        resolver._process = crawler  # Scrapy hands over the process: a reactor has one resolver
        return resolver

    def getHostByName(self, name: str, timeout: Any = ()) -> Any:
        """Resolve a name, or an address in any notation, as the system does."""
        return super().getHostByName(name, timeout).addCallback(self._public, name)

    def _public(self, address: str, name: str) -> str:
        spider: Any = next(iter(self._process.crawlers)).spider
        if _is_public(address) or name in spider.private_hosts:
            return address
        spider.private_addresses[name] = address
        raise DNSLookupError(f"{name} has the private address {address}")


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return ip.is_global and not ip.is_multicast


def _literal_address(host: str) -> str | None:
    """Return the address that a host is, in whatever notation (127.1, 0x7f000001), or None for a name."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def _address(url: str) -> tuple[str, str]:
    """Return (host:port, host), empty where the URL is none, e.g. for an unclosed bracket."""
    try:
        parts = urlsplit(url)
        return parts.netloc.lower(), parts.hostname or ""
    except ValueError:
        return "", ""


def _type(headers: Headers) -> str:
    """Return the declared type, empty where none is."""
    return (headers.get("Content-Type") or b"").decode("latin-1").lower()


def _alike(url: str) -> str:
    """Return what is left of an address without its numbers and the values of its query."""
    parts = urlsplit(url)
    keys = sorted({key for key, _ in parse_qsl(parts.query, keep_blank_values=True)})
    return parts.netloc + re.sub(r"\d+", "#", parts.path) + ("?" + "&".join(keys) if keys else "")


class _Spider(scrapy.Spider):
    name = "tuneproof"

    def __init__(self, spec: Crawl, visit: Visit) -> None:
        super().__init__()
        self.spec, self.visit = spec, visit
        # a proxy is the machine's own business; what is asked of it is still only the hosts of the start pages
        proxies = (url if "//" in url else f"//{url}" for kind, url in getproxies().items() if kind != "no")
        self.private_hosts = {*map(str.lower, spec.private_hosts), *(_address(url)[1] for url in proxies)}
        self.private_addresses: dict[str, str] = {}
        self._hosts = {_address(url)[0] for url in spec.start}
        self._pages_alike: Counter[str] = Counter()
        self._known: set[str] = set()  # what was asked for, and where that led to a page
        self._links = LinkExtractor()
        self._bar = progress(None, "page", "crawl")

    @classmethod
    def from_crawler(cls, crawler: Any, *args: Any, **kwargs: Any) -> _Spider:
        spider: _Spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.headers_came, signals.headers_received)
        crawler.signals.connect(spider.dropped, signals.request_dropped)
        crawler.signals.connect(spider.not_understood, signals.spider_error)
        return spider

    async def start(self) -> Any:
        """Ask each site for its robots.txt first: it says what may be asked, and may name sitemaps."""
        sites: dict[str, list[str]] = {}
        for url in self.spec.start:
            parts = urlsplit(url)
            sites.setdefault(f"{parts.scheme}://{parts.netloc}/robots.txt", []).append(url)
        for robots, pages in sites.items():
            self._known.add(canonicalize_url(robots))  # no page, whatever it holds
            yield Request(
                robots,
                self.parse_robots,
                errback=self.no_robots,
                cb_kwargs={"start": pages},
                meta={"dont_obey_robotstxt": True},
            )

    def parse_robots(self, response: Response, start: list[str]) -> Iterator[Request]:
        """Follow the sitemaps that robots.txt names, and the start pages."""
        text = response.body.decode("utf-8", errors="replace")
        for url in sitemap_urls_from_robots(text, base_url=response.url):
            if _address(url)[0] in self._hosts:
                yield from self._ask(url, self.parse_sitemap)
        for url in start:
            yield from self._ask(url, self.parse, depth=0)

    def no_robots(self, failure: Any) -> Iterator[Request]:
        """Go on where there is no robots.txt; a site whose robots.txt fails is closed (RFC 9309, 2.3.1)."""
        start = failure.request.cb_kwargs["start"]
        response = getattr(failure.value, "response", None)
        if response is not None and 400 <= response.status < 500 and response.status not in _TRANSIENT:
            for url in start:
                yield from self._ask(url, self.parse, depth=0)
            return
        reason = self._reason(failure)
        for url in start:
            self._no_page(url, f"no robots.txt to go by: {reason}" if response is not None else reason)

    def parse_sitemap(self, response: Response, level: int = 1) -> Iterator[Request]:
        """Follow a sitemap's pages, and the sitemaps of an index, `level` of them one in the other."""
        body = response.body
        if gzip_magic_number(response):
            body = gunzip(body, max_size=int(self.spec.max_page_mb * 1e6))
        sitemap = Sitemap(body)
        for entry in sitemap:
            if _address(entry["loc"])[0] in self._hosts:
                if sitemap.type == "sitemapindex" and level >= _DEEPEST_SITEMAP:
                    self._no_page(entry["loc"], f"more than {_DEEPEST_SITEMAP} sitemaps one in the other")
                elif sitemap.type == "sitemapindex":
                    yield from self._ask(entry["loc"], self.parse_sitemap, level=level + 1)
                else:
                    yield from self._ask(entry["loc"], self.parse, depth=0)

    def parse(self, response: Response, depth: int) -> Iterator[Request]:
        """Count a page, `depth` links away from where the crawl began, and follow its links."""
        kind = _type(response.headers)
        if not isinstance(response, TextResponse) or not is_html(kind, response.body):
            self._no_page(self.asked(response.request), f"no HTML: {kind or 'no type'}")
            return
        self.visit.pages += 1
        self.visit.from_archive += "cached" in response.flags
        self._known.add(canonicalize_url(response.url))
        self.visit.failures.pop(response.url, None)
        self._pages_alike[_alike(response.url)] += 1
        self._bar.update()
        if self.visit.pages >= self.spec.max_pages:
            raise CloseSpider("closespider_pagecount")
        for link in self._links.extract_links(response):
            if _address(link.url)[0] in self._hosts:
                yield from self._ask(link.url.split("#")[0], self.parse, depth=depth + 1)

    def refusal(self, url: str) -> str | None:
        """Return why a URL is not asked for, or None."""
        site, host = _address(url)
        if site not in self._hosts or not url.startswith(("http://", "https://")):
            return f"redirected to another host: {site or url[:100]}"
        if len(url) > _LONGEST_URL:
            return f"address longer than {_LONGEST_URL} characters"
        address = _literal_address(host)
        if address and not _is_public(address) and host not in self.private_hosts:
            return f"private address that private_hosts does not name: {address}"
        if self._pages_alike[_alike(url)] >= self.spec.max_alike:
            return f"more than max_alike {self.spec.max_alike} addresses like this: {_alike(url)[:100]}"
        return None

    def headers_came(self, headers: Headers, body_length: Any, request: Request) -> None:
        """Leave the body of what is no HTML where it is; the answer is archived without it.

        A short one is let come: to stop it may close a connection that already asks for the next page.
        """
        short = isinstance(body_length, int) and body_length < _SHORT_BODY
        kind = _type(headers)
        if request.callback == self.parse and kind and "html" not in kind and not short:
            raise StopDownload(fail=False)

    def dropped(self, request: Request) -> None:
        """Tell a redirect in a circle from one to a page that is known."""
        if request.url in request.meta.get("redirect_urls", []):
            self._no_page(self.asked(request), "redirected in a circle")

    def not_understood(self, failure: Any, response: Response) -> None:
        """Count what could not be parsed."""
        self._no_page(self.asked(response.request), f"not understood: {failure.type.__name__}: {failure.value}")

    def failed(self, failure: Any) -> None:
        """Remember why a request gave no page."""
        self._no_page(self.asked(failure.request), self._reason(failure))

    def closed(self, reason: str) -> None:
        """Keep Scrapy's reason for stopping."""
        self._bar.close()
        self.visit.finished = reason

    def _ask(self, url: str, callback: Any, **kwargs: Any) -> Iterator[Request]:
        """Ask for what was not asked for before. A link that is too deep may lead to a page that is known."""
        same = canonicalize_url(url)  # as Scrapy tells requests apart
        if same in self._known:
            return
        reason = self.refusal(url)
        if kwargs.get("depth", 0) > self.spec.max_depth:
            reason = f"more than max_depth {self.spec.max_depth} links away"
        if reason:
            self._no_page(url, reason)
        else:
            self._known.add(same)
            self.visit.failures.pop(url, None)
            yield Request(url, callback, errback=self.failed, cb_kwargs=kwargs)

    def asked(self, request: Any) -> str:
        """Return the URL that a chain of redirects began with."""
        urls: list[str] = request.meta.get("redirect_urls", [request.url])
        return urls[0]

    def _reason(self, failure: Any) -> str:
        response = getattr(failure.value, "response", None)
        text = str(failure.value).strip() or "no answer"
        if response is not None:
            return f"HTTP status {response.status}"
        if "DOWNLOAD_MAXSIZE" in text or failure.type.__name__ == "DownloadCancelledError":
            return f"larger than max_page_mb {self.spec.max_page_mb:g}"
        if text == "Forbidden by robots.txt":
            return "forbidden by robots.txt"
        if text == "max redirections reached":
            return "too many redirects"
        if failure.type is IgnoreRequest:
            return text
        host = _address(failure.request.url)[1]
        if host in self.private_addresses:
            return f"private address that private_hosts does not name: {self.private_addresses[host]}"
        return f"{failure.type.__name__}: {text}"

    def _no_page(self, url: str, reason: str) -> None:
        if url not in self.visit.failures:
            self.visit.failures[url] = reason
            print(f"no page: {url[:_LONGEST_URL]}: {reason}", file=sys.stderr)


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
            headers = Headers(record.http_headers.headers)
            status, body = int(record.http_headers.get_statuscode()), record.content_stream().read()
        response_class = responsetypes.from_args(headers=headers, url=request.url, body=body)
        return response_class(url=request.url, headers=headers, status=status, body=body)

    def store_response(self, spider: Any, request: Request, response: Response) -> None:
        """Append a response to the archive; that there is no page to start from is asked again."""
        other = response.status == 200 and not is_html(_type(response.headers), response.body)
        if (other or response.status >= 400) and spider.asked(request) in spider.spec.start:
            return
        # bytes that are no UTF-8 become %FC and the like, as in an address that is redirected to
        pairs = [(name.decode("latin-1"), v) for name, values in response.headers.items() for v in values]
        names = [(k, v.decode("utf-8", "percentencode")) for k, v in pairs if k.lower() not in _HOP_BY_HOP]
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
