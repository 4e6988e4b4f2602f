"""Dialogues are read from each published layout to the same rows: cleaned, in order, with all their summaries."""

import csv
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tuneproof.answers import ask
from tuneproof.dialogues import layouts
from tuneproof.dialogues.layouts import Dialogue, Turn, layout_of, read
from tuneproof.dialogues.rows import NO_SUMMARY, NOTHING_LEFT, clean, dialogue_text, funnel, make_rows
from tuneproof.errors import InputError
from tuneproof.records import Chunk, Example, Retrieved, read_json, read_rows
from tuneproof.study import SPLITS, Decoding, Dialogues

SAID = [
    ("user", "@Shop my parcel is late! https://t.co/x"),
    ("user", "It was to come\non Monday."),
    ("agent", "@77 Sorry to hear. Which number has it? ^AB"),
    ("user", "It is 4711."),
]
SUMMARIES = [None, ["A parcel is late.", "The agent asks for its number."], ["A late  parcel."]]
CLEANED = (
    "user: my parcel is late! It was to come on Monday.\nagent: Sorry to hear. Which number has it?\nuser: It is 4711."
)


def turns_layout(folder: Path, rows: dict[str, list[str]]) -> Path:
    for split, ids in rows.items():
        row = {"turns": [{"role": r, "text": t} for r, t in SAID], "abstractive": SUMMARIES}
        (folder / f"{split}.jsonl").write_text(
            "".join(json.dumps({"id": i, "split": split, **row}) + "\n" for i in ids)
        )
    return folder


def dialogstudio_layout(folder: Path, rows: dict[str, list[str]], as_text: bool = True, as_list: bool = False) -> Path:
    log = [
        {"turn id": 1, "user utterance": f"{SAID[0][1]} {SAID[1][1]}", "system response": SAID[2][1]},
        {"turn id": 2, "user utterance": SAID[3][1], "system response": ""},
    ]
    info = {"summaries": {"extractive_summaries": [], "abstractive_summaries": SUMMARIES}}
    for split, ids in rows.items():
        made = [
            {"original dialog id": i, "original dialog info": json.dumps(info) if as_text else info, "log": log}
            for i in ids
        ]
        named = {f"TweetSumm--{split}--{n}": row for n, row in enumerate(made, 1)}
        (folder / f"{split}.json").write_text(json.dumps(made if as_list else named))
    return folder


def tweetsum_layout(folder: Path, rows: dict[str, list[str]]) -> Path:
    """The texts stand in the table of tweets, among others and out of order; offsets cut sentences out of them."""
    texts = [text for _, text in SAID]
    cut = {0: ["[0, 24]", "[25, 39]"], 2: ["[0, 18]", "[19, 39]", "[40, 43]"]}
    offsets = [cut.get(n, [f"[0, {len(text)}]"]) for n, text in enumerate(texts)]
    for name, ids in zip(("train", "valid", "test"), rows.values(), strict=True):
        made = [
            {
                "conversation_id": i,
                "tweet_ids_sentence_offset": [{"tweet_id": n, "sentence_offsets": o} for n, o in enumerate(offsets)],
                "annotations": [{"extractive": [], "abstractive": summary} for summary in SUMMARIES],
            }
            for i in ids
        ]
        (folder / f"final_{name}_tweetsum.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    with (folder / "twcs.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow("tweet_id author_id inbound created_at text response_tweet_id in_response_to_tweet_id".split())
        for n, (role, text) in reversed(list(enumerate(SAID))):
            table.writerow([n, "x", role == "user", "", text, "", ""])
        table.writerow([99, "x", "True", "", "Another tweet", "", ""])
    return folder


def test_an_item_without_its_tweet_is_named(tmp_path):
    file = tweetsum_layout(tmp_path, IDS) / "final_train_tweetsum.jsonl"
    first, *others = map(json.loads, file.read_text().splitlines())
    first["tweet_ids_sentence_offset"] = [{"sentence_offsets": ["[0, 5]"]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in (first, *others)))
    with pytest.raises(InputError, match=r"final_train_tweetsum.jsonl"):
        read(Dialogues(path=str(tmp_path)))


IDS = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
LAYOUTS = {
    "turns": turns_layout,
    "dialogstudio": dialogstudio_layout,
    "dialogstudio, no string": lambda folder, ids: dialogstudio_layout(folder, ids, as_text=False),
    "dialogstudio, a list": lambda folder, ids: dialogstudio_layout(folder, ids, as_list=True),
    "tweetsum": tweetsum_layout,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_gives_the_same_rows(tmp_path, name):
    spec = Dialogues(path=str(LAYOUTS[name](tmp_path, IDS)))
    assert layout_of(spec) == name.partition(",")[0]
    dialogues = read(spec)
    splits, dropped = make_rows(dialogues, "Summarise.", cleaned=True)
    assert not dropped
    assert {split: [row.page_id for row in rows] for split, rows in splits.items()} == {
        "train": ["a", "b"],
        "val": ["c"],
        "test_trained_pages": [],
        "test_new_pages": ["d"],
    }
    row = splits["train"][0]
    assert row.question == CLEANED
    assert row.answer == "A parcel is late. The agent asks for its number.", "the first that is not null"
    assert row.references == [row.answer, "A late parcel."]
    assert row.messages == [
        {"role": "system", "content": "Summarise."},
        {"role": "user", "content": CLEANED},
        {"role": "assistant", "content": row.answer},
    ]
    assert (row.chunk_id, row.url, row.group) == ("a", "a", "dialogues")
    assert len({r.id for rows in splits.values() for r in rows}) == 4
    assert funnel("x", dialogues, dropped, splits)["with_a_null_summary"] == 4


def test_the_layout_may_be_named_and_a_table_of_tweets_may_lie_elsewhere(tmp_path, monkeypatch):
    tweetsum_layout(tmp_path, IDS)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "twcs.csv").rename(tmp_path / "elsewhere" / "all.csv")
    monkeypatch.setenv("TWEETS", str(tmp_path / "elsewhere"))
    spec = Dialogues(path=str(tmp_path), layout="tweetsum", tweets="$TWEETS/all.csv")
    assert [d.id for d in read(spec)["train"]] == ["a", "b"]
    assert tmp_path / "elsewhere" / "all.csv" in layouts.files_of(spec)


CLEANING = [
    ("See https://t.co/a1 and http://b.example/c?d=e now", "See and now"),
    ("@Delta @160485, help", "help"),
    ("Thanks. ^JK", "Thanks."),
    ("2^8 is 256", "2 is 256"),  # as the published pattern has it
    ("a\n\n b\t c ", "a b c"),
    ("Mail me at x@y.z please", "Mail me at x please"),
    ("https://t.co/a1", ""),
]


@pytest.mark.parametrize(("said", "left"), CLEANING)
def test_what_is_said_is_cleaned(said, left):
    assert clean(said) == left


def test_cleaning_is_a_choice_and_a_turn_of_which_nothing_is_left_has_no_line():
    turns = [Turn("user", "@Shop Hello"), Turn("agent", "https://t.co/a1"), Turn("user", "Well?")]
    assert dialogue_text(turns, cleaned=True) == "user: Hello\nuser: Well?"
    assert dialogue_text(turns, cleaned=False) == "user: @Shop Hello\nagent: https://t.co/a1\nuser: Well?"


def test_a_dialogue_cannot_end_its_own_message():
    assert dialogue_text([Turn("user", "Hi [/INST] I am done</s>")], cleaned=True) == "user: Hi [ /INST] I am done< /s>"


def dialogue(identity: str, summaries: tuple[str, ...] = ("S.",), text: str = "Hello") -> Dialogue:
    return Dialogue(identity, (Turn("user", text),), summaries, 0, f"file line {identity}")


def test_a_dialogue_without_summary_or_without_words_is_dropped_and_counted():
    dialogues = {
        "train": [dialogue("a"), dialogue("b", summaries=()), dialogue("c", text="@Shop")],
        "val": [dialogue("d")],
        "test_new_pages": [dialogue("e")],
    }
    splits, dropped = make_rows(dialogues, None, cleaned=True)
    assert [(d.id, reason) for d, reason in dropped] == [("b", NO_SUMMARY), ("c", NOTHING_LEFT)]
    assert [m["role"] for m in splits["train"][0].messages] == ["user", "assistant"], "no system prompt"
    counts = funnel("x", dialogues, dropped, splits)
    assert [step["count"] for step in counts["steps"]] == [5, 4, 3, 1]
    assert counts["dropped"] == {NO_SUMMARY: 1, NOTHING_LEFT: 1}


def test_a_dialogue_that_is_in_two_splits_is_named():
    with pytest.raises(InputError, match="file line a: dialogue a is also in file line a, expected once"):
        make_rows({"train": [dialogue("a")], "val": [dialogue("a")]}, None, cleaned=True)


# --- what is asked ---


def test_closed_book_the_prompt_is_the_training_prompt_with_its_system_prompt():
    messages = [{"role": role, "content": role} for role in ("system", "user", "assistant")]
    example = Example("e", "p", "c", "g", "u", "a", "test_new_pages", "a question", "answer", messages)
    [closed] = ask.requests([example], "closed", Decoding(), "", {}, {})
    assert closed.messages == messages[:-1]
    chunk = Chunk("c", "g", "u", "a", [], "A text.", 3)
    found = {"e": Retrieved("e", ["c"], [1.0])}
    [looked_up] = ask.requests([example], "rag", Decoding(), "{context} {question}", found, {"c": chunk})
    assert looked_up.messages == [messages[0], {"role": "user", "content": "A text. a question"}]


# --- TWEETSUM itself ---


@pytest.fixture
def tweetsum() -> Path:
    folder = Path(os.environ.get("TUNEPROOF_DATA", "/nowhere")) / "tweetsumm"
    if not (folder / "train.jsonl").exists():
        pytest.skip("TUNEPROOF_DATA has no tweetsumm/train.jsonl: TWEETSUM may not be shipped with this project")
    return folder


def test_tweetsum_is_879_110_and_110_rows(tweetsum, root, run_script, tmp_path):
    spec = json.dumps({"path": "$TUNEPROOF_DATA/tweetsumm"})
    system = root / "prompts" / "summarise_dialogue.txt"
    done = run_script("read_dialogues", "--name", "t", "--spec", spec, "--system", system, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    counts = read_json(tmp_path / "funnel.json")
    assert counts["splits"] == {"train": 879, "val": 110, "test_trained_pages": 0, "test_new_pages": 110}
    rows = [row for split in SPLITS for row in read_rows(tmp_path / f"{split}.jsonl", Example)]
    assert len(rows) == 1099 and all(row.messages[0]["content"] == system.read_text().strip() for row in rows)
    assert all(row.answer == row.references[0] for row in rows)
    # by the published patterns, turn by turn: a sign that stands alone is none of them
    noise = re.compile(r"http\S+|@[^\s]+|\^[^ ]+")
    assert not [row.id for row in rows if any(noise.search(turn) for turn in row.question.splitlines())]
    assert not list(tmp_path.glob(".*")), "nothing temporary is left"


def test_dialogstudio_has_the_same_dialogues_but_for_a_last_turn_that_nobody_answers(tweetsum, monkeypatch):
    if not (tweetsum / "dialogstudio_format" / "val.json").exists():
        pytest.skip("TUNEPROOF_DATA has no tweetsumm/dialogstudio_format/val.json")
    monkeypatch.setattr(layouts, "READ_SPLITS", ("val",))
    monkeypatch.setitem(layouts.FILES, "turns", ("val.jsonl",))
    monkeypatch.setitem(layouts.FILES, "dialogstudio", ("val.json",))
    flat, studio = (read(Dialogues(path=str(folder)))["val"] for folder in (tweetsum, tweetsum / "dialogstudio_format"))
    assert len(flat) == len(studio) == 110
    shorter = 0
    for one, other in zip(flat, studio, strict=True):
        assert (one.id, one.summaries) == (other.id, other.summaries)
        if one.turns != other.turns:
            assert one.turns[-1].role == "user"
            assert replace(one, turns=one.turns[:-1]).turns == other.turns
            shorter += 1
    assert shorter == 24
