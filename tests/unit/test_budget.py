"""A budget is never passed, by one job or by several at once, and what it stopped goes on where it was."""

import json
import threading

import pytest
import yaml
from llm_server import FaultServer

from tuneproof import plan
from tuneproof.errors import InputError
from tuneproof.llm.budget import Account, Cost, Purse, accounts, at_most, by_stage, cost_of
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


def test_jobs_that_spend_at_once_do_not_pass_the_budget_together(server, tmp_path):
    refused = []

    def job(n):
        try:
            ask(server, tmp_path, range(1000 * n, 1000 * n + 400), Budget(dollars=0.6), max_concurrent=4)
        except InputError as error:
            refused.append(error)

    jobs = [threading.Thread(target=job, args=(n,)) for n in range(4)]
    for thread in jobs:
        thread.start()
    for thread in jobs:
        thread.join()
    assert len(refused) == 4
    assert 0.3 < spent(server) <= 0.6


def test_what_a_killed_job_may_have_spent_is_counted(tmp_path):
    killed = Purse(tmp_path, Account("a", "m", "p"), Budget(dollars=1), PRICE)
    assert killed.hold(Cost(1, 0.03))  # and never settled or closed
    [(_, account)] = accounts(tmp_path / LEDGER)
    claimed = account.committed.dollars
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
    [(_, account)] = accounts(tmp_path / LEDGER)
    assert account.committed.dollars == pytest.approx(0.1)
    assert (account.calls, account.unanswered, account.dollars) == (0, 1, 0.0)


@pytest.mark.parametrize(
    ("usage", "tokens"), [(None, None), ({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 900}, 900)]
)
def test_an_answer_costs_its_worst_without_usage_and_what_was_thought_counts(server, tmp_path, usage, tokens):
    server.usage = lambda body: usage
    ask(server, tmp_path, [1], Budget())
    [(_, account)] = accounts(tmp_path / LEDGER)
    assert account.committed.tokens == (
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
