"""A crawl, over real HTTP: every public page once, robots.txt obeyed, killed at any moment and resumed.

Scrapy's reactor starts once in a process, so each crawl is a process of its own; what the server saw is the witness.
"""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from tuneproof.corpus.archive import read_archive
from tuneproof.corpus.crawl import unfinished
from tuneproof.corpus.serve import serve
from tuneproof.study import Crawl

HOST = "www.haldrune.test"
START = f"http://{HOST}/"
COPY = "/services/remote-hands-copy.html"


def crawl_spec(**changes):
    return json.dumps({"start": [START], "delay_s": 0, "concurrency": 2, "retries": 2, "timeout_s": 20, **changes})


def archived(file):
    """URL -> (status, body); fails where a page stands twice."""
    rows = list(read_archive(file))
    counts = Counter(row[0] for row in rows if not row[0].endswith("/robots.txt"))
    assert max(counts.values()) == 1, counts
    return {url: (status, body) for url, status, _, body, _ in rows}


@contextmanager
def witnessed(site):
    """Serve a folder as HOST; yields the proxy and the growing log of (path, status, moment)."""
    log = []
    with serve(site, HOST, on_request=lambda _, path, status: log.append((path, status, time.monotonic()))) as proxy:
        yield {"http_proxy": proxy, "no_proxy": ""}, log


def write_site(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def page(*links):
    return "<html><body>" + "".join(f"<a href='{link}'>{link}</a>" for link in links) + "</body></html>"


# --- the sample site ---


@pytest.fixture(scope="module")
def crawled(haldrune, run_script, tmp_path_factory):
    """One crawl of the sample site: (result, paths and states the server saw, archive)."""
    out = tmp_path_factory.mktemp("crawl") / "crawl.warc.gz"
    with witnessed(haldrune[0]) as (env, log):
        result = run_script("crawl", "--spec", crawl_spec(), "--out", out, env=env)
    return result, [(path, status) for path, status, _ in log], out


def test_every_public_page_is_fetched_once(crawled, haldrune):
    result, log, out = crawled
    assert result.returncode == 0, result.stderr
    public = {fact["path"] for fact in haldrune[1]} | {COPY}
    asked = Counter(path for path, status in log if status == 200 and path.endswith(("/", ".html")))
    assert asked == dict.fromkeys(public, 1)
    pages = {url for url, (status, _) in archived(out).items() if status == 200 and url.endswith(("/", ".html"))}
    assert pages == {f"http://{HOST}{path}" for path in public}


def test_robots_are_obeyed(crawled):
    result, log, out = crawled
    assert ("/robots.txt", 200) in log
    assert [path for path, _ in log if path.startswith("/internal/")] == []
    assert not any(b"Marrowgate" in body for _, body in archived(out).values())
    assert f"no page: http://{HOST}/internal/rota.html: forbidden by robots.txt" in result.stderr


def test_robots_are_asked_for_once(crawled):
    assert crawled[1].count(("/robots.txt", 200)) == 1


def test_the_sitemap_is_read(crawled):
    assert crawled[1].count(("/sitemap.xml", 200)) == 1


def test_redirects_are_followed_to_a_page_that_is_known_once(crawled):
    _, log, _ = crawled
    assert ("/products/colo.html", 301) in log
    assert log.count(("/products/cabinets.html", 200)) == 1


def test_a_dead_link_is_reported_and_does_not_fail_the_crawl(crawled):
    result, log, _ = crawled
    assert ("/company/press-kit.html", 404) in log
    assert f"no page: http://{HOST}/company/press-kit.html: HTTP status 404" in result.stderr
    assert result.returncode == 0
    assert "47 pages, 0 of them from an earlier attempt; 3 requests gave none" in result.stderr


def test_a_finished_crawl_leaves_the_archive_and_nothing_else(crawled):
    _, _, out = crawled
    assert [p.name for p in out.parent.iterdir()] == ["crawl.warc.gz"]


@pytest.mark.parametrize("after", [3, 20])
def test_killed_and_resumed_no_page_is_fetched_twice(haldrune, root, run_script, tmp_path, after):
    site, facts = haldrune
    out = tmp_path / "crawl.warc.gz"
    command = [sys.executable, root / "scripts" / "crawl.py", "--out", out]
    with witnessed(site) as (env, log):
        slow = crawl_spec(delay_s=0.2, concurrency=1)
        process = subprocess.Popen([*command, "--spec", slow], env=env, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while len(log) < after and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)  # between two requests: the last one is archived, the next not yet sent
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not out.exists()
        before = len(log)
        kept = archived(unfinished(out, Crawl.parse(crawl_spec())))
        assert len(kept) >= after - 2  # robots.txt may have been asked for twice, and one answer be on its way

        result = run_script("crawl", "--spec", crawl_spec(), "--out", out, env=env)
        assert result.returncode == 0, result.stderr
    assert f"crawl: {len(kept)} responses of an earlier attempt are kept" in result.stderr
    asked_again = {f"http://{HOST}{path}" for path, _, _ in log[before:]} & kept.keys()
    assert asked_again == set()
    whole = archived(out)
    public = {f"http://{HOST}{path}" for path in {fact["path"] for fact in facts} | {COPY}}
    assert public <= {url for url, (status, _) in whole.items() if status == 200}
    assert {url: whole[url] for url in kept} == kept
    assert [p.name for p in tmp_path.iterdir()] == ["crawl.warc.gz"]


# --- small sites ---


def test_pages_that_only_the_sitemap_names_are_found(run_script, tmp_path):
    locations = "".join(
        f"<url><loc>{url}</loc></url>" for url in (f"{START}hidden.html", "http://elsewhere.test/x.html")
    )
    site = write_site(
        tmp_path / "site",
        {
            "index.html": page(),
            "hidden.html": page(),
            "robots.txt": f"User-agent: *\nDisallow: /no/\nSitemap: {START}map.xml\n",
            "map.xml": f'<sitemapindex xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"><sitemap><loc>{START}'
            "pages.xml</loc></sitemap></sitemapindex>",
            "pages.xml": f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{locations}</urlset>',
        },
    )
    with witnessed(site) as (env, log):
        result = run_script("crawl", "--spec", crawl_spec(), "--out", tmp_path / "out.warc.gz", env=env)
    assert result.returncode == 0, result.stderr
    assert ("/hidden.html", 200) in [row[:2] for row in log]
    assert not any("elsewhere" in path for path, _, _ in log), "another host was asked"


@pytest.mark.parametrize(
    "other",
    [
        "http://elsewhere.test/",
        "http://sub.www.haldrune.test/",
    ],
)
def test_only_the_hosts_of_the_start_pages_are_crawled(run_script, tmp_path, other):
    files = {"index.html": page(other, "a.html#part", "a.html"), "a.html": page("/")}
    with witnessed(write_site(tmp_path / "site", files)) as (env, log):
        result = run_script("crawl", "--spec", crawl_spec(), "--out", tmp_path / "out.warc.gz", env=env)
    assert result.returncode == 0, result.stderr
    assert Counter(path for path, _, _ in log if path.endswith(("/", ".html"))) == {"/": 1, "/a.html": 1}


def test_a_site_may_be_on_another_port(run_script, tmp_path):
    with failing({"/": [200], "/a.html": [200]}) as (url, log):
        run_script(
            "crawl",
            "--spec",
            crawl_spec(start=[f"{url}/"], private_hosts=["127.0.0.1"]),
            "--out",
            tmp_path / "out.warc.gz",
        )
    assert log["/a.html"] == 1


def test_max_pages_stops_a_crawl_and_says_so(haldrune, run_script, tmp_path):
    with witnessed(haldrune[0]) as (env, log):
        spec = crawl_spec(max_pages=5, concurrency=1, delay_s=0.02)
        result = run_script("crawl", "--spec", spec, "--out", tmp_path / "out.warc.gz", env=env)
    assert result.returncode == 0, result.stderr
    assert "the crawl stopped at its limit: closespider_pagecount" in result.stderr
    assert len([path for path, _, _ in log if path.endswith(("/", ".html"))]) in (5, 6)


@pytest.fixture(scope="module")
def small_crawl(run_script, tmp_path_factory):
    """A finished crawl of a site of six pages, to be torn: (site, archive)."""
    folder = tmp_path_factory.mktemp("small")
    names = [f"p{n}.html" for n in range(5)]
    site = write_site(folder / "site", {"index.html": page(*names), **{n: page("/") + n * 50 for n in names}})
    with witnessed(site) as (env, _):
        result = run_script("crawl", "--spec", crawl_spec(), "--out", folder / "crawl.warc.gz", env=env)
    assert result.returncode == 0, result.stderr
    return site, folder / "crawl.warc.gz"


@pytest.mark.parametrize("tail", ["one byte short", "five bytes of the next", "zeros after a power cut"])
def test_a_torn_tail_is_cut_off_and_reported(small_crawl, run_script, tmp_path, tail):
    site, whole = small_crawl
    content = whole.read_bytes()
    last = content.rindex(b"\x1f\x8b\x08")
    torn = {
        "one byte short": content[:-1],
        "five bytes of the next": content[: last + 5],
        "zeros after a power cut": content[:last] + bytes(100_000),
    }[tail]
    out = tmp_path / "crawl.warc.gz"
    unfinished(out, Crawl.parse(crawl_spec())).write_bytes(torn)
    with witnessed(site) as (env, log):
        result = run_script("crawl", "--spec", crawl_spec(), "--out", out, env=env)
    assert result.returncode == 0, result.stderr
    assert f"a torn record of {len(torn) - last} bytes was cut off" in result.stderr
    assert len({path for path, _, _ in log} - {"/robots.txt"}) <= 1, "more than the torn record was fetched again"
    assert archived(out) == archived(whole)


@contextmanager
def failing(states):
    """A server that gives each path its states in turn (the last one for ever); yields its URL and its log.

    It is its own proxy: a path may come as a whole URL.
    """
    log = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = urlsplit(self.path).path
            turns = states.get(path, [404])
            status = turns[min(log[path], len(turns) - 1)]
            log[path] += 1
            links = page(*(p for p in states if p != "/")).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(links)))
            self.end_headers()
            self.wfile.write(links)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", log
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_server_error_is_tried_again_then_given_up(run_script, tmp_path):
    out = tmp_path / "out.warc.gz"
    with failing({"/": [200], "/down.html": [503], "/shaky.html": [503, 500, 200], "/gone.html": [410]}) as (url, log):
        result = run_script("crawl", "--spec", crawl_spec(), "--out", out, env={"http_proxy": url})
    assert result.returncode == 0, result.stderr
    assert (log["/"], log["/down.html"], log["/shaky.html"], log["/gone.html"]) == (1, 3, 3, 1)
    assert f"no page: {START}down.html: HTTP status 503" in result.stderr
    whole = archived(out)
    assert whole[f"{START}shaky.html"][0] == 200
    assert f"{START}down.html" not in whole, "what may pass in a moment is not archived"


@pytest.mark.parametrize("status", [503, 521, 403, 404])
def test_a_start_page_that_is_not_there_is_an_error_and_is_asked_again_on_the_next_attempt(
    run_script, tmp_path, status
):
    out = tmp_path / "out.warc.gz"
    tries = 2 if status == 503 else 1
    with failing({"/": [*[status] * tries, 200], "/a.html": [200]}) as (url, log):
        first = run_script("crawl", "--spec", crawl_spec(retries=1), "--out", out, env={"http_proxy": url})
        assert first.returncode == 1 and not out.exists()
        errors = [line for line in first.stderr.splitlines() if line.startswith("error:")]
        part = unfinished(out, Crawl.parse(crawl_spec()))
        assert errors == [
            f"error: {START}: HTTP status {status}, expected a page to start from; what came so far is in {part}"
        ]
        second = run_script("crawl", "--spec", crawl_spec(retries=1), "--out", out, env={"http_proxy": url})
    assert second.returncode == 0, second.stderr
    assert re.search(r"^2 pages, 0 of them from an earlier attempt", second.stderr, re.MULTILINE)
    assert log["/"] == tries + 1


def test_of_other_start_pages_nothing_enters_the_corpus(run_script, tmp_path):
    out = tmp_path / "out.warc.gz"
    old = crawl_spec(start=[f"{START}old/", f"{START}gone"], retries=0)
    with failing({"/": [200], "/old/": [200], "/gone": [404]}) as (url, _):
        assert run_script("crawl", "--spec", old, "--out", out, env={"http_proxy": url}).returncode == 1
        assert f"{START}old/" in archived(unfinished(out, Crawl.parse(old)))
        new = run_script("crawl", "--spec", crawl_spec(max_depth=0), "--out", out, env={"http_proxy": url})
    assert new.returncode == 0, new.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.warc.gz"]
    assert {url for url, (status, _) in archived(out).items() if status == 200} == {START}
