"""The engine for chat completions, over real HTTP against a small server of our own, and the judge that writes."""

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tuneproof.errors import InputError
from tuneproof.llm import api
from tuneproof.llm.api import most_written
from tuneproof.llm.calls import Reply, Request
from tuneproof.llm.client import Answered
from tuneproof.llm.engines import complete_with
from tuneproof.records import Answer, Chunk, Example, Pair, Score, read_json, read_rows, write_rows
from tuneproof.scores import judge
from tuneproof.study import (
    ApiLLM,
    Budget,
    Calls,
    Config,
    Price,
    calls_variable,
    llm_parameter,
    llms_of,
    load,
    missing_keys,
    parse_llm,
)

KEY = "sk-test-0123456789"


class Endpoint:
    """Chat completions on a free loopback port: records what it is asked and answers with the last message reversed."""

    def __init__(self):
        self.asked, self.keys, self.served, self.refuse = [], [], "tiny-1-2030-01-31", []
        self.top = [("4", -0.5), (" 4", -3.0), ("5", -1.5), ("Score", -4.0)]
        self.barrier = self.content = None
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.asked.append(body)
                endpoint.keys.append(self.headers["Authorization"])
                if endpoint.barrier:
                    endpoint.barrier.wait(10)
                status = endpoint.refuse.pop(0) if endpoint.refuse else 200
                reply = endpoint.reply(body) if status == 200 else endpoint.refusal(self.headers["Authorization"])
                content = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Retry-After", "0.01")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reply(self, body):
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": self.content or body["messages"][-1]["content"][::-1]},
        }
        if body.get("logprobs"):
            tokens = [{"token": token, "logprob": value, "bytes": None} for token, value in self.top]
            choice["logprobs"] = {"content": [{**tokens[0], "top_logprobs": tokens}]}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        head = {"id": "c", "object": "chat.completion", "created": 0, "model": self.served}
        return {**head, "choices": [choice], "usage": usage}

    @staticmethod
    def refusal(authorization):
        return {"error": {"message": f"no: {authorization}", "type": "refused", "code": None, "param": None}}


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("TINY_KEY", KEY)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = Endpoint()
    yield running
    running.server.shutdown()


def llm(endpoint, **changes):
    return ApiLLM(engine="openai", model="tiny-1", base_url=endpoint.url, key_env="TINY_KEY", **changes)


def request(text="Question 1?", **changes):
    return Request([{"role": "user", "content": text}], max_tokens=8, **changes)


def ask(endpoint, store, requests, **changes):
    return complete_with(llm(endpoint, **changes), None, requests, store, "test")


def test_replies_come_in_order_with_tokens_and_the_model_that_served_them(endpoint, tmp_path):
    answered = ask(endpoint, tmp_path, [request(f"Question {n}?") for n in range(5)], max_concurrent=3)
    assert [a.reply for a in answered] == [
        Reply(f"?{n} noitseuQ", 7, 3, "stop", served="tiny-1-2030-01-31") for n in range(5)
    ]


def test_decoding_is_greedy_and_the_key_goes_to_the_endpoint_alone(endpoint, tmp_path):
    ask(endpoint, tmp_path, [request()])
    assert endpoint.asked == [
        {
            "model": "tiny-1",
            "messages": [{"role": "user", "content": "Question 1?"}],
            "max_tokens": 8,
            "temperature": 0,
        }
    ]
    assert endpoint.keys == [f"Bearer {KEY}"]
    assert KEY not in "".join(p.read_text() for p in tmp_path.rglob("*.jsonl"))


def test_requests_are_under_way_at_once(endpoint, tmp_path):
    endpoint.barrier = threading.Barrier(4)  # passes only when four requests wait at the server
    ask(endpoint, tmp_path, [request(f"Question {n}?") for n in range(4)], max_concurrent=4)
    assert len(endpoint.asked) == 4


def test_only_what_the_store_does_not_know_is_asked_and_paid_for(endpoint, tmp_path):
    ask(endpoint, tmp_path, [request("A"), request("C")])
    endpoint.asked.clear()
    ask(endpoint, tmp_path, [request("A"), request("B"), request("C")])
    assert [body["messages"][0]["content"] for body in endpoint.asked] == ["B"]


def test_a_schema_is_sent_as_response_format(endpoint, tmp_path):
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    ask(endpoint, tmp_path, [request(schema=schema)])
    shape = {"name": "reply", "schema": schema, "strict": True}
    assert endpoint.asked[0]["response_format"] == {"type": "json_schema", "json_schema": shape}


def test_choices_are_answered_from_the_first_tokens_candidates(endpoint, tmp_path):
    wanted = request(prefill="[RESULT] ", choices=["1", "2", "3", "4", "5"])
    [answered] = ask(endpoint, tmp_path, [wanted])
    four, five = math.exp(-0.5) + math.exp(-3.0), math.exp(-1.5)
    expected = {"1": 0.0, "2": 0.0, "3": 0.0, "4": four / (four + five), "5": five / (four + five)}
    assert answered.reply.distribution == pytest.approx(expected)
    asked = endpoint.asked[0]
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 20)
    assert asked["messages"][-1]["content"].endswith("Reply with exactly one of 1, 2, 3, 4, 5 and nothing else.")


def test_a_first_token_that_is_no_choice_gives_no_distribution_and_no_score(endpoint, tmp_path):
    endpoint.top = [("Score", -0.1)]
    [answered] = ask(endpoint, tmp_path, [request(choices=["1", "2", "3", "4", "5"])])
    assert answered.reply.distribution == {}
    assert judge.expected_score(answered.reply.distribution) is None


def test_a_begun_reply_is_refused(endpoint, tmp_path):
    with pytest.raises(InputError, match="begun reply"):
        ask(endpoint, tmp_path, [request(prefill="Well, ")])


def test_another_model_than_asked_for_ends_the_job(endpoint, tmp_path):
    endpoint.served = "tiny-2"
    with pytest.raises(InputError, match="'tiny-2' answered, expected 'tiny-1'"):
        ask(endpoint, tmp_path, [request()])


def test_a_busy_server_is_asked_again(endpoint, tmp_path):
    endpoint.refuse = [429, 503]
    assert len(ask(endpoint, tmp_path, [request()])) == 1
    assert len(endpoint.asked) == 3


def test_a_refusal_is_one_sentence_without_the_key(endpoint, tmp_path):
    endpoint.refuse = [401]
    with pytest.raises(InputError) as error:
        ask(endpoint, tmp_path, [request()])
    assert "tiny-1 at 127.0.0.1" in str(error.value)
    assert "HTTP status 401" in str(error.value)
    assert KEY not in str(error.value)


def test_without_a_key_nothing_is_asked_but_the_store_still_answers(endpoint, tmp_path, monkeypatch):
    known = ask(endpoint, tmp_path, [request()])
    monkeypatch.delenv("TINY_KEY")
    assert ask(endpoint, tmp_path, [request()]) == known
    with pytest.raises(InputError, match="no TINY_KEY"):
        ask(endpoint, tmp_path, [request("Another?")])


def test_an_endpoint_of_ones_own_may_need_no_key(endpoint, tmp_path):
    own = ApiLLM(engine="openai", model="tiny-1", base_url=endpoint.url, key_env=None)
    assert complete_with(own, None, [request()], tmp_path, "test")


def test_the_address_says_who_answers(monkeypatch):
    def named(url=None, **more):
        return api.engine_id(ApiLLM(engine="openai", model="m", base_url=url, **more))

    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert api.url_of(ApiLLM(engine="openai", model="m")) == "https://api.openai.com/v1"
    assert named() == named("https://api.openai.com/v1/") == "openai.api.openai.com.m"
    assert named("https://gw/v1/a") != named("https://gw/v1/b"), "two behind one host"
    assert named("http://node1:8000/v1", provider="ours") == named("http://node2:8000/v1", provider="ours")


def test_under_a_provider_s_name_another_address_reruns_nothing(endpoint):
    here = llm(endpoint, provider="ours")
    there = here.model_copy(update={"base_url": "http://elsewhere/v1"})
    assert llm_parameter("tiny", here) == llm_parameter("tiny", there)
    config = Config.model_construct(llms={"tiny": here}, calls=Calls())
    assert parse_llm(llm_parameter("tiny", there), calls_variable(config))[0] == here


def test_a_password_in_an_address_is_refused_and_not_shown():
    with pytest.raises(InputError, match="without user and password") as error:
        parse_llm(json.dumps({"engine": "openai", "model": "m", "base_url": "https://me:secret@h/v1"}))
    assert "secret" not in str(error.value)


def test_a_section_comes_back_as_the_engine_it_names(endpoint):
    assert parse_llm(llm(endpoint).model_dump_json())[0] == llm(endpoint)


def test_how_an_api_is_asked_is_no_parameter_of_a_rule_and_reaches_the_script_all_the_same(endpoint):
    cheap = llm(endpoint, price=Price(input=1, output=2), max_concurrent=3, batch=True, served="tiny-2")
    config = Config.model_construct(llms={"tiny": cheap}, calls=Calls(budget=Budget(dollars=5)))
    assert llm_parameter("tiny", cheap) == llm_parameter("tiny", llm(endpoint))
    assert parse_llm(llm_parameter("tiny", cheap), calls_variable(config)) == (cheap, config.calls)
    assert llm_parameter("tiny", llm(endpoint, body={"seed": 1})) != llm_parameter("tiny", llm(endpoint))


def test_the_body_is_said_with_every_request_and_null_leaves_a_field_of_ours_out(endpoint, tmp_path):
    body = {"max_tokens": None, "max_completion_tokens": 4000, "temperature": None, "reasoning_effort": "low"}
    ask(endpoint, tmp_path, [request()], body=body)
    said = {key: value for key, value in endpoint.asked[0].items() if key not in ("model", "messages")}
    assert said == {"max_completion_tokens": 4000, "reasoning_effort": "low"}
    ask(endpoint, tmp_path, [request()])
    assert len(endpoint.asked) == 2, "another body is another call"


def test_what_the_body_lets_a_model_write_is_what_the_budget_sets_aside(endpoint):
    thinks = llm(endpoint, body={"max_tokens": None, "max_completion_tokens": 4000})
    assert (most_written(thinks, request()), most_written(llm(endpoint), request())) == (4000, 8)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"model": "x"}, "'model' is for the client to say"),
        ({"max_tokens": None}, "expected max_completion_tokens"),
        ({"max_tokens": None, "max_completion_tokens": "many"}, "max_completion_tokens: 'many'"),
    ],
)
def test_a_body_that_breaks_the_client_is_refused(endpoint, body, said):
    with pytest.raises(ValueError, match=said):
        llm(endpoint, body=body)


def test_a_model_may_answer_under_a_name_of_its_own(endpoint, tmp_path):
    endpoint.served = "models/tiny-large"
    assert ask(endpoint, tmp_path, [request()], served="tiny-large")


# --- the scripts, as the rules call them: an API has no lock, so --model stands there empty ---


def run_with_key(run_script, script, **arguments):
    line = [part for key, value in arguments.items() for part in (f"--{key}", *value)]
    return run_script(script, *line, env={"TINY_KEY": KEY})


def test_write_pairs_asks_the_api(endpoint, tmp_path, root, run_script):
    pair = {"quote": "CV1 opened in 2019.", "question": "When did CV1 open?", "answer": "In 2019."}
    endpoint.content = json.dumps({"pairs": [pair]})
    write_rows(tmp_path / "chunks.jsonl", [Chunk("c", "p", "u", "g", ["CV1"], "CV1 opened in 2019. " * 9, 60)])
    outputs = {name: [tmp_path / f"{name}.json"] for name in ("out", "failed", "failed-log", "usage")}
    done = run_with_key(
        run_script,
        "write_pairs",
        chunks=[tmp_path / "chunks.jsonl"],
        spec=[json.dumps({"corpus": "c", "llm": "tiny", "pairs_per_chunk": 1})],
        llm=[llm(endpoint).model_dump_json()],
        model=[],
        prompt=[root / "prompts" / "write_pairs.txt"],
        store=[tmp_path / "store"],
        **outputs,
    )
    assert done.returncode == 0, done.stderr
    assert [p.question for p in read_rows(tmp_path / "out.json", Pair)] == [pair["question"]]
    usage = read_json(tmp_path / "usage.json")
    assert (usage["llm"], usage["calls"], usage["prompt_tokens"]) == ("tiny-1", 1, 7)


@pytest.mark.parametrize(("max_failed", "fails"), [(1, False), (0.2, True)])
def test_the_judge_asks_the_api_and_counts_the_replies_that_give_no_score(
    endpoint, tmp_path, root, run_script, max_failed, fails
):
    write_rows(tmp_path / "tests.jsonl", [Example("e", "p", "c", "g", "u", "a", "test_new_pages", "Q?", "A.", [])])
    write_rows(
        tmp_path / "answers.jsonl", [Answer("a", "e", "m/base", "closed", "test_new_pages", "B.", 2, True, [], "k")]
    )
    done = run_with_key(
        run_script,
        "judge",
        answers=[tmp_path / "answers.jsonl"],
        tests=[tmp_path / "tests.jsonl"],
        name=["gpt"],
        scoring=["generated"],
        llm=[llm(endpoint).model_dump_json()],
        model=[],
        prompt=[root / "prompts" / "judge.paper.txt"],
        store=[tmp_path / "store"],
        out=[tmp_path / "scores.jsonl"],
        usage=[tmp_path / "usage.json"],
        **{"failed-log": [tmp_path / "log.jsonl"], "max-failed": [max_failed]},
    )
    assert "judge gpt: 1 of 1 replies give no score" in done.stderr
    assert done.returncode == fails, done.stderr
    assert json.loads((tmp_path / "log.jsonl").read_text())["reason"] == "no score in the reply"
    if fails:
        assert f"more than max_failed 0.2; see {tmp_path / 'log.jsonl'}" in done.stderr
        assert not (tmp_path / "scores.jsonl").exists()
    else:
        assert [s.score for s in read_rows(tmp_path / "scores.jsonl", Score)] == [None]
        assert read_json(tmp_path / "usage.json")["unusable"] == 1
    assert KEY not in done.stderr


# --- keys ---


@pytest.fixture
def config(root):
    import yaml

    content = yaml.safe_load((root / "config.yaml").read_text())
    content["llms"]["gpt"] = {"engine": "openai", "model": "gpt-x"}
    content["judges"]["gpt"] = {"llm": "gpt", "scoring": "generated"}
    return content


def test_a_key_that_the_environment_has_not_is_named_once_with_who_needs_it(config):
    config["llms"]["gpt-2"] = config["llms"]["gpt"]
    loaded = load(config)
    sentence = "the environment has no OPENAI_API_KEY, expected the key of llms.gpt and llms.gpt-2"
    assert missing_keys(loaded, {}, ["gpt-2", "qwen", "gpt"]) == [sentence]
    assert missing_keys(loaded, {"OPENAI_API_KEY": ""}, ["gpt", "gpt-2"]) == [sentence]
    assert missing_keys(loaded, {"OPENAI_API_KEY": KEY}, ["gpt", "gpt-2"]) == []


def test_in_replay_no_key_is_needed(config):
    assert missing_keys(load({**config, "calls": {"mode": "replay"}}), {}, ["gpt"]) == []


def test_an_llm_outside_the_study_needs_no_key(config):
    loaded = load(config)
    assert missing_keys(loaded, {}, llms_of(loaded)) == []


# --- the judge that writes its score ---


def test_a_written_score_is_asked_for_once_and_a_missing_one_stays_missing():
    example = Example("e", "p", "c", "g", "u", "a", "test_new_pages", "Q?", "A.", [])
    answer = Answer("a", "e", "m/base", "closed", "test_new_pages", "B.", 2, True, [], "k")
    template = "{instruction} {response} {reference_answer}"
    [asked] = judge.requests([answer], {"e": example}, template, "generated")
    assert (asked.max_tokens, asked.prefill, asked.choices) == (judge.FEEDBACK_TOKENS, "", None)
    said = "Feedback: about right, I think."
    [score] = judge.scores_from([answer], [Answered("k", Reply(said, 9, 9, "stop"))], "gpt", "generated")
    assert (score.score, score.raw, score.distribution) == (None, said, {})
