"""The same line on corpora that nobody here wrote: a folder of Markdown, and HTML that is crawled over loopback.

The data is not part of the project; TUNEPROOF_DATA names its folder.
"""

import json
import os
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data() -> Path:
    folder = Path(os.environ.get("TUNEPROOF_DATA", ""))
    if not (folder / "corpora").is_dir():
        pytest.skip("TUNEPROOF_DATA does not name the folder with corpora/")
    return folder


def chunks_of(study, name):
    study.run(f"resources/corpora/{name}/chunks.jsonl", config=f"studies/{name}-docs.yaml")
    return [json.loads(line) for line in study.read(f"resources/corpora/{name}/chunks.jsonl").splitlines()]


def test_a_folder_of_markdown(data, new_study):
    chunks = chunks_of(new_study, "equinix")
    counts = json.loads(new_study.read("resources/corpora/equinix/pages.json"))
    assert counts["documents"] == 204, "206 files less the readme and the licence"
    assert counts["pages"] > 190
    assert {chunk["group"] for chunk in chunks} == {"equinix-packet-docs", "equinix-terraform-docs"}
    assert all(chunk["tokens"] <= 256 for chunk in chunks)
    assert not any("seo-title" in chunk["text"] for chunk in chunks), "the metadata block is no text"
    assert all(chunk["headings"] and not chunk["headings"][0].endswith(".md") for chunk in chunks[:20])


def test_html_that_is_crawled_over_loopback(data, new_study, monkeypatch):
    with tarfile.open(data / "corpora" / "ironic-doc" / "ironic-doc.tar.gz") as archive:
        archive.extractall(new_study.folder / "site", filter="data")
    monkeypatch.setenv("TUNEPROOF_IRONIC", str(new_study.folder / "site" / "ironic-doc" / "ironic-doc" / "html"))
    chunks = chunks_of(new_study, "ironic")
    pages = [json.loads(line) for line in new_study.read("resources/corpora/ironic/pages.jsonl").splitlines()]
    assert len(pages) > 110, "of 129 pages"
    assert all(page["url"].startswith("http://ironic.test/") for page in pages)
    assert len(chunks) > 1000
    assert not any("Created using Sphinx" in chunk["text"] for chunk in chunks), "footers are no text"
