"""The real generator, unrecorded: a few rows of each instruction set, of the right shape, and the same twice."""

import json
import shutil
import subprocess
import sys

import pytest

ROWS = {"corpus": "haldrune", "group": "products", "llm": "qwen", "rows": 3, "validation": 1, "tests": 1}
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
    return subprocess.run(command, cwd=site.folder, check=True, capture_output=True, text=True).stderr


def write(site, script: str, spec: dict, prompt: str, *more: str) -> str:
    return run(
        site,
        script,
        *("--spec", json.dumps(spec), "--chunks", "resources/corpora/haldrune/chunks.jsonl", "--llm", LLM),
        *("--model", f"{MODELS}/qwen2.5-coder-1.5b-instruct/lock.json", "--prompt", f"prompts/{prompt}.txt"),
        *("--store", "store", "--out", "written.jsonl", "--failed", "failed.jsonl", "--usage", "usage.json", *more),
    )


def rows(site, file: str) -> list[dict]:
    return [json.loads(line) for line in site.read(file).splitlines()]


@pytest.mark.parametrize(("task", "prompt"), [("next-steps", "write_call"), ("pitch", "write_pitch")])
def test_the_generator_writes_about_the_page(site, task, prompt):
    spec = {**ROWS, "kind": "instructions", "task": task}
    write(site, "write_instructions", spec, prompt)
    first = rows(site, "written.jsonl")
    assert len(first) + len(rows(site, "failed.jsonl")) == 6, "three rows are wanted, some more are asked for"
    assert len(first) >= 5
    assert len({row["material"] for row in first}) == len(first)
    if task == "next-steps":
        assert all(row["material"].startswith("Customer: ") for row in first)
        assert all(line.split(": ")[0] in ("Customer", "Sales") for r in first for line in r["answer"].splitlines())
    assert "from the store" in write(site, "write_instructions", spec, prompt)
    assert rows(site, "written.jsonl") == first


def test_the_generator_writes_what_products_are_needed_for(site):
    spec = {**ROWS, "kind": "recommendation", "encoder": "all-minilm-l6-v2", "options": 3}
    write(site, "write_requirements", spec, "write_requirements", "--products", "products.jsonl")
    written = rows(site, "written.jsonl")
    assert len(rows(site, "products.jsonl")) == 11
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
        [row] = rows(site, f"goods/{split}.jsonl")
        assert row["question"].count(f"{row['answer']}: ") == 1
    assert rows(site, "goods/test_trained_pages.jsonl") == []
    assert "# Data set goods" in site.read("goods/card.md")
