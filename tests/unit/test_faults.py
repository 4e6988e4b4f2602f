"""Providers fail in many ways; no answer that was paid for is lost, and none is paid for twice. Over real HTTP."""

import errno
import json
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from llm_server import FaultServer

from tuneproof.errors import InputError
from tuneproof.llm import api
from tuneproof.llm.budget import Account, Purse
from tuneproof.llm.calls import Request
from tuneproof.llm.client import complete
from tuneproof.llm.store import Store
from tuneproof.study import ApiLLM, Budget

KEY = "sk-planted-0123456789"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve():
    servers = []

    def start(*arguments, **options):
        servers.append(FaultServer(*arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def request(n, max_tokens=8):
    return Request([{"role": "user", "content": f"row {n}"}], max_tokens)


def ask(server, folder, numbers, max_tokens=8, budget=None, backoff_s=0.01, key=KEY, **options):
    llm = ApiLLM(engine="openai", model="tiny-1", base_url=server.url, key_env="K", **{"timeout_s": 10, **options})
    purse = Purse(folder, Account("test", llm.model, "here"), budget or Budget(), llm.price)
    identity = api.engine_id(llm)
    store = Store(folder, identity)

    def start():
        return api.OpenAI(llm, purse, {"K": key}, backoff_s, random.Random(1), store.answered)

    requests = [n if isinstance(n, Request) else request(n, max_tokens) for n in numbers]
    return complete(requests, identity, start, store, "test", ask_refused=True)


def stored_lines(folder):
    return [line for path in folder.glob("openai*/*.jsonl") for line in path.read_text().splitlines()]


def once(*faults):
    """What goes wrong with a row's first requests, before it is answered."""
    return lambda row, attempt: faults[attempt] if attempt < len(faults) else None


# --- 2,000 rows against everything at once ---

PASSING = [
    "429",
    "429:0.01",
    "500",
    "502",
    "503",
    "503:0.05",
    "reset",
    "cut off",
    "truncated",
    "invalid",
    "empty choices",
]
FINAL = ["content filter", "10 MB", "too long", "filtered request"]


def test_two_thousand_rows_with_every_fault_are_answered_once_each(serve, tmp_path, capsys):
    rng = random.Random(7)
    plan = {f"row {n}": rng.choices(PASSING, k=rng.choice([0, 0, 0, 1, 1, 2, 3])) for n in range(2000)}
    for n in range(0, 2000, 200):
        plan[f"row {n}"].append("stall")
    final = {f"row {n}": FINAL[n // 7 % 4] for n in range(3, 80, 7)}
    plan["row 1500"] = ["wrong model"]

    def fault(row, attempt):
        return plan[row][attempt] if attempt < len(plan[row]) else final.get(row)

    server = serve(fault)
    options = {"max_concurrent": 64, "timeout_s": 4}
    with pytest.raises(InputError, match="'tiny-2' answered, expected 'tiny-1'"):
        ask(server, tmp_path, range(2000), **options)
    before = len(stored_lines(tmp_path))
    answered = ask(server, tmp_path, range(2000), **options)

    assert [a.reply.text for a in answered if not a.fault and len(a.reply.text) < 99] == [
        f"answer to row {n}" for n in range(2000) if f"row {n}" not in final
    ]
    assert sum(len(a.reply.text) == 10_000_000 for a in answered) == list(final.values()).count("10 MB")
    refused = [a.fault for a in answered if a.fault]
    assert len(refused) == sum(final[row] != "10 MB" for row in final)
    assert sum("maximum context length" in f for f in refused) == list(final.values()).count("too long")
    assert max(server.answers.values()) == 1, "no answer was paid for twice"
    assert len({json.loads(line)["key"] for line in stored_lines(tmp_path)}) == 2000
    requests = sum(server.attempts.values())
    runs = {row: 2 if final.get(row) == "too long" else 1 for row in plan}  # a refusal is asked again by the next run
    assert all(server.attempts[row] <= len(faults) + runs[row] for row, faults in plan.items()), (
        "one try per fault and answer"
    )
    again = ask(server, tmp_path, range(2000), **options)
    assert [a.reply for a in again] == [a.reply for a in answered]
    asked = sum(server.attempts.values()) - requests
    assert asked == list(final.values()).count("too long"), "what is known is not asked"
    with capsys.disabled():
        said = ", ".join(f"{name}: {n}" for name, n in sorted(server.said.items()))
        print(f"\n2,000 rows, {before} of them before the wrong model stopped the run; {requests} requests ({said})")


# --- one fault at a time ---


@pytest.mark.parametrize("fault", [*PASSING, "429date"])
def test_a_passing_fault_is_tried_again(serve, tmp_path, fault):
    server = serve(once(fault))
    [answered] = ask(server, tmp_path, [1])
    assert answered.reply.text == "answer to row 1"
    assert server.attempts["row 1"] == 2


def test_a_stall_is_given_up_at_the_deadline_and_holds_up_no_other_row(serve, tmp_path):
    server = serve(lambda row, attempt: "stall" if row == "row 0" and attempt == 0 else None)
    began = time.monotonic()
    ask(server, tmp_path, range(50), max_concurrent=4, timeout_s=1)
    assert time.monotonic() - began < 5
    assert server.sent["row 0"][0] > max(t for row, [t] in server.sent.items() if row != "row 0") + 0.2


def test_a_row_that_fails_to_the_end_does_not_fail_the_others_and_is_all_that_the_next_run_asks(serve, tmp_path):
    server = serve(lambda row, attempt: "500" if row == "row 3" else None)
    with pytest.raises(InputError, match=r"1 of 10 calls got no answer.*HTTP status 500.*run again") as error:
        ask(server, tmp_path, range(10), retries=3)
    assert KEY not in str(error.value)
    assert server.attempts["row 3"] == 4, "the first try and three more"
    assert len(stored_lines(tmp_path)) == 9
    server.faults = lambda row, attempt: None
    ask(server, tmp_path, range(10))
    assert sum(server.attempts.values()) == 9 + 4 + 1


@pytest.mark.parametrize("fault", ["401", "403", "404", "no money"])
def test_a_fault_that_concerns_all_rows_ends_the_run_at_once_with_its_cause(serve, tmp_path, fault):
    server = serve(lambda row, attempt: fault)
    with pytest.raises(InputError, match=r"tiny-1 at 127\.0\.0\.1:\d+: HTTP status 4") as error:
        ask(server, tmp_path, range(500), max_concurrent=4)
    assert KEY not in str(error.value)
    assert sum(server.attempts.values()) <= 4
    assert stored_lines(tmp_path) == []


def test_what_is_under_way_when_a_run_ends_is_waited_for_and_kept(serve, tmp_path):
    server = serve(
        lambda row, attempt: "wrong model" if row == "row 0" else None, delay=lambda row: 0 if row == "row 0" else 0.3
    )
    with pytest.raises(InputError, match="tiny-2"):
        ask(server, tmp_path, range(100), max_concurrent=8)
    assert 0 < sum(server.answers.values()) == len(stored_lines(tmp_path)) < 20


def test_a_row_that_is_too_long_is_refused_and_asked_again_by_the_next_run(serve, tmp_path):
    server = serve(lambda row, attempt: "too long" if row == "row 0" else None)
    for _ in range(2):
        answered = ask(server, tmp_path, range(3))
        assert "maximum context length is 8 tokens" in answered[0].fault
        assert [a.fault for a in answered[1:]] == ["", ""]
    assert sum(server.attempts.values()) == 4
    server.faults = lambda row, attempt: None  # restarted with a longer context
    assert [a.fault for a in ask(server, tmp_path, range(3))] == ["", "", ""]
    asked = sum(server.attempts.values())
    ask(server, tmp_path, range(3))
    assert sum(server.attempts.values()) == asked, "what came later is what counts"


EXPIRED = {"code": 400, "message": "API key expired. Please renew the API key.", "status": "INVALID_ARGUMENT"}


@pytest.mark.parametrize(
    "fault",
    [
        "json 400:" + json.dumps([{"error": EXPIRED}]),
        "json 400:" + json.dumps([{"error": {**EXPIRED, "message": "Not here", "status": "FAILED_PRECONDITION"}}]),
        "json 400:" + json.dumps({"error": {"message": "Your billing account is inactive", "code": None}}),
        "json 200:" + json.dumps({"error": {"message": "Insufficient credits", "code": 402}}),
    ],
)
def test_a_refusal_of_the_account_ends_the_run_whatever_its_status_and_no_row_is_refused(serve, tmp_path, fault):
    server = serve(lambda row, attempt: fault if sum(server.answers.values()) >= 20 else None)
    with pytest.raises(InputError, match=r"API key expired|Not here|billing|credits"):
        ask(server, tmp_path, range(100), max_concurrent=4)
    assert len(stored_lines(tmp_path)) == sum(server.answers.values()) < 24
    server.faults = lambda row, attempt: None
    assert all(not a.fault for a in ask(server, tmp_path, range(100)))


def test_a_refused_row_beside_stored_answers_is_that_rows_fault(serve, tmp_path):
    server = serve(lambda row, attempt: "400" if row == "row 20" else None)
    ask(server, tmp_path, range(20))
    assert [a.fault[:7] for a in ask(server, tmp_path, range(21))][-2:] == ["", "refused"]


def test_fast_refusals_before_the_first_slow_answer_end_nothing(serve, tmp_path):
    refused = {f"row {n}" for n in range(10)}
    server = serve(lambda row, _: "400" if row in refused else None, delay=lambda row: 0 if row in refused else 0.3)
    answered = ask(server, tmp_path, range(20), max_concurrent=16)
    assert sum(bool(a.fault) for a in answered) == 10


def test_a_filtered_request_is_no_answer_of_another_model(serve, tmp_path):
    server = serve(once("filtered request"), model="gpt-x-2030-01-31")
    assert ask(server, tmp_path, [1], served="gpt-x")[0].fault.startswith("content_filter")


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"finish_reason": "stop", "message": {"content": None, "refusal": "I can't say."}}, "I can't say."),
        ({"finish_reason": "content_filter: PROHIBITED_CONTENT", "message": {"content": ""}}, "PROHIBITED_CONTENT"),
    ],
)
def test_what_a_model_will_not_say_is_filtered_with_its_words(serve, tmp_path, choice, words):
    answer = {"model": "tiny-1", "choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    server = serve(lambda row, attempt: "json 200:" + json.dumps(answer))
    fault = ask(server, tmp_path, [1])[0].fault
    assert fault.startswith("content_filter")
    assert words in fault


@pytest.mark.parametrize("choices", [None, [], [{"message": {"content": "\ud800"}}]])
def test_a_row_that_is_always_answered_oddly_is_unusable_and_blocks_no_stage(serve, tmp_path, choices):
    odd = "json 200:" + json.dumps({"model": "tiny-1", "choices": choices})
    server = serve(lambda row, attempt: odd if row == "row 3" else None)
    answered = ask(server, tmp_path, range(10), retries=2)
    assert [bool(a.fault) for a in answered] == [n == 3 for n in range(10)]
    assert "no chat completion" in answered[3].fault
    assert "choices" in answered[3].reply.text
    assert server.attempts["row 3"] == 3


def test_when_the_provider_takes_no_request_at_all_that_is_no_fault_of_the_rows(serve, tmp_path):
    server = serve(lambda row, attempt: "400")
    with pytest.raises(InputError, match="HTTP status 400"):
        ask(server, tmp_path, range(500), max_concurrent=4)
    assert sum(server.attempts.values()) < 16
    with pytest.raises(InputError, match="HTTP status 400"):
        ask(server, tmp_path, [1])
    assert stored_lines(tmp_path) == []


# --- what other clients get wrong ---


def test_retry_after_is_waited_for_by_all_rows(serve, tmp_path):
    server = serve(once("429:1.5"))
    began = time.monotonic()
    ask(server, tmp_path, [1])
    assert time.monotonic() - began >= 1.5
    server.faults = lambda row, attempt: "429:1" if row == "row 10" and attempt == 0 else None
    server.times.clear()
    server.delay = 0.02
    ask(server, tmp_path, range(10, 60), max_concurrent=2)
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert max(gaps) > 0.9, "nobody asks while the provider wants to be left alone"


def test_a_failed_row_is_tried_again_while_the_others_go_on_not_after_them(serve, tmp_path):
    server = serve(lambda row, attempt: "500" if row == "row 0" and attempt == 0 else None, delay=0.02)
    ask(server, tmp_path, range(100), max_concurrent=4)
    order = sorted(server.sent, key=lambda row: server.sent[row][0])
    assert order.index("row 0") < 30


def test_a_slow_call_holds_up_no_other(serve, tmp_path):
    server = serve(delay=lambda row: 1.5 if row == "row 0" else 0.01)
    ask(server, tmp_path, range(200), max_concurrent=8)
    assert max(t for row, [t] in server.sent.items() if row != "row 0") < server.sent["row 0"][0]


def test_more_faults_than_two_in_a_row_lose_nothing(serve, tmp_path):
    faults = once("500", "reset", "502", "429", "503")
    server = serve(lambda row, attempt: faults(row, attempt) if int(row[4:]) % 3 == 0 else None)
    assert len(ask(server, tmp_path, range(20))) == 20


def test_too_many_is_no_failed_try(serve, tmp_path):
    server = serve(once(*["429"] * 12))
    assert ask(server, tmp_path, [1], retries=0, backoff_s=0.001)
    with pytest.raises(InputError, match="HTTP status 429"):
        ask(server, tmp_path, [2], patience_min=1e-4, backoff_s=0.01)


def test_a_wait_longer_than_patience_ends_the_run_with_its_cause_and_time(serve, tmp_path):
    server = serve(lambda row, attempt: "429:86400" if row == "row 5" else None, delay=0.02)
    with pytest.raises(InputError, match=r"HTTP status 429.*next try in 86\d{3} s, later than 60 min"):
        ask(server, tmp_path, range(100), max_concurrent=4)
    assert sum(server.answers.values()) == len(stored_lines(tmp_path))
    server.faults = lambda row, attempt: None
    server.headers = {f"x-ratelimit-{what}-requests": "9" for what in ("limit", "remaining")}
    server.headers |= {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "90h"}
    with pytest.raises(InputError, match="its limits are used up; next try in"):
        ask(server, tmp_path, range(100, 200), max_concurrent=2)


def test_a_long_wait_is_said(serve, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(api, "_SAY_S", 0.3)
    ask(serve(once("429:0.5")), tmp_path, [1])
    assert re.search(r"tiny-1 at 127\.0\.0\.1:\d+: HTTP status 429.*; next try in \d s", capfd.readouterr().err)


def test_too_many_without_a_time_lets_all_wait_and_no_row_is_lost_while_any_is_answered(serve, tmp_path):
    times = []

    def ten_in_half_a_second(row, attempt):
        now = time.monotonic()
        if sum(now - t < 0.5 for t in times) >= 10:
            return "429"
        times.append(now)
        return None

    server = serve(ten_in_half_a_second)
    ask(server, tmp_path, range(100), patience_min=2 / 60, backoff_s=0.1)
    assert server.said["429"] < 150


def test_an_outage_costs_no_row_its_tries(serve, tmp_path):
    began = time.monotonic()
    server = serve(lambda row, attempt: "502" if 0.3 < time.monotonic() - began < 2.5 else None, delay=0.01)
    ask(server, tmp_path, range(1000), retries=2, backoff_s=0.05, max_concurrent=4)
    assert 5 < server.said["502"] < 60, "one call at a time asks whether it is back"


def test_an_endpoint_that_is_not_there_is_waited_for_as_long_as_patience_lasts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = SimpleNamespace(url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    with pytest.raises(InputError, match=r"Cannot connect.*later than 0\.02 min"):
        ask(nobody, tmp_path, range(3), retries=0, patience_min=0.02)


def self_signed(file):
    """What a server needs that signs for itself."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    certificate = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now - timedelta(1), now + timedelta(1)
    ).sign(key, hashes.SHA256())
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()) + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def test_a_certificate_that_is_not_trusted_is_no_outage(serve, tmp_path):
    server = serve(tls=self_signed(tmp_path / "server.pem"))
    with pytest.raises(InputError) as error:
        ask(server, tmp_path, range(20), patience_min=0.02)
    assert re.fullmatch(
        r"tiny-1 at 127\.0\.0\.1:\d+: ClientConnectorCertificateError: .*self.signed certificate.*", str(error.value)
    )
    assert "next try" not in str(error.value) and stored_lines(tmp_path) == []


def test_an_endpoint_without_tls_is_no_outage(serve, tmp_path):
    plain = SimpleNamespace(url=serve().url.replace("http:", "https:"))
    with pytest.raises(InputError, match=r"tiny-1 at 127\.0\.0\.1:\d+: ClientConnectorSSLError: ((?!next try).)*$"):
        ask(plain, tmp_path, range(20), patience_min=0.02)


def test_rows_that_always_fail_end_the_run_by_their_tries_when_all_others_are_answered(serve, tmp_path):
    server = serve(lambda row, attempt: "500" if int(row[4:]) % 3 == 0 else None)
    with pytest.raises(InputError, match="20 of 60 calls got no answer"):
        ask(server, tmp_path, range(60), retries=3)


# --- the machine's own faults ---


def test_a_ledger_that_cannot_be_written_ends_the_run_and_keeps_what_is_under_way(serve, tmp_path, monkeypatch):
    server, write, written = serve(delay=0.02), Purse._write, []

    def full(purse, claim, **options):
        written.append(claim)
        if len(written) == 3:
            raise OSError(errno.EDQUOT, "quota")
        write(purse, claim, **options)

    monkeypatch.setattr(Purse, "_write", full)
    with pytest.raises(OSError, match="quota"):
        ask(server, tmp_path, range(300), budget=Budget(tokens=10**9), max_concurrent=4)
    assert 0 < sum(server.answers.values()) == len(stored_lines(tmp_path)) < 300


def test_a_flush_that_fails_ends_the_run(serve, tmp_path, monkeypatch):
    server, sync, synced = serve(delay=0.02), Store.sync, []

    def full(store):
        synced.append(1)
        if len(synced) == 3:
            raise OSError(errno.ENOSPC, "no space")
        sync(store)

    monkeypatch.setattr(Store, "sync", full)
    with pytest.raises(OSError, match="no space"):
        ask(server, tmp_path, range(500), max_concurrent=4)
    assert sum(server.attempts.values()) < 200


# --- limits ---


def test_concurrency_falls_when_told_too_many_and_rises_again(serve, tmp_path):
    server = serve(lambda row, attempt: "429" if server.under_way > 8 else None, delay=0.02)
    ask(server, tmp_path, range(300), max_concurrent=64)
    refused = server.said["429"]
    assert refused < 200, f"{refused} refusals: most of 64 at once would be refused in every round"
    assert server.most_under_way >= 64
    assert max(server.answers.values()) == 1


def test_requests_per_minute_are_kept(serve, tmp_path):
    server = serve()
    ask(server, tmp_path, range(66), requests_per_minute=60)
    spent = server.times[-1] - server.times[0]
    assert 5 < spent < 12, "sixty at once, then one a second"


def test_limits_are_learned_from_headers(serve, tmp_path):
    server = serve(delay=0.01)
    server.headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "6s",
    }
    ask(server, tmp_path, range(8), max_concurrent=2)
    assert 0.4 < server.times[-1] - server.times[0] < 3, "sixty in six seconds: ten a second"


def test_a_run_that_is_told_to_end_keeps_what_is_under_way(serve, tmp_path, root):
    server = serve(delay=0.3)
    with client_process(root, server, tmp_path, 500, 8) as process:
        process.stdin.write("go\n")
        process.stdin.flush()
        pid = int(process.stdout.readline())
        wait_for(lambda: sum(server.answers.values()) >= 16)
        os.kill(pid, signal.SIGTERM)
        said = process.stdout.readline()
        process.stdin.close()
    assert "ended by SIGTERM" in said
    assert sum(server.answers.values()) == len(stored_lines(tmp_path)) < 100
    assert all(server.attempts[row] == server.answers[row] == 1 for row in server.attempts)


# --- kills ---

# Imports once, then forks a client per line that it reads: a start takes no second.
CLIENT = """
import os, sys
from pathlib import Path
import aiohttp, httpx2, openai, test_faults as t
from types import SimpleNamespace
from tuneproof.errors import InputError
for line in sys.stdin:
    if pid := os.fork():
        print(pid, flush=True)
        os.waitpid(pid, 0)
        continue
    try:
        server, folder, rows, concurrent = SimpleNamespace(url=sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
        t.ask(server, folder, range(rows), max_concurrent=concurrent)
        print("done", flush=True)
    except InputError as error:
        print(error, flush=True)
    os._exit(0)
"""


def client_process(root, server, folder, rows, concurrent):
    path = os.pathsep.join(str(root / part) for part in ("scripts", "tests", "tests/unit"))
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, server.url, str(folder), str(rows), str(concurrent)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def wait_for(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_killed_25_times_every_answered_call_is_answered_once(serve, tmp_path, root, capsys):
    rng = random.Random(3)
    server = serve(delay=lambda row: rng.uniform(0.02, 0.08))
    stored = {}  # rows whose answer was in the store at a kill, with the requests for them until then
    with client_process(root, server, tmp_path, 500, 16) as process:
        for n in range(1, 27):
            process.stdin.write("go\n")
            process.stdin.flush()
            pid = int(process.stdout.readline())
            if n > 25:
                assert process.stdout.readline() == "done\n"
                break
            goal = sum(server.answers.values()) + rng.randint(1, 30)
            wait_for(lambda goal=goal: sum(server.answers.values()) >= goal)
            os.kill(pid, signal.SIGKILL)
            lines = [json.loads(line) for line in stored_lines(tmp_path) if line.endswith("}")]
            for row in (server.row(line["request"]) for line in lines):
                stored.setdefault(row, server.attempts[row])
        process.stdin.close()
    keys = [json.loads(line)["key"] for line in stored_lines(tmp_path)]
    assert len(keys) == len(set(keys)) == 500, "every row is in the store, once"
    assert len(stored) > 250
    assert {row: server.attempts[row] for row in stored} == stored, "an answer in the store was asked for again"
    # what was under way at a kill is asked again, whether its answer was on the wire or not
    twice = sum(server.answers.values()) - 500
    assert twice <= 25 * 16
    with capsys.disabled():
        requests = sum(server.attempts.values())
        print(
            f"\n25 kills: 500 rows, {requests} requests, {requests - 500} of them for calls that were under way at a "
            f"kill, of which {twice} had been answered on the wire"
        )


# --- the key ---


def test_no_file_and_no_message_holds_the_key(serve, tmp_path, capfd):
    server = serve(once("500", "429", "invalid"))
    server.content = lambda body: "an answer"
    ask(server, tmp_path, range(5))
    server.faults = lambda row, attempt: "400" if row == "row 7" else "401" if row == "row 9" else None
    ask(server, tmp_path, [6, 7], max_concurrent=1)
    with pytest.raises(InputError) as error:
        ask(server, tmp_path, [9])
    assert server.keys == {f"Bearer {KEY}"}
    assert any("<key>" in line for line in stored_lines(tmp_path)), "the refusal repeated it"
    captured = capfd.readouterr()
    everything = [captured.out, captured.err, str(error.value), repr(error.value)]
    everything += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(re.search(KEY, text) for text in everything)


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}\r\n"])
def test_white_space_around_a_key_is_not_sent(serve, tmp_path, key):
    server = serve()
    ask(server, tmp_path, [1], key=key)
    assert server.keys == {f"Bearer {KEY}"}


def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(serve, tmp_path):
    with pytest.raises(InputError, match="K in the environment is no key") as error:
        ask(serve(), tmp_path, [1], key="sk-\nplanted")
    assert "planted" not in str(error.value)


def test_a_key_is_taken_out_before_a_message_is_cut(serve, tmp_path):
    for filler in range(150, 300, 7):
        server = serve(lambda row, attempt, n=filler: f"json 401:{json.dumps({'error': 'x' * n + KEY})}")
        with pytest.raises(InputError) as error:
            ask(server, tmp_path, [1])
        assert KEY[:6] not in str(error.value)


def test_no_loop_and_no_handler_is_left_behind(serve, tmp_path):
    before = signal.getsignal(signal.SIGTERM), threading.active_count()
    ask(serve(), tmp_path, range(3))
    assert (signal.getsignal(signal.SIGTERM), threading.active_count() - 1) == before, "one thread is the server's"
