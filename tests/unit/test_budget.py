"""A budget is never passed, by one job or by several at once, and what it stopped goes on where it was."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from llm_server import FaultServer

from tuneproof import plan
from tuneproof.errors import InputError
from tuneproof.llm import budget
from tuneproof.llm.budget import LEASE_S, Account, Cost, Purse, accounts, at_most, by_stage, cost_of
from tuneproof.llm.calls import Reply, Request
from tuneproof.llm.engines import complete_with
from tuneproof.llm.store import LEDGER
from tuneproof.study import ApiLLM, Budget, Calls, Price, load

PRICE = Price(input=100, cached=10, output=400)
PER_CALL = (7 * 100 + 3 * 400) / 1e6  # what the server's answers cost


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("K", "key")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = FaultServer(delay=0.002)
    yield running
    running.close()


def ask(server, folder, numbers, budget, what="test", **options):
    llm = ApiLLM(engine="openai", model="tiny-1", base_url=server.url, key_env="K", price=PRICE, **options)
    requests = [Request([{"role": "user", "content": f"row {n}"}], 8) for n in numbers]
    return complete_with(llm, None, requests, folder, what, Calls(budget=budget))


def spent(server):
    return sum(server.answers.values()) * PER_CALL


def test_cached_tokens_and_the_batch_discount_have_their_price():
    reply = Reply("", 1000, 100, "stop", cached_tokens=400)
    assert cost_of(reply, PRICE).dollars == pytest.approx((600 * 100 + 400 * 10 + 100 * 400) / 1e6)
    assert cost_of(reply, PRICE, batch=True).dollars == pytest.approx(cost_of(reply, PRICE).dollars / 2)
    assert cost_of(reply, None) == Cost(1100, 0.0)


def test_no_call_can_cost_more_than_what_is_set_aside_for_it():
    request = Request([{"role": "user", "content": "Brückmoor 😀" * 50}], 30, schema={"type": "object"})
    # even a tokenizer that knows nothing but bytes
    tokens = len(request.messages[0]["content"].encode()) + len(json.dumps(request.schema)) + 30
    assert at_most(request, request.max_tokens, PRICE).tokens >= tokens


def test_the_budget_in_dollars_stops_before_it_is_passed_and_the_rest_goes_on_with_a_larger_one(server, tmp_path):
    with pytest.raises(InputError, match=r"the budget is used up \(\$0\.\d+ of \$0\.5\).*goes on with the rest"):
        ask(server, tmp_path, range(1000), Budget(dollars=0.5), max_concurrent=16)
    assert 0.45 < spent(server) <= 0.5
    before = sum(server.answers.values())
    ask(server, tmp_path, range(before + 50), Budget(dollars=5))
    assert sum(server.answers.values()) == before + 50
    assert max(server.answers.values()) == 1


def test_the_budget_in_tokens_holds_over_runs_and_stages(server, tmp_path):
    ask(server, tmp_path, range(50), Budget(tokens=1000), "write pairs")
    with pytest.raises(InputError, match=r"of 1,000 tokens"):
        ask(server, tmp_path, range(50, 500), Budget(tokens=1000), "judge")
    assert 850 < 10 * sum(server.answers.values()) <= 1000
    stages = by_stage(tmp_path / LEDGER, lambda a: (a.stage, a.provider))
    assert stages["write pairs", f"127.0.0.1:{server.port}"].calls == 50
    assert stages["write pairs", f"127.0.0.1:{server.port}"].dollars == pytest.approx(50 * PER_CALL)


def job(root, server, folder, first, last, limit, stdin=subprocess.PIPE):
    """A process that asks for rows once it is told to go."""
    program = (
        "import sys, test_budget as t; from pathlib import Path; from types import SimpleNamespace; "
        "import aiohttp, openai; print('ready', flush=True); sys.stdin.readline(); "
        f"t.ask(SimpleNamespace(url={server.url!r}), Path({str(folder)!r}), range({first}, {last}), {limit}, "
        "max_concurrent=4)"
    )
    path = os.pathsep.join(str(root / part) for part in ("scripts", "tests", "tests/unit"))
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def go(jobs):
    for process in jobs:
        assert process.stdout.readline() == "ready\n"
    for process in jobs:
        process.stdin.write("go\n")
        process.stdin.flush()


def test_jobs_that_spend_at_once_do_not_pass_the_budget_together(server, tmp_path, root):
    jobs = [job(root, server, tmp_path, 1000 * n, 1000 * n + 400, "t.Budget(dollars=0.6)") for n in range(4)]
    go(jobs)
    assert all("the budget is used up" in process.communicate()[1] for process in jobs)
    assert 0.3 < spent(server) <= 0.6


@pytest.mark.parametrize("limit", ["t.Budget()", "t.Budget(dollars=50)"])
def test_kill_9_leaves_what_was_spent_and_what_was_under_way(server, tmp_path, root, limit):
    process = job(root, server, tmp_path, 0, 20_000, limit)
    go([process])
    until = time.monotonic() + 120
    while sum(server.answers.values()) < 100 or time.monotonic() - server.times[0] < 1.5:
        assert time.monotonic() < until
        time.sleep(0.01)
    before = spent(server)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    [account] = accounts(tmp_path / LEDGER)
    assert account.calls
    if limit != "t.Budget()":  # then each call is noted before it is sent
        later = account.at + 2 * LEASE_S
        assert before <= spent(server) <= account.committed(later).dollars < account.committed(account.at).dollars


def test_a_claim_is_a_lease(tmp_path):
    now = [1000.0]

    def purse(name):
        return Purse(tmp_path, Account(name, "m", "p"), Budget(dollars=1), PRICE, clock=lambda: now[0])

    silent, other = purse("a"), purse("b")
    assert silent.hold(Cost(1, 0.05))  # and 16 times as much ahead, and then no line more
    assert not other.hold(Cost(1, 0.2))
    now[0] += LEASE_S + 1
    assert other.hold(Cost(1, 0.95)), "of a job that is not heard of, only what is under way counts"
    silent.settle(Cost(1, 0.05), Reply("", 10, 0, "stop"))
    assert not silent.hold(Cost(1, 0.05)), "it was only slow: what it claimed is gone"
    assert silent.hold(Cost(1, 0.04))


def test_a_full_disk_ends_a_job_and_spoils_no_ledger(tmp_path, monkeypatch):
    purse = Purse(tmp_path, Account("a", "m", "p"), Budget(dollars=1), PRICE)
    assert purse.hold(Cost(1, 0.1))
    purse.settle(Cost(1, 0.1), Reply("", 100, 0, "stop"))

    def full(descriptor, content):
        os.write(descriptor, content[:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(budget, "write_whole", full)
        with pytest.raises(OSError, match="No space left"):
            purse.hold(Cost(1, 0.1))
    purse.close()
    assert len(list((tmp_path / LEDGER).iterdir())) == 2
    [account] = accounts(tmp_path / LEDGER)
    assert (account.calls, account.prompt_tokens) == (1, 100)


@pytest.mark.parametrize("last", [b'{"stage": "half', b'{"stage": "half\n', b"\0" * 9000 + b"\n", b"[]\n"])
def test_of_a_ledger_whose_end_is_damaged_the_last_whole_line_counts(tmp_path, last):
    purse = Purse(tmp_path, Account("a", "m", "p"), Budget(dollars=1), PRICE)
    assert purse.hold(Cost(1, 0.1))
    [path] = (tmp_path / LEDGER).iterdir()
    path.write_bytes(path.read_bytes() + last)
    [account] = accounts(tmp_path / LEDGER)
    assert account.needed == Cost(1, 0.1)


def test_what_a_killed_job_may_have_spent_is_counted(tmp_path):
    killed = Purse(tmp_path, Account("a", "m", "p"), Budget(dollars=1), PRICE)
    assert killed.hold(Cost(1, 0.03))  # and never settled or closed
    [account] = accounts(tmp_path / LEDGER)
    claimed = account.committed(time.time()).dollars
    assert claimed >= 0.03
    other = Purse(tmp_path, Account("b", "m", "p"), Budget(dollars=1), PRICE)
    assert not other.hold(Cost(1, 1.0 - claimed + 0.001))
    assert other.hold(Cost(1, 1.0 - claimed))


def test_a_call_without_an_answer_is_counted_at_its_worst_unless_it_was_refused(tmp_path):
    purse = Purse(tmp_path, Account("a", "m", "p"), Budget(dollars=1), PRICE)
    for billed in (True, False):
        assert purse.hold(Cost(10, 0.1))
        purse.settle(Cost(10, 0.1), None, billed)
    purse.close()
    [account] = accounts(tmp_path / LEDGER)
    assert account.committed(time.time()).dollars == pytest.approx(0.1)
    assert (account.calls, account.unanswered, account.dollars) == (0, 1, 0.0)


@pytest.mark.parametrize(
    ("usage", "tokens"), [(None, None), ({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 900}, 900)]
)
def test_an_answer_costs_its_worst_without_usage_and_what_was_thought_counts(server, tmp_path, usage, tokens):
    server.usage = lambda body: usage
    ask(server, tmp_path, [1], Budget())
    [account] = accounts(tmp_path / LEDGER)
    assert account.committed(time.time()).tokens == (
        tokens or at_most(Request([{"role": "user", "content": "row 1"}], 8), 8, None).tokens
    )


def test_the_dollars_of_each_call_stand_in_the_store(server, tmp_path):
    ask(server, tmp_path, range(2), Budget())
    lines = [json.loads(line) for path in tmp_path.glob("openai*/*.jsonl") for line in path.read_text().splitlines()]
    assert [(line["stage"], line["dollars"]) for line in lines] == [("test", pytest.approx(PER_CALL))] * 2


# --- configuration and plan ---


@pytest.fixture
def paper(root):
    content = yaml.safe_load((root / "config.yaml").read_text())
    content["llms"]["gpt"] = {"engine": "openai", "model": "gpt-x", "price": {"input": 2, "output": 8}}
    content["datasets"]["haldrune"]["llm"] = "gpt"
    return content


def test_a_budget_in_dollars_needs_prices(paper):
    paper["calls"] = {"budget": {"dollars": 5}}
    load(paper)
    del paper["llms"]["gpt"]["price"]
    with pytest.raises(InputError, match=r"llms\.gpt\.price: missing"):
        load(paper)


def test_the_estimate_says_when_the_budget_will_not_do_and_knows_the_batch_discount(paper):
    def lines(**changes):
        config = load({**paper, "llms": {**paper["llms"], "gpt": {**paper["llms"]["gpt"], **changes}}})
        sizes = {"haldrune": plan.sizes_of(config, "haldrune", {})}
        return config, plan.plan(config, [plan.Job("write_pairs", {"dataset": "haldrune"}, plan.API)], sizes)

    paper["calls"] = {"budget": {"dollars": 0.01}}
    config, full = lines()
    assert "calls.budget.dollars: $0.01 is less than" in plan.over_budget(config, full)
    _, half = lines(batch=True)
    assert half[0].dollars == pytest.approx(full[0].dollars / 2)
