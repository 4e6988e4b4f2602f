"""What a model has answered is never asked again, and a killed run ends with the replies of an undisturbed one."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from llm_server import FaultServer

from tuneproof.llm.calls import Reply, Request
from tuneproof.llm.client import complete, usage
from tuneproof.llm.store import Store, compact, entries

ENGINE = "fake-1.0@0123456789ab"


def request(n):
    return Request([{"role": "user", "content": f"Question {n}?"}], max_tokens=8)


class Engine:
    """Injects faults and keeps a record. Like a real one, its reply depends on all that is in the group."""

    def __init__(self, group_size=4, dies_in_group=None, seconds=0.0):
        self.id, self.group_size = ENGINE, group_size
        self.groups, self._dies_in_group, self._seconds = [], dies_in_group, seconds

    def answer(self, requests, done):
        if len(self.groups) == self._dies_in_group:
            raise RuntimeError("out of memory")
        self.groups.append([r.messages[0]["content"] for r in requests])
        time.sleep(self._seconds)
        done(len(requests))
        together = hashlib.sha256(json.dumps(self.groups[-1]).encode()).hexdigest()[:8]
        return [Reply(f"{g} with {together}", 5, 3, "stop") for g in self.groups[-1]]


def ask(folder, numbers, engine):
    answered = complete([request(n) for n in numbers], ENGINE, lambda: engine, Store(folder, ENGINE), "test")
    return [a.reply.text for a in answered]


def undisturbed(tmp_path, numbers, group_size=4):
    return ask(tmp_path / "undisturbed", numbers, Engine(group_size))


def segments(folder):
    return sorted(folder.glob("*/*.jsonl"))


def python(root, program, **options):
    path = os.pathsep.join(str(root / part) for part in ("scripts", "tests", "tests/unit"))
    own = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.Popen([sys.executable, "-c", program], env={**own, "PYTHONPATH": path}, **options)


def never():
    raise AssertionError("the engine was started")


# --- asking ---


def test_answers_come_in_the_order_of_the_requests(tmp_path):
    replies = ask(tmp_path, [3, 1, 2], Engine())
    assert [r.split("?")[0] for r in replies] == ["Question 3", "Question 1", "Question 2"]


def test_an_answered_call_is_never_asked_again(tmp_path):
    first = ask(tmp_path, range(10), Engine())
    engine = Engine()
    assert ask(tmp_path, range(10), engine) == first
    assert engine.groups == []


def test_the_engine_is_not_started_when_every_call_is_known(tmp_path, capsys):
    ask(tmp_path, range(6), Engine())
    complete([request(n) for n in range(6)], ENGINE, never, Store(tmp_path, ENGINE), "write pairs")
    assert "write pairs: all 6 calls from the store" in capsys.readouterr().err


def test_no_requests_need_no_engine(tmp_path):
    assert complete([], ENGINE, never, Store(tmp_path, ENGINE), "test") == []
    assert segments(tmp_path) == []


def test_a_request_that_stands_twice_is_asked_once_and_answered_twice(tmp_path):
    engine = Engine()
    replies = ask(tmp_path, [1, 2, 1, 1, 3], engine)
    assert engine.groups == [["Question 1?", "Question 2?", "Question 3?"]]
    assert replies[0] == replies[2] == replies[3]


def test_a_call_is_paid_for_once_in_the_usage(tmp_path):
    requests = [request(n) for n in (1, 2, 1)]
    answered = complete(requests, ENGINE, Engine, Store(tmp_path, ENGINE), "test")
    assert usage("judge", "qwen", answered) == {
        "stage": "judge",
        "llm": "qwen",
        "served": [],
        "calls": 2,
        "prompt_tokens": 10,
        "completion_tokens": 6,
        "cached_tokens": 0,
        "dollars": 0.0,
        "repairs": 0,
        "unusable": 0,
    }


def test_an_engine_of_another_identity_is_refused(tmp_path):
    with pytest.raises(AssertionError, match="was started for other"):
        complete([request(1)], "other", Engine, Store(tmp_path, "other"), "test")


@pytest.mark.parametrize(
    "other",
    [
        Request([{"role": "user", "content": "Question 2?"}], max_tokens=8),
        Request([{"role": "system", "content": "Question 1?"}], max_tokens=8),
        Request([{"role": "user", "content": "Question 1?"}], max_tokens=9),
        Request([{"role": "user", "content": "Question 1?"}], max_tokens=8, prefill="[RESULT] "),
        Request([{"role": "user", "content": "Question 1?"}], max_tokens=8, schema={"type": "object"}),
        Request([{"role": "user", "content": "Question 1?"}], max_tokens=8, choices=["1", "2"]),
    ],
)
def test_whatever_changes_a_reply_changes_the_address_of_the_call(other):
    assert other.key(ENGINE) != request(1).key(ENGINE)


def test_the_address_holds_the_engine_and_stays_the_same_across_versions_of_this_program():
    assert request(1).key(ENGINE) != request(1).key("another")
    assert request(1).key(ENGINE) == "a01a3b81b1398019bde48feb3670021b"


# --- groups ---


def test_groups_are_cut_from_the_whole_list_whatever_is_known(tmp_path):
    whole = [[f"Question {n}?" for n in range(i, min(i + 4, 10))] for i in (0, 4, 8)]
    engine = Engine()
    ask(tmp_path / "a", range(10), engine)
    assert engine.groups == whole

    ask(tmp_path / "b", [5], Engine())  # one call of the second group is known from elsewhere
    engine = Engine()
    ask(tmp_path / "b", range(10), engine)
    assert engine.groups == whole


def test_what_is_stored_stays_as_it_was_when_its_group_is_asked_again(tmp_path):
    [before] = ask(tmp_path, [5], Engine())
    assert ask(tmp_path, range(10), Engine())[5] == before
    lines = [line for segment in segments(tmp_path) for line in segment.read_text().splitlines()]
    assert len(lines) == 10  # the reply that was known is not stored a second time


@pytest.mark.parametrize("group", [0, 1, 2])
def test_an_engine_that_dies_keeps_the_groups_before_and_the_rerun_ends_like_an_undisturbed_run(tmp_path, group):
    with pytest.raises(RuntimeError, match="out of memory"):
        ask(tmp_path, range(10), Engine(dies_in_group=group))
    assert len(Store(tmp_path, ENGINE)) == 4 * group

    engine = Engine()
    assert ask(tmp_path, range(10), engine) == undisturbed(tmp_path, range(10))
    assert len(engine.groups) == 3 - group


# --- files ---


def test_engines_have_folders_of_their_own(tmp_path):
    for engine in ("openvino-1.0.qwen@abc.c48g128", "a/b c"):
        Store(tmp_path, engine).put([("key", request(1), Reply("text", 1, 1, "stop"))])
    assert {p.name for p in tmp_path.iterdir()} == {"openvino-1.0.qwen_abc.c48g128", "a_b_c"}


def test_a_stored_call_holds_request_and_reply_for_the_reader(tmp_path):
    ask(tmp_path, [1], Engine())
    [entry] = [json.loads(line) for line in segments(tmp_path)[0].read_text().splitlines()]
    assert entry["key"] == request(1).key(ENGINE)
    assert entry["request"]["messages"] == request(1).messages
    assert entry["reply"]["finish_reason"] == "stop"


def test_a_reply_comes_back_as_it_was(tmp_path):
    reply = Reply("Brückmoor\n\u2028„x“", 7, 3, "length", {"1": 0.125, "2": 0.875})
    Store(tmp_path, ENGINE).put([("key", request(1), reply)])
    assert Store(tmp_path, ENGINE).get("key") == reply


def test_two_processes_write_two_segments_and_read_both(root, tmp_path):
    processes = [ask_in_process(root, tmp_path, first, first + 4) for first in (0, 4)]
    assert [p.wait() for p in processes] == [0, 0]
    assert len(segments(tmp_path)) == 2
    assert len(Store(tmp_path, ENGINE)) == 8


def test_a_torn_last_line_is_dropped_and_reported(tmp_path, capsys):
    first = ask(tmp_path, range(4), Engine())
    [segment] = segments(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-20])
    capsys.readouterr()
    assert len(Store(tmp_path, ENGINE)) == 3
    assert re.search(rf"{segment} byte \d+: torn", capsys.readouterr().err)
    assert ask(tmp_path, range(4), Engine()) == first


def test_wherever_the_last_write_was_torn_the_rerun_ends_like_an_undisturbed_run(tmp_path):
    expected = undisturbed(tmp_path, range(7), group_size=3)
    [whole] = segments(tmp_path / "undisturbed")
    content = whole.read_bytes()
    for length in [0, *random.Random(1).sample(range(len(content)), 60), len(content) - 1]:
        torn = tmp_path / f"torn{length}"
        segment = torn / whole.parent.name / whole.name
        segment.parent.mkdir(parents=True)
        segment.write_bytes(content[:length])
        assert ask(torn, range(7), Engine(3)) == expected, length


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b'{"key": "half', "JSONDecodeError"),
        (b'{"key": "k", "request": {}}', "KeyError('reply')"),
        (b'{"key": "k", "request": {}, "reply": {"text": "no tokens"}}', "TypeError"),
        (b'{"key": "\xff"}', "UnicodeDecodeError"),
        (b"[]", "no object"),
        (b"", "JSONDecodeError"),
        (bytes(4096), ""),  # a hole, as a crash of a file server leaves it
    ],
)
def test_a_broken_line_in_the_middle_is_named_skipped_and_asked_again(tmp_path, capsys, run_script, line, cause):
    first = ask(tmp_path, range(4), Engine())
    [segment] = segments(tmp_path)
    lines = segment.read_bytes().split(b"\n")
    place = f"{segment} byte {len(lines[0]) + 1}: {cause}"
    lines[1] = line
    segment.write_bytes(b"\n".join(lines))
    assert len(Store(tmp_path, ENGINE)) == 3
    assert place in capsys.readouterr().err

    verified = run_script("llm_store", "verify", "--store", tmp_path)
    assert verified.returncode and place in verified.stderr and "1 damaged lines, 3 other calls" in verified.stderr
    assert "1 segments are one of 3 calls" in run_script("llm_store", "compact", "--store", tmp_path).stdout
    assert (segment.parent / "damaged.txt").read_bytes() == line + b"\n"
    assert run_script("llm_store", "verify", "--store", tmp_path).returncode == 0
    assert ask(tmp_path, range(4), Engine()) == first


def test_compact_keeps_a_second_reply_that_differs_and_the_first_still_counts(tmp_path):
    key = request(0).key(ENGINE)
    for text in ("first", "first", "second"):  # three jobs that asked at the same time
        Store(tmp_path, ENGINE).put([(key, request(0), Reply(text, 1, 1, "stop"))])
    [folder] = {segment.parent for segment in segments(tmp_path)}
    compact(folder)
    [whole] = segments(tmp_path)
    assert sorted(line["reply"].text for line in entries(whole)) == ["first", "second"]
    assert Store(tmp_path, ENGINE).get(key).text == "first"


# --- several processes ---


def test_a_look_finds_what_others_have_stored_since_and_reads_nothing_twice(tmp_path, capsys):
    ours, theirs = Store(tmp_path, ENGINE), Store(tmp_path, ENGINE)
    reply = Reply("text", 1, 1, "stop")
    for key in ("a", "b"):
        ours.put([(f"our {key}", request(1), reply)])
        theirs.put([(key, request(1), reply)])
        assert ours.refresh() == {key}
        assert ours.refresh() == set()
    [segment] = theirs._own
    whole = segment.read_bytes()
    with segment.open("ab") as stream:
        for half in (whole[:50], whole[50:]):  # another process is seen in the middle of a write
            stream.write(half)
            stream.flush()
            assert ours.refresh() == (set() if half == whole[:50] else {"a", "b"})


def test_jobs_that_want_the_same_calls_at_once_share_them(root, tmp_path):
    server = FaultServer(delay=0.03)
    program = (
        "import random, sys; from pathlib import Path; from types import SimpleNamespace; import test_faults as t; "
        "from tuneproof.llm import client; client._LOOK_S = 0.1; print('ready', flush=True); sys.stdin.readline(); "
        f"t.ask(SimpleNamespace(url={server.url!r}), Path({str(tmp_path)!r}), range(600), max_concurrent=8)"
    )
    jobs = [python(root, program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for job in jobs:
        job.stdout.readline()
    for job in jobs:
        job.stdin.write("go\n")
        job.stdin.flush()
    assert [job.wait() for job in jobs] == [0, 0]
    server.close()
    assert len(server.answers) == 600
    assert sum(server.answers.values()) < 900, "in the same order, never looking, 1,200"


# --- kills ---


def ask_in_process(root, folder, first, last, seconds=0.0):
    program = (
        "import test_store as t; from pathlib import Path; print('asking', flush=True); "
        f"t.ask(Path({str(folder)!r}), range({first}, {last}), t.Engine(seconds={seconds}))"
    )
    return python(root, program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments_a_run_ends_like_an_undisturbed_one(root, tmp_path, seed):
    numbers, moments = range(40), random.Random(seed)
    for _ in range(3):
        with ask_in_process(root, tmp_path / "killed", 0, 40, seconds=0.15) as process:
            process.stdout.readline()  # "asking": from here, ten groups of 150 ms
            time.sleep(moments.uniform(0.0, 0.35))
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, "the kill came too late to show anything"
    assert ask(tmp_path / "killed", numbers, Engine()) == undisturbed(tmp_path, numbers)
