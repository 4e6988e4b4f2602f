"""A study whose writer and judge are behind an API: killed once, resumed, nothing paid for twice, its key nowhere."""

import json
import os
import re
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
from conftest import Study
from copies import MODELS, copy_workflow, link_models
from llm_server import FaultServer

KEY = "sk-planted-9876543210abcdef"
STUDENT = "smollm2-135m-instruct"
NAMES = "Alder Birch Cedar Dogwood Elm Fir Ginkgo Hazel Ivy Juniper Kapok Larch".split()
MAKERS = "Oslo Bergen Turku Vaasa Malmo Lund Riga Tartu Narva Gdansk Sopot Elblag".split()
DATASET = "results/datasets/routers"
TARGETS = (
    f"{DATASET}/train.jsonl",
    f"results/answers/{STUDENT}/base/routers.closed.jsonl",
    f"results/scores/{STUDENT}/base/routers.closed.judge-api.jsonl",
)
REFUSED = "Kapok"  # whose refusal repeats the key, as some providers' do


def config(server):
    return {
        "study": {"name": "api", "datasets": ["routers"], "judges": ["api"], "base_modes": ["closed"]},
        "corpora": {
            "routers": {
                "folder": {"path": "corpus", "patterns": ["*.md"]},
                "chunks": {"max_tokens": 64},
                "encoder": "all-minilm-l6-v2",
            }
        },
        "datasets": {
            "routers": {
                "corpus": "routers",
                "llm": "api",
                "pairs_per_chunk": 1,
                "phrasings": 2,
                "near_duplicate": 1.0,
                "splits": {"test_pages": 0.25, "val_pages": 0.13, "max_trained_page_questions": 2},
            }
        },
        "llms": {
            "api": {
                "engine": "openai",
                "model": "tiny-1",
                "base_url": server.url,
                "key_env": "PLANTED_KEY",
                "max_concurrent": 2,
            }
        },
        "judges": {"api": {"llm": "api", "scoring": "generated"}},
        "decoding": {"max_new_tokens": 4},
    }


def page(name, maker):
    return (
        f"# {name} Router\n\nThe {name} Router was first assembled in {maker} by a small team of engineers. "
        f"Every customer who orders one receives it within nine working days, together with a printed manual.\n"
    )


def says(body):
    """What a good writer and a mild judge would say."""
    prompt = FaultServer.row(body)
    name = re.search(r"(\w+) Router", prompt)[1]
    maker = MAKERS[NAMES.index(name)]
    if "[RESULT]" in prompt:
        return "Feedback: near enough. [RESULT] 4"
    if prompt.startswith("Ask the same question"):
        others = [f"In which town was the {name} Router assembled first?", f"The {name} Router was assembled where?"]
        return json.dumps({"questions": others})
    quote = f"The {name} Router was first assembled in {maker} by a small team of engineers."
    question = f"Where was the {name} Router first assembled?"
    return json.dumps({"pairs": [{"quote": quote, "question": question, "answer": f"It was in {maker}."}]})


def faults(row, attempt):
    if row.startswith("Write") and f"{REFUSED} Router" in row:
        return "400"
    return ["503:0.05", "429:0.05", "reset", None, None, None][len(row) % 6] if attempt == 0 else None


@pytest.fixture
def study(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("PLANTED_KEY", KEY)
    server = FaultServer(faults, delay=0.3)
    server.content = says
    folder = copy_workflow(tmp_path / "study")
    link_models(folder)
    if (MODELS / STUDENT / "student").exists():  # it takes half a minute to prepare, and is no part of this
        shutil.copytree(MODELS / STUDENT / "student", folder / "resources/models" / STUDENT / "student")
        (folder / "resources/models" / STUDENT / "student/lock.json").touch()
    (folder / "corpus").mkdir()
    for name, maker in zip(NAMES, MAKERS, strict=True):
        (folder / "corpus" / f"{name.lower()}.md").write_text(page(name, maker))
    (folder / "api.yaml").write_text(json.dumps(config(server)))
    yield SimpleNamespace(server=server, folder=folder, runs=Study(folder))
    server.close()


def answered_in_store(folder):
    """The prompts that the store holds a text for; a line that a kill tore off is none."""
    lines = [line for path in folder.glob("store/llm/openai*/*.jsonl") for line in path.read_text().splitlines(True)]
    calls = [json.loads(line) for line in lines if line.endswith("\n")]
    return [FaultServer.row(call["request"]) for call in calls if call["reply"]["text"]]


def files_with(words, folder):
    own = (path for path in folder.rglob("*") if path.is_file() and "models" not in path.relative_to(folder).parts)
    return [str(path.relative_to(folder)) for path in own if words.encode() in path.read_bytes()]


@pytest.mark.slow
def test_killed_once_nothing_is_asked_twice_and_the_key_is_in_no_file(study):
    server, folder = study.server, study.folder
    process = study.runs.start(*TARGETS, config="api.yaml")
    until = time.monotonic() + 300
    while sum(server.answers.values()) < 5:
        assert process.poll() is None and time.monotonic() < until, study.runs.read("run.log")[-3000:]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    paid_for, sent = answered_in_store(folder), dict(server.attempts)
    assert 3 <= len(paid_for) < len(NAMES) - 1, "killed in the middle of write_pairs, two calls at most on the wire"

    study.runs.run(*TARGETS, config="api.yaml")
    assert {row: server.attempts[row] for row in paid_for} == {row: sent[row] for row in paid_for}
    stored = answered_in_store(folder)
    assert len(stored) == len(set(stored)) > 2 * len(paid_for)
    twice = [row for row, answers in server.answers.items() if answers > 1]
    assert len(twice) <= 2 and not set(twice) & set(paid_for), "asked again: what was on the wire at the kill"
    [score, *_] = [json.loads(line) for line in study.runs.read(TARGETS[2]).splitlines()]
    assert score["score"] == 4

    assert server.keys == {f"Bearer {KEY}"}
    assert f"{DATASET}/unusable.jsonl" in files_with("<key>", folder), "the refusal had repeated it"
    assert "api.yaml" in files_with("PLANTED_KEY", folder)
    assert files_with(KEY, folder) == []
