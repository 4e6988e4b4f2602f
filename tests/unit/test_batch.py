"""The batch endpoint, over real HTTP: files, polling, partial results, expiry, kills."""

import collections
import json
import time

import pytest
from aiohttp import web
from llm_server import FaultServer

from tuneproof.errors import InputError
from tuneproof.llm.batch import Batch
from tuneproof.llm.budget import Account, Purse
from tuneproof.llm.calls import Request
from tuneproof.llm.client import complete
from tuneproof.llm.store import Store
from tuneproof.study import ApiLLM, Budget, Price

KEY = "sk-batch-0123456789"


class BatchServer(FaultServer):
    """A batch endpoint that ends a batch at the second look; `fate(row, batch number)` says what a row comes to."""

    def __init__(self):
        self.files, self.made, self.looks = {}, {}, collections.Counter()
        self.fate, self.failed, self.sizes, self.hangs = (lambda row, number: "answer"), "", [], False
        super().__init__()

    def routes(self, app):
        app.router.add_post("/v1/files", self.upload)
        app.router.add_get("/v1/files/{id}/content", self.download)
        app.router.add_post("/v1/batches", self.create)
        app.router.add_get("/v1/batches", self.listed)
        app.router.add_get("/v1/batches/{id}", self.look)

    async def upload(self, request):
        form = await request.post()
        assert form["purpose"] == "batch"
        content = form["file"].file.read()
        name = f"file-{len(self.files)}"
        self.files[name] = content
        self.sizes.append((content.count(b"\n"), len(content)))
        about = {"object": "file", "created_at": 0, "filename": "f", "purpose": "batch", "status": "processed"}
        return web.json_response({"id": name, "bytes": len(content), **about})

    async def create(self, request):
        asked = await request.json()
        assert (asked["endpoint"], asked["completion_window"]) == ("/v1/chat/completions", "24h")
        name = f"batch-{len(self.made)}"
        self.made[name] = {
            "id": name,
            "object": "batch",
            "status": "validating",
            "endpoint": asked["endpoint"],
            "input_file_id": asked["input_file_id"],
            "completion_window": "24h",
            "created_at": 0,
            "metadata": asked["metadata"],
        }
        return web.json_response(self.made[name])

    async def listed(self, request):
        return web.json_response({"object": "list", "data": list(self.made.values())[::-1], "has_more": False})

    async def look(self, request):
        batch = self.made[request.match_info["id"]]
        self.looks[batch["id"]] += 1
        if batch["status"] == "validating" and self.looks[batch["id"]] > 1 and not self.hangs:
            if self.failed:
                batch |= {"status": "failed", "errors": {"object": "list", "data": [{"message": self.failed}]}}
            else:
                self.run(batch)
        return web.json_response(batch)

    def run(self, batch):
        number, out, errors, status = int(batch["id"].split("-")[1]), [], [], "completed"
        for line in self.files[batch["input_file_id"]].splitlines():
            asked = json.loads(line)
            row, base = self.row(asked["body"]), {"id": "r", "custom_id": asked["custom_id"], "error": None}
            fate = self.fate(row, number)
            self.said[fate] += 1
            if fate == "answer":
                self.count(row)
                out.append({**base, "response": {"status_code": 200, "body": self.completion(asked["body"])}})
            elif fate == "expired":
                status = "expired"
                errors.append({**base, "response": None, "error": {"code": "batch_expired", "message": "expired"}})
            elif fate == "refused":
                errors.append({**base, "response": {"status_code": 400, "body": {"error": {"message": "too long"}}}})
            elif fate == "500":
                errors.append({**base, "response": {"status_code": 500, "body": {}}})
        for kind, lines in (("output", out), ("error", errors)):
            if lines:
                name = f"file-{kind}-{batch['id']}"
                self.files[name] = "".join(json.dumps(line) + "\n" for line in lines[::-1]).encode()
                batch[f"{kind}_file_id"] = name
        batch["status"] = status

    async def download(self, request):
        return web.Response(body=self.files[request.match_info["id"]])


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = BatchServer()
    yield running
    running.close()


def ask(server, folder, rows, budget=None, price=None, sleep=time.sleep, **limits):
    about = {"engine": "openai", "model": "tiny-1", "base_url": server.url, "key_env": "K", "price": price}
    llm = ApiLLM(**about, batch=True, batch_poll_s=0.001, retries=3)
    purse = Purse(folder, Account("test", llm.model, "here"), budget or Budget(), price, batch=True)
    requests = [Request([{"role": "user", "content": f"row {n}"}], 8) for n in range(rows)]

    def start():
        return Batch(llm, purse, store.folder, {"K": KEY}, sleep=sleep, **limits)

    store = Store(folder, f"openai.127.0.0.1:{server.port}.tiny-1")
    return complete(requests, f"openai.127.0.0.1:{server.port}.tiny-1", start, store, "test")


def test_half_expires_and_is_asked_again_and_no_more(server, tmp_path, capsys):
    server.fate = lambda row, number: "expired" if number == 0 and int(row.split()[1]) % 2 else "answer"
    answered = ask(server, tmp_path, 2000)
    assert [a.reply.text for a in answered] == [f"answer to row {n}" for n in range(2000)]
    assert set(server.answers.values()) == {1}
    assert [requests for requests, _ in server.sizes] == [2000, 1000]
    assert ask(server, tmp_path, 2000) == answered
    assert len(server.made) == 2
    with capsys.disabled():
        print(f"\nbatches: {[n for n, _ in server.sizes]} requests, {dict(server.said)}")


def test_files_keep_to_both_limits(server, tmp_path):
    ask(server, tmp_path, 25, most_requests=10)
    assert [requests for requests, _ in server.sizes] == [10, 10, 5]
    server.sizes.clear()
    ask(server, tmp_path / "b", 25, most_bytes=1000)
    assert max(size for _, size in server.sizes) <= 1000
    assert sum(requests for requests, _ in server.sizes) == 25


def test_what_is_refused_is_kept_as_refused_and_server_errors_are_asked_again(server, tmp_path):
    fates = {("row 0", 0): "refused", ("row 1", 0): "500", ("row 2", 0): "missing"}
    server.fate = lambda row, number: fates.get((row, number), "answer")
    answered = ask(server, tmp_path, 5)
    assert answered[0].fault.startswith("refused: HTTP status 400")
    assert [a.fault for a in answered[1:]] == [""] * 4
    assert [requests for requests, _ in server.sizes] == [5, 2]


def test_rows_that_no_batch_answers_are_named_and_the_others_kept(server, tmp_path):
    server.fate = lambda row, number: "expired" if row == "row 3" else "answer"
    with pytest.raises(InputError, match=r"1 of 10 calls got no answer.*batch_expired"):
        ask(server, tmp_path, 10)
    assert [requests for requests, _ in server.sizes] == [10, 1, 1, 1, 1]


def test_another_model_than_asked_for_is_an_error_with_both_names(server, tmp_path):
    server.model = "tiny-2"
    with pytest.raises(InputError, match="'tiny-2' answered, expected 'tiny-1'"):
        ask(server, tmp_path, 3)


def test_a_failed_batch_says_why_and_can_be_sent_again(server, tmp_path):
    server.failed = f"enqueued token limit reached for {KEY}"
    with pytest.raises(InputError, match="batch batch-0 failed: enqueued token limit reached for <key>"):
        ask(server, tmp_path, 3)
    server.failed = ""
    assert len(ask(server, tmp_path, 3)) == 3
    assert len(server.made) == 2


class Killed(BaseException):
    pass


def killed(_):
    raise Killed


def test_a_batch_that_a_killed_run_submitted_is_collected_not_submitted_again(server, tmp_path):
    server.hangs = True
    with pytest.raises(Killed):
        ask(server, tmp_path, 20, sleep=killed)
    server.hangs = False
    assert len(ask(server, tmp_path, 30)) == 30
    assert [requests for requests, _ in server.sizes] == [20, 10]
    assert set(server.answers.values()) == {1}


def test_a_batch_whose_id_was_not_yet_noted_is_found_again(server, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Batch, "_note", lambda self, line: killed(line))
        with pytest.raises(Killed):
            ask(server, tmp_path, 20)
    ask(server, tmp_path, 20)
    assert len(server.made) == 1
    assert set(server.answers.values()) == {1}


def test_the_budget_holds_at_half_the_price(server, tmp_path):
    price = Price(input=100, output=400)
    per_call = (7 * 100 + 3 * 400) / 2e6
    with pytest.raises(InputError, match="the budget is used up"):
        ask(server, tmp_path, 2000, Budget(dollars=0.5), price)
    assert 0.4 < sum(server.answers.values()) * per_call <= 0.5
    assert set(server.answers.values()) == {1}


def test_no_file_holds_the_key(server, tmp_path):
    ask(server, tmp_path, 3)
    assert not any(KEY in path.read_text() for path in tmp_path.rglob("*") if path.is_file())
