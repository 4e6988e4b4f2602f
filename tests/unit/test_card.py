"""A data set's card says what it is made of, and its Parquet opens with `datasets`, in the shape that trainers read."""

import json
from dataclasses import replace

import pytest

from tuneproof.pairs.card import ABOUT, SAMPLES, card, markdown, parquet, samples
from tuneproof.records import Example, read_json, write_json, write_rows
from tuneproof.study import AnyDataset, ReansweredSpec

SPEC = {"corpus": "c", "llm": "writer"}
CORPUS = {"folder": {"path": "docs"}, "encoder": "e", "licence": "CC-BY-4.0"}
SPLITS = ("train", "val", "test_trained_pages", "test_new_pages")


def row(n: int, split: str, **changes: str) -> Example:
    question, answer = f"What is the power of CV{n}?", f"The power of CV{n} is {n}.5 MW."
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    made = Example(f"e{n}{split}", f"p{n}", f"c{n}", f"g{n}", f"u{n}", "metros", split, question, answer, messages)
    return replace(made, **changes)


@pytest.fixture
def dataset(tmp_path, encoder, run_script):
    """A folder of a data set with its card written; the test set about trained pages is empty."""
    sizes = {"train": 30, "val": 2, "test_trained_pages": 0, "test_new_pages": 5}
    for split, count in sizes.items():
        write_rows(tmp_path / f"{split}.jsonl", [row(n, split) for n in range(count)])
    counts = {"dataset": "x", "steps": [{"step": "documents", "count": 9}], "dropped": {"a reason": 3}, "splits": sizes}
    write_json(tmp_path / "funnel.json", counts)
    write_rows(tmp_path / "types.jsonl", [{"pair_id": f"p{n}", "type": "factual"} for n in range(30)])
    (tmp_path / "prompt.txt").write_text("Write.\n")
    done = run_script(
        "write_card",
        *("--name", "x", "--spec", json.dumps(SPEC), "--corpus", json.dumps(CORPUS)),
        *("--splits", *(tmp_path / f"{split}.jsonl" for split in SPLITS), "--funnel", tmp_path / "funnel.json"),
        *("--types", tmp_path / "types.jsonl", "--encoder", encoder / "lock.json"),
        *("--model", encoder / "lock.json", "--api", '{"writer": "gpt-x"}', "--prompt", tmp_path / "prompt.txt"),
        *("--out", tmp_path),
    )
    assert done.returncode == 0, done.stderr
    return tmp_path


def test_a_card_says_where_the_rows_are_from_and_what_they_were_made_with(dataset):
    card = read_json(dataset / "card.json")
    assert card["source"] == {"from": "the folder docs", "licence": "CC-BY-4.0"}
    assert card["splits"]["train"] | {"tokens": ""} == {
        **{"rows": 30, "pairs": 30, "pages": 30, "groups": {"metros": 30}, "types": {"factual": 30}, "tokens": ""}
    }
    assert card["splits"]["train"]["tokens"]["question"] == {"mean": 8.0, "p50": 8.0, "p95": 8.0, "max": 8}
    assert [model["model"] for model in card["made_with"]["models"]] == ["all-minilm-l6-v2", "gpt-x"]
    assert len(card["made_with"]["prompts"][str(dataset / "prompt.txt")]) == 64
    assert len(card["samples"]) == SAMPLES
    text = (dataset / "card.md").read_text()
    for part in (
        "CC-BY-4.0",
        "| a reason | 3 |",
        "| train | 30 | 30 | 30 | metros 30 | factual 30 |",
        *card["weaknesses"],
    ):
        assert part in text


def test_the_folder_opens_with_datasets(dataset, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    cache = str(dataset / "cache")
    found = datasets.load_dataset(str(dataset), cache_dir=cache)
    assert {split: rows.num_rows for split, rows in found.items()} == {
        **{"train": 30, "val": 2, "test_new_pages": 5}
    }, "`datasets` opens no split without rows"
    assert found["train"].column_names == ["messages", "id", "pair_id", "page_id", "url", "group"]
    assert found["train"][0]["messages"] == row(0, "train").messages
    by_name = datasets.load_dataset("parquet", data_dir=str(dataset / "data"), cache_dir=cache)
    assert {split: rows.num_rows for split, rows in by_name.items()} == {"train": 30, "validation": 2, "test": 5}


def test_rows_are_conversations_for_trl(dataset):
    import datasets
    from trl.data_utils import is_conversational

    rows = datasets.Dataset.from_parquet(str(dataset / "data" / "train.parquet"), cache_dir=str(dataset / "cache"))
    assert is_conversational(rows[0])


def test_samples_are_drawn_from_all_splits_in_turn():
    drawn = samples(
        {split: [row(n, split) for n in range(count)] for split, count in zip(SPLITS, (50, 2, 0, 50), strict=True)}
    )
    assert [r.split for r in drawn[:5]] == ["train", "val", "test_new_pages", "train", "val"]
    assert len(drawn) == SAMPLES


def test_a_page_cannot_write_into_the_card(dataset):
    card = read_json(dataset / "card.json")
    card["samples"] = [{"split": "train", "url": "u", "question": "# A\n\n<script>x</script> | y", "answer": "**b**"}]
    assert "- *train* [u] **# A &lt;script>x&lt;/script> \\| y** \\*\\*b\\*\\*" in markdown(card)


def test_the_same_rows_are_the_same_bytes():
    assert parquet([row(1, "train")]) == parquet([row(1, "train")])


def test_a_set_answered_from_the_gold_chunk_claims_no_retriever():
    spec = ReansweredSpec(kind="reanswered", of="x", llm="writer", retriever="oracle")
    splits = {split: [] for split in SPLITS}
    written = card("oracle", spec, None, {}, splits, {}, {}, [], lambda texts: [])
    assert "the chunk that each was written from" in written["purpose"]
    assert not any("retriever missed" in weakness for weakness in written["weaknesses"])


def test_every_kind_of_data_set_is_explained():
    assert set(ABOUT) == {kind.model_fields["kind"].annotation.__args__[0] for kind in AnyDataset.__args__}
