"""Replies that must be JSON: checked here whatever the provider promised, repaired once, kept when that fails too."""

import json

import pytest
from llm_server import FaultServer
from pydantic import BaseModel, ConfigDict

from tuneproof.errors import InputError
from tuneproof.llm.calls import Request
from tuneproof.llm.client import failures, refuse_above
from tuneproof.llm.engines import complete_with, usage_of
from tuneproof.study import ApiLLM, Calls


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int


GOOD = json.dumps({"n": 1})


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("K", "key")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = FaultServer()
    running.content = lambda body: GOOD
    yield running
    running.close()


def llm(server, **options):
    return ApiLLM(engine="openai", model="tiny-1", base_url=server.url, key_env="K", **options)


def ask(server, folder, n=3, calls=None, **options):
    requests = [
        Request([{"role": "user", "content": f"row {i}"}], 8, schema=Shape.model_json_schema()) for i in range(n)
    ]
    return complete_with(llm(server, **options), None, requests, folder, "test", calls, Shape)


def broken(row, said="no JSON", always=False):
    """One row's reply does not fit; its repair does, or not."""

    def content(body):
        repair = len(body["messages"]) > 1
        return said if FaultServer.row(body) == row and (always or not repair) else GOOD

    return content


def test_a_reply_that_does_not_fit_is_asked_for_once_more_with_what_is_wrong_with_it(server, tmp_path):
    server.content = broken("row 1", '{"n": "x"}')
    answered = ask(server, tmp_path)
    assert [(a.reply.text, a.fault) for a in answered] == [(GOOD, "")] * 3
    assert answered[1].first.reply.text == '{"n": "x"}', "recorded as a repair"
    assert [a.first for a in answered if a is not answered[1]] == [None, None]
    repair = server.bodies[-1]
    assert repair["messages"][1] == {"role": "assistant", "content": '{"n": "x"}'}
    assert "n: Input should be a valid integer" in repair["messages"][2]["content"]
    assert repair["response_format"] == server.bodies[0]["response_format"]
    used = usage_of("test", llm(server), answered)
    assert (used["calls"], used["repairs"], used["unusable"]) == (4, 1, 0)


def test_first_and_second_reply_are_in_the_store_and_neither_is_asked_for_again(server, tmp_path):
    server.content = broken("row 1")
    first = ask(server, tmp_path)
    asked = len(server.bodies)
    assert ask(server, tmp_path) == first
    assert len(server.bodies) == asked == 4


def test_a_row_that_no_repair_helps_is_kept_with_its_texts_and_counted(server, tmp_path):
    server.content = broken("row 1", always=True)
    answered = ask(server, tmp_path)
    assert sum(server.attempts.values()) == 4, "one repair, no more"
    [failed] = failures(answered)
    assert failed["text"] == failed["text_before_repair"] == "no JSON"
    assert "Invalid JSON" in failed["reason"]
    assert usage_of("test", llm(server), answered)["unusable"] == 1


def test_the_repair_of_an_empty_reply_has_no_empty_turn(server, tmp_path):
    server.content = lambda body: GOOD if "not the JSON" in body["messages"][-1]["content"] else ""
    assert [a.fault for a in ask(server, tmp_path, 1)] == [""]
    assert [m["role"] for m in server.bodies[-1]["messages"]] == ["user"]


def test_a_stage_fails_only_above_its_share(tmp_path):
    failed = [{"reason": "no JSON"}]
    refuse_above(0.5, failed, 2, tmp_path)
    with pytest.raises(InputError, match=r"1 of 2 replies are unusable \(no JSON\), more than max_failed 0.4; see"):
        refuse_above(0.4, failed, 2, tmp_path)


def test_what_was_filtered_or_refused_is_not_repaired(server, tmp_path):
    server.faults = lambda row, attempt: {"row 0": "content filter", "row 1": "too long"}.get(row)
    answered = ask(server, tmp_path)
    assert [a.fault.split(":")[0] for a in answered] == ["content_filter", "refused", ""]
    assert sum(server.attempts.values()) == 3


def test_what_the_model_declines_is_not_repaired_and_its_words_are_kept(server, tmp_path):
    def declined(body, **_):
        said = FaultServer.completion(server, body, "")
        said["choices"][0]["message"] |= {"content": None, "refusal": "I cannot help with that."}
        return said

    server.completion = declined
    answered = ask(server, tmp_path, 1)
    assert sum(server.attempts.values()) == 1
    [row] = failures(answered)
    assert "I cannot help with that." in row["reason"]


def test_what_strict_mode_refuses_is_left_out_of_the_schema_and_checked_here(server, tmp_path):
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}, "maxLength": 1}
    complete_with(llm(server), None, [Request([{"role": "user", "content": "x"}], 8, schema=schema)], tmp_path, "t")
    sent = server.bodies[0]["response_format"]["json_schema"]["schema"]
    assert sent == {"type": "object", "properties": {"a": {"type": "string"}}, "maxLength": 1}


def test_an_endpoint_that_takes_no_schema_is_told_in_words_and_is_another_engine(server, tmp_path):
    ask(server, tmp_path)
    ask(server, tmp_path, json_schema=False)
    assert "response_format" not in server.bodies[-1]
    assert '"n"' in server.bodies[-1]["messages"][0]["content"]
    assert len(server.bodies) == 6


def test_in_replay_a_miss_is_named_by_its_address_and_nothing_is_asked(server, tmp_path):
    replay = Calls(mode="replay")
    known = ask(server, tmp_path, 2)
    assert ask(server, tmp_path, 2, replay) == known
    schema = Shape.model_json_schema()
    address = Request([{"role": "user", "content": "row 2"}], 8, schema=schema).key(
        f"openai.127.0.0.1:{server.port}.tiny-1"
    )
    with pytest.raises(InputError, match=f"no answer to 1 of 3 calls, the first of them {address}"):
        ask(server, tmp_path, 3, replay)
    assert len(server.bodies) == 2


def test_changing_one_row_asks_for_that_row_only(server, tmp_path):
    ask(server, tmp_path, 3)
    ask(server, tmp_path, 4)
    assert len(server.bodies) == 4


# --- the command over the store ---


def test_the_store_is_listed_verified_compacted_and_exported(server, tmp_path, run_script):
    def store(act, *more):
        done = run_script("llm_store", act, "--store", str(tmp_path), *more)
        return done.stdout if done.returncode == 0 else done.stderr

    for n in (2, 4):
        ask(server, tmp_path, n)
    before = ask(server, tmp_path, 4)
    assert "2 segments, 4 calls, 28 prompt and 12 completion tokens" in store("list")
    assert "4 calls of 1 engines are whole" in store("verify")
    exported = [json.loads(line) for line in store("export").splitlines()]
    assert sorted(e["request"]["messages"][0]["content"] for e in exported) == [f"row {i}" for i in range(4)]
    assert "2 segments are one of 4 calls" in store("compact")
    assert "1 segments, 4 calls" in store("list")
    assert "1 segments are one of 4 calls" in store("compact"), "again, and nothing is lost"
    assert ask(server, tmp_path, 4) == before
    assert "test: tiny-1 at 127.0.0.1" in store("ledger")
    [segment] = tmp_path.glob("openai*/*.jsonl")
    segment.write_text(segment.read_text().replace("row 3", "row 7"))
    assert f"{segment} byte" in store("verify")
    assert "is not the address of its request" in store("verify")
