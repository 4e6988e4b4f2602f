"""Serve a folder of HTML under a stable address, whatever port is free.

A corpus keeps the addresses of its pages, so a crawl of a local folder must not depend on the port that the
machine had left. The server therefore also acts as an HTTP proxy for one host name: a crawler that is given
the proxy asks for http://www.haldrune.test/a.html and gets the folder's a.html, over a real socket, and
nothing leaves the machine.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".xml": "application/xml; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".ico": "image/x-icon",
}
REDIRECTS = "_redirects"

OnRequest = Callable[[str, str, int], None]


@contextmanager
def serve(folder: Path, host: str, port: int = 0, on_request: OnRequest | None = None) -> Iterator[str]:
    """Serve `folder` on 127.0.0.1 as if it were `host`; yields the proxy's URL, http://127.0.0.1:PORT.

    `on_request` is called with method, path and status before each answer is sent, so that when a client has
    its answer the call has been made. It is called from several threads.
    """
    root = folder.resolve(strict=True)

    class Handler(_Handler):
        pass

    Handler.root, Handler.host, Handler.redirects = root, host.lower(), read_redirects(root / REDIRECTS)
    Handler.on_request = staticmethod(on_request) if on_request else None
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def read_redirects(file: Path) -> dict[str, tuple[str, int]]:
    """Old path -> (new path, status) of a Netlify `_redirects` file; empty when there is none."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    fields = [line.split() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return {row[0]: (row[1], int(row[2]) if len(row) > 2 else 301) for row in fields}


class _Handler(BaseHTTPRequestHandler):
    root: Path
    host: str
    redirects: dict[str, tuple[str, int]]
    on_request: OnRequest | None

    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds an idle connection may hold a thread
    # head and body in one packet; sent apart, they wait 40 ms for each other (Nagle and the delayed ACK)
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def answer(self) -> None:
        """Answer from the folder; the request line holds a path, or a whole URL when we are a proxy."""
        if self.path.startswith("/"):
            path = self.path.partition("?")[0].partition("#")[0]
        else:
            try:
                url = urlsplit(self.path)
                ours = url.scheme == "http" and url.hostname == self.host and url.port in (None, 80)
            except ValueError:  # a port that is no number, an unclosed bracket
                ours = False
            if not ours:
                return self.reply(self.path, 502, b"This proxy serves one host only.\n", ".txt")
            path = url.path or "/"
        path = unquote(path)
        if path in self.redirects:
            target, status = self.redirects[path]
            return self.reply(path, status, location=target)
        file = self.file_for(path)
        if file is None:
            return self.reply(path, 403, b"This path leads out of the folder.\n", ".txt")
        if file.is_dir() and (file / "index.html").is_file():
            return self.reply(path, 301, location=path + "/")
        if file.is_file() and file.name != REDIRECTS:
            return self.reply(path, 200, file.read_bytes(), file.suffix)
        missing = self.root / "404.html"
        return self.reply(path, 404, missing.read_bytes() if missing.is_file() else b"Not found.\n", ".html")

    def file_for(self, path: str) -> Path | None:
        """The file a path means, or None when it would lie outside the folder."""
        if "\0" in path or "\\" in path:
            return None
        file = (self.root / (path + "index.html" if path.endswith("/") else path).lstrip("/")).resolve()
        return file if file.is_relative_to(self.root) else None

    def reply(self, path: str, status: int, body: bytes = b"", suffix: str = "", location: str = "") -> None:
        """Send one answer; HEAD gets the same head without the body."""
        if self.on_request:
            self.on_request(self.command, path, status)
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        else:
            self.send_header("Content-Type", CONTENT_TYPES.get(suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: a crawl's log is the crawler's business."""
