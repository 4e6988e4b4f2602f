"""The batch endpoint, over real HTTP: files, polling, partial results, expiry, kills."""

import collections
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from aiohttp import web
from llm_server import FaultServer

from tuneproof.errors import InputError
from tuneproof.llm.api import engine_id
from tuneproof.llm.batch import Batch
from tuneproof.llm.budget import Account, Purse, accounts
from tuneproof.llm.calls import Request
from tuneproof.llm.client import complete
from tuneproof.llm.store import LEDGER, Store
from tuneproof.study import ApiLLM, Budget, Price

KEY = "sk-batch-0123456789"


ODD = {
    "null message": lambda body: {**body, "choices": [{"index": 0, "message": None}]},
    "no choices": lambda body: {**body, "choices": None},
    "body of text": lambda body: "oops",
    "no JSON": lambda body: "NO JSON",
}


class BatchServer(FaultServer):
    """A batch endpoint that ends a batch at the second look; `fate(row, batch number)` says what a row comes to."""

    def __init__(self):
        self.files, self.made, self.looks = {}, {}, collections.Counter()
        self.fate, self.failed, self.sizes, self.hangs = (lambda row, number: "answer"), "", [], False
        self.room, self.breaks = 10**9, collections.Counter()  # rows that may wait at once; connections to break
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
        waiting = sum(b["rows"] for b in self.made.values() if b["status"] == "validating")
        rows = self.files[asked["input_file_id"]].count(b"\n")
        self.made[name] = {
            "id": name,
            "rows": rows,
            "fits": waiting + rows <= self.room,
            "object": "batch",
            "status": "validating",
            "endpoint": asked["endpoint"],
            "input_file_id": asked["input_file_id"],
            "completion_window": "24h",
            "created_at": 0,
            "metadata": asked["metadata"],
        }
        return self.respond_or_break("create", request, self.made[name])

    def respond_or_break(self, what, request, content):
        if self.breaks[what]:
            self.breaks[what] -= 1
            request.transport.abort()
        return web.json_response(content)

    async def listed(self, request):
        """A batch a page, the newest first."""
        names = list(self.made)[::-1]
        first = names.index(request.query["after"]) + 1 if "after" in request.query else 0
        page = [self.made[name] for name in names[first : first + 1]]
        return web.json_response({"object": "list", "data": page, "has_more": first + 1 < len(names)})

    async def look(self, request):
        batch = self.made.get(request.match_info["id"])
        if batch is None:
            return web.json_response({"error": {"message": "no such batch"}}, status=404)
        self.looks[batch["id"]] += 1
        if batch["status"] == "validating" and self.looks[batch["id"]] > 1 and not self.hangs:
            if not batch["fits"]:
                error = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}
                batch |= {"status": "failed", "errors": {"object": "list", "data": [error]}}
            elif self.failed:
                batch |= {"status": "failed", "errors": {"object": "list", "data": [{"message": self.failed}]}}
            else:
                self.run(batch)
        return self.respond_or_break("look", request, batch)

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
            elif fate in ODD:
                body = ODD[fate](self.completion(asked["body"]))
                out.append({**base, "response": {"status_code": 200, "body": body}})
            elif fate == "500":
                errors.append({**base, "response": {"status_code": 500, "body": {}}})
        for kind, lines in (("output", out), ("error", errors)):
            if lines:
                name = f"file-{kind}-{batch['id']}"
                self.files[name] = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines[::-1])
                self.files[name] = self.files[name].replace('"NO JSON"', "NO JSON").encode()
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


def ask(server, folder, rows, budget=None, price=None, sleep=time.sleep, retries=3, patience_min=60, **limits):
    about = {"engine": "openai", "model": "tiny-1", "base_url": server.url, "key_env": "K", "price": price}
    llm = ApiLLM(**about, batch=True, batch_poll_s=0.001, retries=retries, patience_min=patience_min)
    purse = Purse(folder, Account("test", llm.model, "here"), budget or Budget(), price, batch=True)
    rows = range(rows) if isinstance(rows, int) else rows
    requests = [Request([{"role": "user", "content": f"row {n}"}], 8) for n in rows]
    store = Store(folder, engine_id(llm))

    def start():
        return Batch(llm, purse, store.folder, {"K": KEY}, sleep=sleep, **limits)

    return complete(requests, engine_id(llm), start, store, "test")


def stored(folder):
    return [line for path in folder.glob("openai*/*.jsonl") for line in path.read_text().splitlines()]


def counted(folder):
    """The tokens that the budget counts."""
    return sum(account.committed(time.time()).tokens for account in accounts(folder / LEDGER))


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


def test_a_failed_batch_says_why_costs_nothing_and_can_be_sent_again(server, tmp_path):
    server.failed = f"the input file is broken, {KEY}"
    for _ in range(3):
        with pytest.raises(InputError, match=r"batch batch-\d failed: the input file is broken, <key>"):
            ask(server, tmp_path, 3, Budget(tokens=10_000))
        assert counted(tmp_path) == 0
    server.failed = ""
    assert len(ask(server, tmp_path, 3)) == 3
    assert len(server.made) == 4
    assert counted(tmp_path) == 30


# --- what goes wrong at the provider ---


def test_odd_answers_are_asked_again_and_spoil_no_other(server, tmp_path):
    fates = {f"row {n}": fate for n, fate in enumerate(ODD)}
    server.fate = lambda row, number: fates.get(row, "answer") if number == 0 else "answer"
    server.content = lambda body: f"one\u2028line\u0085of {server.row(body)}"
    answered = ask(server, tmp_path, 20)
    assert [a.reply.text for a in answered] == [f"one\u2028line\u0085of row {n}" for n in range(20)]
    assert [requests for requests, _ in server.sizes] == [20, len(ODD)]


def test_what_concerns_all_rows_ends_the_run_and_is_not_kept_as_each_row_s_refusal(server, tmp_path):
    server.fate = lambda row, number: "refused"
    for rows in (20, 1):
        with pytest.raises(InputError, match=r"batch batch-\d has no answer: HTTP status 400"):
            ask(server, tmp_path, rows)
    assert stored(tmp_path) == []
    server.fate = lambda row, number: "answer"
    ask(server, tmp_path, 20)
    assert len(server.made) == 3
    server.fate = lambda row, number: "refused"
    assert ask(server, tmp_path, 21)[20].fault.startswith("refused"), "others were answered: it is this row"


def test_a_batch_whose_creation_was_not_confirmed_is_looked_for_not_created_again(server, tmp_path):
    ask(server, tmp_path, range(100, 103), most_requests=1)  # three pages of batches
    server.breaks["create"] = 1
    ask(server, tmp_path, 20)
    assert len(server.made) == 4
    assert set(server.answers.values()) == {1}


def test_more_than_may_wait_at_once_waits_for_the_others(server, tmp_path):
    server.room = 8
    ask(server, tmp_path, 40, most_requests=5)
    assert set(server.answers.values()) == {1}
    server.room = 8
    ask(server, tmp_path, range(40, 70))  # one file alone is too large
    assert set(server.answers.values()) == {1}
    assert len(server.answers) == 70


def test_a_batch_that_is_gone_is_submitted_again_and_counts_at_its_worst(server, tmp_path):
    server.hangs = True
    with pytest.raises(Killed):
        ask(server, tmp_path, 5, sleep=killed)
    at_worst = counted(tmp_path)
    server.made.clear()
    server.hangs = False
    ask(server, tmp_path, 5)
    assert counted(tmp_path) == at_worst + 50


def test_lost_connections_do_not_end_the_wait_before_the_patience(server, tmp_path, capsys):
    server.breaks["look"] = 3
    ask(server, tmp_path, 3, retries=0)
    said = capsys.readouterr().err
    assert said.count("looking again") == 3
    assert "batch batch-0: validating\n" in said
    assert "batch batch-0: completed\n" in said
    server.breaks["look"] = 10**9
    with pytest.raises(InputError, match="Connection error"):
        ask(server, tmp_path, 4, retries=0, patience_min=0.001)


# --- kills ---


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
    assert counted(tmp_path) == 300, "what it could have cost counts no more"


def test_rows_of_a_batch_that_one_run_does_not_ask_for_are_there_for_the_next(server, tmp_path):
    server.hangs = True
    with pytest.raises(Killed):
        ask(server, tmp_path, 20, sleep=killed)
    server.hangs = False
    ask(server, tmp_path, 5)
    ask(server, tmp_path, 20)
    assert len(server.made) == 1
    assert counted(tmp_path) == 200


@pytest.mark.parametrize("moment", ["batch", "ended"])
def test_a_kill_between_provider_and_journal_loses_nothing(server, tmp_path, monkeypatch, moment):
    note = Batch._note
    with monkeypatch.context() as patched:
        patched.setattr(Batch, "_note", lambda self, line: killed(line) if moment in line else note(self, line))
        with pytest.raises(Killed):
            ask(server, tmp_path, 20)
    ask(server, tmp_path, 30)
    assert [requests for requests, _ in server.sizes] == [20, 10]
    assert set(server.answers.values()) == {1}
    assert counted(tmp_path) == 300


def test_kill_9_at_any_moment_submits_and_pays_nothing_twice(server, tmp_path, root):
    program = (
        "import sys, test_batch as t; from pathlib import Path; from types import SimpleNamespace; "
        f"t.ask(SimpleNamespace(url={server.url!r}), Path({str(tmp_path)!r}), 200, t.Budget(tokens=10**6), "
        "most_requests=50)"
    )
    path = os.pathsep.join(str(root / part) for part in ("scripts", "tests", "tests/unit"))
    server.hangs = True
    for batches in (1, 3, 4):  # in the middle of submitting, then while waiting
        environment = {**os.environ, "PYTHONPATH": path, "K": KEY}
        job = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while len(server.made) < batches:
            assert time.monotonic() < until
            time.sleep(0.001)
        job.send_signal(signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL
        assert counted(tmp_path) > 50 * 10 * batches
    server.hangs = False
    ask(server, tmp_path, 200, Budget(tokens=10**6), most_requests=50)
    assert set(server.answers.values()) == {1}
    assert counted(tmp_path) >= 2000, "no less than what was paid"
    assert len(stored(tmp_path)) == 200


# --- money and key ---


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
