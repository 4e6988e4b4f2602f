"""A crawl of sites that do harm, over real HTTP: the good pages are found, what gave none is counted with its reason.

One server holds all the traps; what it saw, and how many bytes it could send, is the witness.
"""

import functools
import gzip
import json
import os
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from tuneproof.corpus import crawl
from tuneproof.corpus.archive import read_archive
from tuneproof.corpus.extract import archived_documents, decoded
from tuneproof.study import Crawl

MEGABYTE = bytes(1_000_000)
GOOD = [f"/good/{name}.html" for name in ("a", "b", "c")]
SENTENCE = "Die Größe des Raums beträgt dreißig Quadratmeter, und er wird jede Stunde gekühlt. "


def page(*links, text="", head=""):
    anchors = "".join(f"<a href='{link}'>x</a>" for link in links)
    return f"<html><head>{head}</head><body><p>{text}</p>{anchors}</body></html>"


@functools.cache
def bomb(megabytes):
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(MEGABYTE) for _ in range(megabytes)), packer.flush()])


def site(own):
    """Path -> (status, headers, body); a body may be a function, a status a list: one for each time."""
    german = f"<html><body><article><p>{SENTENCE * 5}</p></article></body></html>"
    html = {"Content-Type": "text/html; charset=utf-8"}
    routes = {
        "/loop/a": (302, {"Location": "/loop/b"}, ""),
        "/loop/b": (302, {"Location": "/loop/a"}, ""),
        "/refresh.html": (200, html, page(head="<meta http-equiv='refresh' content='0; url=/refresh.html'>")),
        "/to/metadata": (302, {"Location": "http://169.254.169.254/latest/meta-data/"}, ""),
        "/to/file": (302, {"Location": "file:///etc/passwd"}, ""),
        "/bomb.html": (200, {**html, "Content-Encoding": "gzip"}, bomb(200)),
        "/bomb-in-bomb.html": (200, {**html, "Content-Encoding": "gzip, gzip"}, gzip.compress(bomb(200))),
        "/torn.html": (200, {**html, "Content-Encoding": "gzip"}, b"no gzip at all"),
        "/packed.html": (200, {**html, "Content-Encoding": "gzip"}, gzip.compress(page("/good/c.html").encode())),
        "/gigabyte.html": (200, {**html, "Content-Length": str(10**9)}, gigabyte),
        "/endless.html": (200, html, gigabyte),
        "/picture": (200, {"Content-Type": "image/png"}, gigabyte),
        "/drip.html": (200, {**html, "Content-Length": "1000"}, drip),
        "/silent.html": (200, html, lambda: drip(first=8)),
        "/short.html": (200, {**html, "Content-Length": "1000"}, "<html>"),
        "/error.html": (500, html, page()),
        "/shaky.html": ([503, 200], html, page("/good/b.html")),
        "/gone.html": (410, html, page()),
        "/headers.html": (200, {**html, "X-Long": "x" * 100_000}, page()),
        "/latin-1-header.html": (200, {**html, "X-Author": "Müller"}, page()),  # the server sends Latin-1
        "/no-type.txt": (200, {}, "plain words"),
        "/nested.html": (200, html, "<div>" * 20_000 + page("/good/a.html")),
        "/links.html": (200, html, page("http://[::1", "http://a:b/", "javascript:x()", "mailto:x@y", "//", "\0", "?")),
        "/no-type.html": (200, {}, page(*GOOD)),
        "/encodings/lies-utf8.html": (200, html, german.encode("latin-1")),
        "/encodings/lies-latin1.html": (200, {"Content-Type": "text/html; charset=iso-8859-1"}, german.encode()),
        "/encodings/unsaid.html": (200, {"Content-Type": "text/html"}, german.encode("cp1252")),
        "/encodings/utf16.html": (200, {"Content-Type": "text/html"}, german.encode("utf-16")),
        "/encodings/declared.html": (200, {"Content-Type": "text/html; charset=cp850"}, german.encode("cp850")),
        "/secret/x.html": (200, html, page()),
        "/map.xml": (200, {"Content-Type": "application/xml"}, "no <xml"),
        "/map.xml.gz": (200, {"Content-Type": "application/gzip"}, bomb(200)),
    }
    robots = f"User-agent: *\nDisallow: /secret/\nSitemap: {own}/map.xml\nSitemap: {own}/map.xml.gz\n"
    robots += f"Sitemap: {own}/maps/0.xml\n"
    routes["/robots.txt"] = (200, {"Content-Type": "text/plain"}, robots)
    entrances = [path for path in routes if path not in ("/robots.txt", "/map.xml", "/map.xml.gz", "/loop/b")]
    entrances += ["/stairs/0", "/calendar/2024/1?view=month", "/deep/x", "/long?" + "q" * 5000, "//elsewhere.test/"]
    routes |= {path: (200, html, page("/", text=path)) for path in GOOD}
    routes["/"] = (200, html, page(*entrances, "/robots.txt"))
    for n in range(10):
        index = f"<sitemapindex><sitemap><loc>{own}/maps/{n + 1}.xml</loc></sitemap></sitemapindex>"
        routes[f"/maps/{n}.xml"] = (200, {"Content-Type": "application/xml"}, index)
    return routes


def gigabyte():
    return (MEGABYTE for _ in range(1000))


def drip(first=0.0):
    time.sleep(first)
    for _ in range(100):
        yield b" "
        time.sleep(0.2)


def endless(path, query):
    """The traps that have no end: redirects, a calendar, a path that grows."""
    html = {"Content-Type": "text/html"}
    folder, *rest = path.strip("/").split("/")
    if folder == "stairs":
        return 302, {"Location": f"/stairs/{int(rest[0]) + 1}"}, ""
    if folder == "calendar":
        year, month = int(rest[0]), int(rest[1])
        days = [f"/calendar/{year}/{month}?view=day&day={day}" for day in range(1, 4)]
        return 200, html, page(f"/calendar/{year + month // 12}/{month % 12 + 1}?view=month", *days)
    if folder == "deep":
        return 200, html, page(f"{path}/x", "/", "/good/a.html")
    return 404, html, page()


@contextmanager
def hostile():
    """Serve the traps on loopback; yields .url, .routes, .asked (path -> times), .sent (path -> bytes)."""
    asked, sent = Counter(), Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            turn = asked[parts.path]
            asked[parts.path] += 1
            status, headers, body = routes.get(parts.path) or endless(parts.path, parts.query)
            if isinstance(status, list):
                status = status[min(turn, len(status) - 1)]
            body = body() if callable(body) else [body.encode() if isinstance(body, str) else body]
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for block in body:
                    self.wfile.write(block)
                    sent[parts.path] += len(block)
            except OSError:  # the crawler hung up
                pass
            self.close_connection = True

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    own = f"http://127.0.0.1:{server.server_port}"
    routes = site(own)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield SimpleNamespace(url=own, asked=asked, sent=sent, routes=routes)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# a process starts with the peak of the one it is forked from: of a small one it is its own
MEASURED = """if True:
    import resource, subprocess, sys
    code = subprocess.call(sys.argv[1:])
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
    sys.exit(code)
"""


def run_crawl(root, out, **spec):
    """Crawl in a process of its own; returns .returncode, .stderr, .counts, .reasons (URL -> reason), .peak_mb."""
    spec = {"delay_s": 0, "concurrency": 8, "retries": 1, "timeout_s": 3, **spec}
    own = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    counts = out.with_suffix(".json")
    command = [sys.executable, "-c", MEASURED, sys.executable, root / "scripts" / "crawl.py"]
    command += ["--spec", json.dumps(spec), "--out", out, "--counts", counts]
    result = subprocess.run(command, env=own, capture_output=True, text=True, timeout=120, check=False)
    stderr = result.stderr
    lines = [line.removeprefix("no page: ") for line in stderr.splitlines() if line.startswith("no page: ")]
    return SimpleNamespace(
        returncode=result.returncode,
        stderr=stderr,
        counts=json.loads(counts.read_text()) if counts.exists() else {},
        reasons={line.split(": ", 1)[0]: line.split(": ", 1)[1] for line in lines},
        peak_mb=float(result.stdout),
    )


@pytest.fixture(scope="module")
def met(root, tmp_path_factory):
    """One crawl of all traps: (result, server, archive)."""
    out = tmp_path_factory.mktemp("hostile") / "crawl.warc.gz"
    with hostile() as server:
        result = run_crawl(
            root,
            out,
            start=[f"{server.url}/"],
            private_hosts=["127.0.0.1"],
            max_page_mb=1,
            max_depth=25,
            max_alike=20,
        )
    print(json.dumps(result.counts, indent=2), f"peak {result.peak_mb:.0f} MB")
    return result, server, out


def test_the_crawl_ends_well_and_finds_every_good_page_once(met):
    result, server, _ = met
    assert result.returncode == 0, result.stderr
    assert {path: server.asked[path] for path in GOOD} == dict.fromkeys(GOOD, 1)


def test_traps_cost_no_memory(met):
    assert met[0].peak_mb < 250, "eight bodies of a gigabyte, three bombs of 200 MB, pages of at most 1 MB"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/loop/a", "redirected in a circle"),
        ("/refresh.html", "redirected in a circle"),
        ("/stairs/0", "too many redirects"),
        ("/to/metadata", "redirected to another host: 169.254.169.254"),
        ("/to/file", "HTTP status 302"),
        ("/bomb.html", "larger than max_page_mb 1"),
        ("/bomb-in-bomb.html", "larger than max_page_mb 1"),
        ("/gigabyte.html", "larger than max_page_mb 1"),
        ("/endless.html", "larger than max_page_mb 1"),
        ("/picture", "no HTML: image/png"),
        ("/no-type.txt", "no HTML: no type"),
        ("/drip.html", "DownloadTimeoutError"),
        ("/silent.html", "DownloadTimeoutError"),
        ("/short.html", "ResponseDataLossError"),
        ("/error.html", "HTTP status 500"),
        ("/gone.html", "HTTP status 410"),
        ("/secret/x.html", "forbidden by robots.txt"),
        ("/long?" + "q" * 5000, "address longer than 2000 characters"),
        ("/map.xml", "not understood"),
        ("/map.xml.gz", "not understood"),
    ],
)
def test_what_gave_no_page_is_named_with_its_reason(met, path, reason):
    result, server, _ = met
    assert result.reasons[(server.url + path)[:2000]].startswith(reason)


def test_the_counts_hold_every_reason(met):
    result = met[0]
    assert sum(result.counts["reasons"].values()) == result.counts["urls_without_a_page"] == len(result.reasons)
    assert result.counts["reasons"]["larger than max_page_mb 1"] == 4
    assert result.counts["reasons"]["redirected in a circle"] == 2


def test_a_body_that_is_too_large_is_not_fetched_to_its_end(met):
    _, server, _ = met
    for path in ("/gigabyte.html", "/endless.html", "/picture"):
        assert server.sent[path] < 20e6, "what the sockets' buffers hold, of 1 GB"
        assert server.asked[path] == 1, "to try again would not make it smaller"


def test_passing_failures_are_tried_again(met):
    _, server, _ = met
    assert [server.asked[path] for path in ("/shaky.html", "/error.html", "/silent.html", "/gone.html")] == [2, 2, 2, 1]


def test_endless_sites_end_at_their_limits(met):
    result, server, _ = met
    assert result.counts["reasons"]["more than max_alike 20 addresses like this"] > 0
    assert sum(n for path, n in server.asked.items() if path.startswith("/calendar/")) <= 2 * (20 + 8)
    assert max(path.count("/") - 1 for path in server.asked if path.startswith("/deep/")) == 25
    assert result.counts["reasons"]["more than max_depth 25 links away"] > 0
    assert [server.asked[f"/maps/{n}.xml"] for n in range(4)] == [1, 1, 1, 0]


def test_what_is_archived_is_unpacked_html(met):
    _, server, out = met
    bodies = {url: body for url, status, _, body, _ in read_archive(out) if status == 200}
    assert bodies[f"{server.url}/packed.html"] == page("/good/c.html").encode()
    assert f"{server.url}/bomb.html" not in bodies
    assert bodies[f"{server.url}/picture"] == b""


def test_a_header_that_is_no_utf8_costs_no_page(met):
    _, server, out = met
    assert f"{server.url}/latin-1-header.html" in {document.url for document in archived_documents(out)}


def test_a_text_is_read_in_its_real_encoding_whatever_it_declares(met):
    texts = {urlsplit(url).path: decoded(body, kind) for url, _, kind, body, _ in read_archive(met[2])}
    encodings = [text for path, text in texts.items() if path.startswith("/encodings/")]
    assert len(encodings) == 5
    assert all(SENTENCE * 5 in text for text in encodings)


def test_a_page_without_a_type_is_a_page(met):
    _, server, out = met
    urls = [document.url for document in archived_documents(out)]
    assert f"{server.url}/no-type.html" in urls
    assert not any(url.endswith(("robots.txt", "map.xml", "picture")) for url in urls)


def test_a_link_back_to_a_page_is_no_failure_however_deep_it_stands(met):
    result, server, out = met
    pages = {document.url for document in archived_documents(out)}
    assert f"{server.url}/" in pages
    assert not result.reasons.keys() & {f"{server.url}{path}" for path in ("/", *GOOD)}


# --- private addresses ---


def test_private_addresses_are_refused_in_any_notation(root, tmp_path):
    with hostile() as server:
        port = urlsplit(server.url).port
        hosts = ["127.0.0.1", "localhost", "127.1", "0x7f000001", "[::1]", "169.254.169.254", "10.0.0.1", "100.64.0.1"]
        start = [f"http://{host}:{port}/" for host in hosts]
        result = run_crawl(root, tmp_path / "crawl.warc.gz", start=start, retries=0)
        assert result.returncode == 1
        assert not server.asked, "no request was sent"
    assert result.reasons.keys() == set(start)
    for url, reason in result.reasons.items():
        assert "private address that private_hosts does not name" in reason, url


def test_a_private_host_that_is_named_is_crawled(root, tmp_path):
    with hostile() as server:
        start = f"http://localhost:{urlsplit(server.url).port}/good/a.html"
        result = run_crawl(root, tmp_path / "crawl.warc.gz", start=[start], private_hosts=["localhost"], max_pages=1)
        assert result.returncode == 0, result.stderr
        assert server.asked["/good/a.html"] == 1


def test_only_proxies_and_what_is_named_may_be_private(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "localhost")
    monkeypatch.setenv("http_proxy", "proxy.intranet:3128")
    spec = Crawl(start=["http://a.test/"], private_hosts=["Wiki.Intranet"])
    assert crawl._Spider(spec, crawl.Visit()).private_hosts == {"proxy.intranet", "wiki.intranet"}


# --- robots.txt ---


def test_a_front_page_in_place_of_robots_is_no_page(root, tmp_path, monkeypatch):
    out = tmp_path / "crawl.warc.gz"
    with hostile() as server:
        monkeypatch.setitem(server.routes, "/robots.txt", (200, {"Content-Type": "text/html"}, page("/robots.txt")))
        start = [f"{server.url}/good/a.html"]
        result = run_crawl(root, out, start=start, private_hosts=["127.0.0.1"], max_depth=0)
    assert result.counts["pages"] == 1, result.stderr
    assert [document.url for document in archived_documents(out)] == start


@pytest.mark.parametrize(("status", "crawled"), [(404, True), (403, True), (503, False), (500, False)])
def test_a_site_whose_robots_fails_is_closed_and_one_without_is_open(root, tmp_path, status, crawled, monkeypatch):
    with hostile() as server:
        monkeypatch.setitem(server.routes, "/robots.txt", (status, {}, ""))
        result = run_crawl(
            root,
            tmp_path / "crawl.warc.gz",
            start=[f"{server.url}/good/a.html"],
            private_hosts=["127.0.0.1"],
            max_depth=0,
        )
        assert (result.returncode == 0) == crawled
        assert (server.asked["/good/a.html"] == 1) == crawled
    if not crawled:
        assert f"no robots.txt to go by: HTTP status {status}" in result.stderr


# --- several sites ---


def test_several_sites_are_crawled_each_by_its_own_rules(root, tmp_path):
    with hostile() as one, hostile() as two:
        two.routes["/robots.txt"] = (200, {"Content-Type": "text/plain"}, "User-agent: *\nDisallow: /good/b.html\n")
        start = [f"{one.url}/good/a.html", f"{one.url}/good/b.html", f"{two.url}/good/a.html", f"{two.url}/good/b.html"]
        result = run_crawl(root, tmp_path / "crawl.warc.gz", start=start, private_hosts=["127.0.0.1"], max_depth=0)
        assert "forbidden by robots.txt" in result.stderr and result.returncode == 1
        result = run_crawl(root, tmp_path / "crawl.warc.gz", start=start[:3], private_hosts=["127.0.0.1"], max_depth=0)
        assert result.returncode == 0, result.stderr
        assert (one.asked["/good/a.html"], two.asked["/good/a.html"], two.asked["/good/b.html"]) == (2, 2, 0)
