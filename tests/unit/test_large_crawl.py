"""A site of 2,000 pages with 5 % faults, over real HTTP: every page once, also when the crawl is killed in the middle.

The server's log is the witness. What a kill finds between the server and the archive is asked for again: that is no
more than what was under way at once.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tuneproof.corpus.archive import read_archive

SECTIONS, ARTICLES, CONCURRENCY = 40, 49, 16
# of 2,000 addresses: 100 faults, of which 25 are mended by asking again
FAULTS = {"missing": 30, "broken": 20, "shaky": 25, "circle": 10, "cut": 5, "picture": 10}
FORBIDDEN = [f"/private/{n}.html" for n in range(40)]


def large_site():
    """Path -> what is there: "page" or a fault; a front page, 40 sections, 49 articles in each."""
    sections = [f"/section{s}/" for s in range(SECTIONS)]
    articles = [f"/section{s}/article{a}.html" for s in range(SECTIONS) for a in range(ARTICLES)][: 1999 - SECTIONS]
    site = dict.fromkeys(["/", *sections, *articles], "page")
    spoilt = iter(articles[3::17])
    for fault, count in FAULTS.items():
        site |= {next(spoilt): fault for _ in range(count)}
    assert len(site) == 2000 and sum(what != "page" for what in site.values()) == 100
    return site | dict.fromkeys(FORBIDDEN, "page")


def links(path, site):
    """The front page links to the sections, a section to its articles, an article to the next ones and back."""
    if path == "/":
        return [p for p in site if p.count("/") == 2 and p.endswith("/")] + FORBIDDEN
    section = path[: path.index("/", 1) + 1]
    articles = [p for p in site if p.startswith(section) and p != section]
    if path != section:
        articles = articles[articles.index(path) + 1 :][:5]
    return ["/", section, *articles, FORBIDDEN[0]]


@contextmanager
def serving(site):
    """Serve the site; yields its URL and the log, path by path as they were asked for."""
    log, turns = [], Counter()
    bodies = {p: "".join(f"<a href='{x}'>x</a>" for x in links(p, site)).encode() for p in site}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_GET(self):
            log.append(self.path)
            turns[self.path] += 1
            what = site.get(self.path, "missing")
            status, headers, body = 200, {"Content-Type": "text/html"}, bodies.get(self.path, b"")
            if self.path == "/robots.txt":
                body = b"User-agent: *\nDisallow: /private/\n"
            elif what in ("missing", "broken") or (what == "shaky" and turns[self.path] == 1):
                status = 404 if what == "missing" else 500
            elif what == "circle":
                status, headers = 302, {"Location": self.path.replace("article", "circle")}
            elif what == "picture":
                headers = {"Content-Type": "image/png"}
            if self.path.rpartition("/")[2].startswith("circle"):
                status, headers = 302, {"Location": self.path.replace("circle", "article")}
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) + (what == "cut")))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = what == "cut"

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request, client_address):
            """Quiet: that a killed client hangs up is meant."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", log
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.slow
def test_two_thousand_pages_with_faults_killed_in_the_middle_and_resumed(root, tmp_path, capsys):
    site, out = large_site(), tmp_path / "crawl.warc.gz"
    good = {path for path, what in site.items() if what in ("page", "shaky")} - set(FORBIDDEN)
    own = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    began = time.monotonic()
    with serving(site) as (url, log):
        spec = {"start": [f"{url}/"], "private_hosts": ["127.0.0.1"], "delay_s": 0, "concurrency": CONCURRENCY}
        spec |= {"max_alike": 5000, "retries": 1}
        command = [sys.executable, root / "scripts" / "crawl.py", "--spec", json.dumps(spec), "--out", out]
        command += ["--counts", tmp_path / "crawl.json"]
        process = subprocess.Popen(command, env=own, stderr=subprocess.DEVNULL)
        while len(log) < 1000:
            assert process.poll() is None, "the crawl ended before it was killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.2)  # what was under way is logged
        before = list(log)
        kept = {row[0].removeprefix(url) for row in read_archive(next(tmp_path.glob("crawl.warc.gz.*.part")))}
        resumed = subprocess.run(command, env=own, capture_output=True, text=True, timeout=300, check=False)
        assert resumed.returncode == 0, resumed.stderr
        after = log[len(before) :]
    asked = Counter(before) + Counter(after)
    counts = json.loads((tmp_path / "crawl.json").read_text())
    pages = Counter(
        row[0].removeprefix(url) for row in read_archive(out) if row[1] == 200 and row[0].removeprefix(url) in good
    )

    assert pages == dict.fromkeys(good, 1), "every reachable page is in the archive once"
    assert not set(after) & kept, "what the first attempt archived was asked for again"
    twice = {path for path in good if asked[path] > 1 + (site[path] == "shaky")}
    assert len(twice) <= CONCURRENCY, "only what was under way at the kill"
    assert not any(path.startswith("/private/") for path in asked), "robots.txt is obeyed"
    assert counts["pages"] == len(good) == 1925
    assert counts["reasons"] == {
        "HTTP status 404": 30,
        "HTTP status 500": 20,
        "ResponseDataLossError": 5,
        "forbidden by robots.txt": 40,
        "no HTML": 10,
        "redirected in a circle": 10,
    }
    seconds = time.monotonic() - began
    with capsys.disabled():
        print(
            f"\n{len(site)} addresses, {len(log)} requests in {seconds:.0f} s; at the kill {len(before)} were asked, "
            f"{len(kept)} archived; {len(twice)} of {CONCURRENCY} under way asked for again; {json.dumps(counts)}"
        )
