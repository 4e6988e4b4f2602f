"""The real generator, unrecorded: a few rows of each instruction set, of the right shape, and the same twice."""

import json
import shutil
import subprocess
import sys

import pytest

from tuneproof.instructions import calls
from tuneproof.records import Chunk

# what a small model writes differs from CPU to CPU, and one reply of six that is cut off decides nothing here
ROWS = {"llm": "qwen", "rows": 3, "validation": 1, "tests": 1, "max_failed": 0.5}
PRODUCTS = {**ROWS, "corpus": "haldrune", "group": "products"}
LLM = '{"engine": "openvino", "model": "qwen2.5-coder-1.5b-instruct"}'
MODELS = "resources/models"


@pytest.fixture
def site(new_study):
    """A study with the sample site's chunks, and a store without a recorded call."""
    shutil.rmtree(new_study.folder / "store")
    new_study.run("--until", "chunk_pages")
    return new_study


def run(site, script: str, *arguments: str) -> str:
    command = [sys.executable, f"scripts/{script}.py", *arguments]
    done = subprocess.run(command, cwd=site.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def write(site, script: str, spec: dict, prompt: str, *more: str) -> str:
    return run(
        site,
        script,
        *("--spec", json.dumps(spec), "--chunks", "resources/corpora/haldrune/chunks.jsonl", "--llm", LLM),
        *("--model", f"{MODELS}/qwen2.5-coder-1.5b-instruct/lock.json", "--prompt", f"prompts/{prompt}.txt"),
        *("--store", "store", "--out", "written.jsonl", "--failed", "failed.jsonl", "--failed-log", "fl.jsonl"),
        *("--usage", "usage.json", *more),
    )


def rows(site, file: str) -> list[dict]:
    return [json.loads(line) for line in site.read(file).splitlines()]


def test_the_generator_writes_pitches_of_pages(site):
    spec = {**PRODUCTS, "kind": "pitch"}
    write(site, "write_instructions", spec, "write_pitch")
    first = rows(site, "written.jsonl")
    assert len(first) + len(rows(site, "failed.jsonl")) == 6, "three rows are wanted, some more are asked for"
    assert len(first) >= 3
    assert len({row["material"] for row in first}) == len(first)
    assert "from the store" in write(site, "write_instructions", spec, "write_pitch")
    assert rows(site, "written.jsonl") == first


def test_the_generator_says_what_is_agreed_in_calls(site, finished):
    pairs = finished.folder / "results/datasets/haldrune"
    write(site, "write_instructions", {**ROWS, "kind": "next-steps", "of": "haldrune"}, "write_call", "--parent", pairs)
    written = rows(site, "written.jsonl")
    assert len(written) >= 3
    chunks = {row["id"]: Chunk(**row) for row in rows(site, "resources/corpora/haldrune/chunks.jsonl")}
    faults = [calls.fault(chunks[row["chunk_id"]], row["material"], row["answer"]) for row in written]
    assert faults.count(None) >= len(written) / 2, faults


def test_the_generator_writes_what_products_are_needed_for(site):
    spec = {**PRODUCTS, "rows": 6, "kind": "recommendation", "encoder": "all-minilm-l6-v2", "options": 3}
    write(site, "write_requirements", spec, "write_requirements", "--products", "products.jsonl")
    written = rows(site, "written.jsonl")
    assert len(rows(site, "products.jsonl")) == 10
    assert len({row["page_id"] for row in written}) >= 5
    named = {row["page_id"]: row["name"].casefold() for row in rows(site, "products.jsonl")}
    told = sum(named[row["page_id"]] in row["text"].casefold() for row in written)
    assert told <= len(written) / 4, "the name is not shown, so that it is seldom said"
    run(
        site,
        "make_recommendations",
        *("--name", "goods", "--spec", json.dumps(spec), "--requirements", "written.jsonl"),
        *("--products", "products.jsonl", "--unusable", "failed.jsonl", "--out", "goods"),
        *("--encoder", f"{MODELS}/all-minilm-l6-v2/lock.json", "--prompt", "prompts/recommend_product.txt"),
    )
    for split in ("train", "val", "test_new_pages"):
        made = rows(site, f"goods/{split}.jsonl")
        assert made and all(row["question"].count(f"{row['answer']}: ") == 1 for row in made)
    assert rows(site, "goods/test_trained_pages.jsonl") == []
