"""The real generator, unrecorded: it writes pairs that pass the checks, and says the same twice."""

import json
import shutil
import subprocess
import sys

from tuneproof.pairs.screen import quote_in


def test_the_generator_writes_grounded_pairs(new_study):
    shutil.rmtree(new_study.folder / "store")
    new_study.run("--until", "chunk_pages")
    lines = new_study.read("resources/corpora/haldrune/chunks.jsonl").splitlines()
    chunks = [line for line in lines if "Haldrune Corvane CV1" in line][:1] + lines[:1]
    (new_study.folder / "two.jsonl").write_text("\n".join(chunks) + "\n")
    spec = {"corpus": "haldrune", "llm": "qwen", "pairs_per_chunk": 2}
    command = [
        *(sys.executable, "scripts/write_pairs.py", "--chunks", "two.jsonl", "--spec", json.dumps(spec)),
        *("--llm", '{"engine": "openvino", "model": "qwen2.5-coder-1.5b-instruct"}'),
        *("--model", "resources/models/qwen2.5-coder-1.5b-instruct/lock.json"),
        *("--prompt", "prompts/write_pairs.txt", "--store", "store", "--out", "w.jsonl", "--failed", "f.jsonl"),
        *("--failed-log", "fl.jsonl", "--usage", "u.json"),
    ]
    subprocess.run(command, cwd=new_study.folder, check=True)
    first = new_study.read("w.jsonl")
    pairs = [json.loads(line) for line in first.splitlines()]
    texts = {json.loads(line)["id"]: json.loads(line)["text"] for line in chunks}
    assert len(pairs) == 4
    assert sum(quote_in(p["quote"], texts[p["chunk_id"]]) for p in pairs) >= 3
    assert all("?" in p["question"] for p in pairs)

    # from the store: no model is loaded, and nothing is asked twice
    again = subprocess.run(command, cwd=new_study.folder, check=True, capture_output=True, text=True)
    assert "all 2 calls from the store" in again.stderr
    assert new_study.read("w.jsonl") == first
