"""Read dialogues in the layouts that they are published in, as the same turns and summaries whatever the layout.

- `tweetsum` (guyfe/Tweetsumm): JSON Lines of tweet ids with the offsets of their sentences, and annotations; the text
  is in another table, Kaggle's "Customer Support on Twitter" (twcs.csv).
- `dialogstudio` (Salesforce/dialogstudio): a JSON file with a `log` of rounds, and `original dialog info`, which some
  copies have as JSON in a string.
- `turns`: JSON Lines of {id, turns: [{role, text}], abstractive: [[sentence, …], …]}.

Consecutive turns of one side are joined: so DialogStudio's log has them, and the layouts give the same dialogues.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError
from tuneproof.records import iter_json_lines, read_json
from tuneproof.study import Dialogues, Split

READ_SPLITS: tuple[Split, ...] = ("train", "val", "test_new_pages")
FILES: dict[str, tuple[str, str, str]] = {
    "tweetsum": ("final_train_tweetsum.jsonl", "final_valid_tweetsum.jsonl", "final_test_tweetsum.jsonl"),
    "dialogstudio": ("train.json", "val.json", "test.json"),
    "turns": ("train.jsonl", "val.jsonl", "test.jsonl"),
}
# the key by which a row of each layout is known
_MARKS = {"tweetsum": "tweet_ids_sentence_offset", "dialogstudio": "log", "turns": "turns"}
_TWEETS_COLUMNS = ("tweet_id", "inbound", "text")
_ROLES = ("user", "agent")
Row = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """What one side says until the other does: `user` or `agent`."""

    role: str
    text: str


@dataclass(frozen=True)
class Dialogue:
    """One dialogue and its summaries, those that are null left out. `where` names its file and row."""

    id: str
    turns: tuple[Turn, ...]
    summaries: tuple[str, ...]
    null_summaries: int
    where: str


def layout_of(spec: Dialogues) -> str:
    """Return the layout to read: the one that is named, or the only one whose files the folder holds."""
    if not spec.folder.is_dir():
        raise InputError(f"path: {spec.path!r} is no folder, expected one of dialogues")
    found = [layout for layout, names in FILES.items() if any((spec.folder / name).exists() for name in names)]
    if spec.layout != "auto":
        if not found or spec.layout in found:
            return spec.layout
        raise InputError(
            f"layout: {spec.layout!r}, but {spec.path} has no {FILES[spec.layout][0]}; it looks like layout {found[0]}"
        )
    if len(found) != 1:
        known = "; ".join(f"{layout}: {', '.join(names)}" for layout, names in FILES.items())
        raise InputError(
            f"layout: {spec.path} has files of {' and '.join(found) or 'no layout'}, expected one ({known})"
        )
    return found[0]


def files_of(spec: Dialogues) -> list[Path]:
    """Return the files that would be read and are there: an edit in one is seen, the job says which is missing."""
    layouts = FILES if spec.layout == "auto" else {spec.layout: FILES[spec.layout]}
    named = [spec.folder / name for names in layouts.values() for name in names]
    tweets = [spec.tweets_file] if any(path.exists() for path in named) and "tweetsum" in layouts else []
    return [path for path in (*named, *tweets) if path.is_file()]


def read(spec: Dialogues) -> dict[Split, list[Dialogue]]:
    """Read all splits. Raises InputError that names the file, the row and the key of what is wrong."""
    layout = layout_of(spec)
    files = [spec.folder / name for name in FILES[layout]]
    rows = {split: list(_rows(path, layout)) for split, path in zip(READ_SPLITS, files, strict=True)}
    parse = {"tweetsum": _tweetsum_reader(spec, rows), "dialogstudio": _dialogstudio, "turns": _turns}[layout]
    return {split: [parse(where, row) for where, row in read] for split, read in rows.items()}


def _rows(path: Path, layout: str) -> Iterator[tuple[str, Row]]:
    """Yield (where, row) of a file; a row of another layout is named by the layout it looks like."""
    for where, row in _objects(path, layout):
        if _MARKS[layout] not in row:
            like = [other for other, mark in _MARKS.items() if mark in row]
            looks = f"; it looks like layout {like[0]}" if like else ""
            raise InputError(f"{where}: no {_MARKS[layout]!r}, expected a row of layout {layout}{looks}")
        yield where, row


def _objects(path: Path, layout: str) -> Iterator[tuple[str, Row]]:
    if layout != "dialogstudio":
        for number, row in iter_json_lines(path):
            yield f"{path} line {number}", row
        return
    content = read_json(path)
    if not isinstance(content, dict | list):
        raise InputError(f"{path}: {str(content)[:40]!r}, expected dialogues by their names, or a list of them")
    named = content.items() if isinstance(content, dict) else enumerate(content, 1)
    for name, row in named:
        where = f"{path} {'row ' if isinstance(name, int) else ''}{name}"
        if not isinstance(row, dict):
            raise InputError(f"{where}: {str(row)[:40]!r}, expected an object")
        yield where, row


def _turns(where: str, row: Row) -> Dialogue:
    turns = []
    for number, turn in enumerate(_list(where, row, "turns"), 1):
        if not isinstance(turn, dict) or not isinstance(turn.get("text"), str):
            raise InputError(f"{where}: turn {number} is {str(turn)[:40]!r}, expected role and text")
        if turn.get("role") not in _ROLES:
            raise InputError(f"{where}: turn {number}: role is {turn.get('role')!r}, expected user or agent")
        turns.append(Turn(turn["role"], turn["text"]))
    return _dialogue(where, row.get("id"), "id", turns, "abstractive", _list(where, row, "abstractive"))


def _dialogstudio(where: str, row: Row) -> Dialogue:
    turns = []
    for number, item in enumerate(_list(where, row, "log"), 1):
        for role, key in zip(_ROLES, ("user utterance", "system response"), strict=True):
            if not isinstance(item, dict) or not isinstance(item.get(key), str):
                raise InputError(f"{where}: log {number} has no {key!r}, expected a text, which may be empty")
            turns.append(Turn(role, item[key]))
    info, key = row.get("original dialog info"), "original dialog info.summaries.abstractive_summaries"
    if isinstance(info, str):
        try:
            info = json.loads(info)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: original dialog info: {error.msg}, expected JSON in a string") from None
    summaries = info.get("summaries") if isinstance(info, dict) else None
    found = summaries.get("abstractive_summaries") if isinstance(summaries, dict) else None
    if not isinstance(found, list):
        raise InputError(f"{where}: {key}: {str(found)[:40]!r}, expected a list of summaries")
    return _dialogue(where, row.get("original dialog id"), "original dialog id", turns, key, found)


def _tweetsum_reader(spec: Dialogues, rows: dict[Split, list[tuple[str, Row]]]) -> Callable[[str, Row], Dialogue]:
    """Return a reader that knows the tweets of these rows; the table, of 2.8 million, is read when it is needed."""
    tweets: dict[str, Turn] = {}

    def parse(where: str, row: Row) -> Dialogue:
        if not tweets:
            named = (_list(*place, "tweet_ids_sentence_offset") for read in rows.values() for place in read)
            wanted = {str(tweet.get("tweet_id")) for items in named for tweet in items if isinstance(tweet, dict)}
            tweets.update(_read_tweets(spec.tweets_file, wanted))
        turns = [
            _tweet(where, number, item, tweets, spec.tweets_file)
            for number, item in enumerate(_list(where, row, "tweet_ids_sentence_offset"), 1)
        ]
        annotations = _list(where, row, "annotations")
        if wrong := [a for a in annotations if not isinstance(a, dict)]:
            raise InputError(f"{where}: annotations: {str(wrong[0])[:40]!r}, expected objects")
        summaries = [a["abstractive"] for a in annotations if "abstractive" in a]
        return _dialogue(where, row.get("conversation_id"), "conversation_id", turns, "annotations", summaries)

    return parse


def _tweet(where: str, number: int, item: Any, tweets: dict[str, Turn], table: Path) -> Turn:
    """Return a tweet's turn: the sentences that the offsets cut out of its text."""
    place = f"{where}: tweet {number}"
    if not isinstance(item, dict) or not isinstance(item.get("sentence_offsets"), list):
        raise InputError(f"{place}: {str(item)[:40]!r}, expected tweet_id and sentence_offsets")
    identity = str(item.get("tweet_id"))
    if identity not in tweets:
        raise InputError(f"{place}: {table} has no tweet {identity}, expected the whole table of tweets")
    turn = tweets[identity]
    sentences = []
    for offset in item["sentence_offsets"]:
        try:
            start, end = (int(part) for part in str(offset).strip("[] ").split(","))
        except ValueError:
            start, end = 0, -1
        if not 0 <= start <= end <= len(turn.text):
            raise InputError(f"{place}: offset {offset!r}, expected '[start, end]' in a text of {len(turn.text)}")
        sentences.append(turn.text[start:end])
    return Turn(turn.role, " ".join(sentences))


def _read_tweets(path: Path, wanted: set[str]) -> dict[str, Turn]:
    """Return the tweets that are wanted, by id: who is inbound is the user."""
    if not path.is_file():
        raise InputError(
            f"tweets: {path}: no such file, expected the table of Customer Support on Twitter: layout tweetsum has no "
            "text of its own"
        )
    found = {}
    with path.open(encoding="utf-8", newline="") as stream:
        table = csv.DictReader(stream)
        if missing := [name for name in _TWEETS_COLUMNS if name not in (table.fieldnames or [])]:
            raise InputError(f"{path}: no column {missing[0]!r}, expected {', '.join(_TWEETS_COLUMNS)}")
        try:
            for row in table:
                if row["tweet_id"] in wanted:
                    role = "agent" if str(row["inbound"]).lower() == "false" else "user"
                    found[row["tweet_id"]] = Turn(role, row["text"] or "")
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path} line {table.line_num}: {error}, expected CSV in UTF-8") from None
    return found


def _dialogue(where: str, identity: Any, key: str, turns: Sequence[Turn], name: str, summaries: list[Any]) -> Dialogue:
    if not isinstance(identity, str | int) or not str(identity).strip():
        raise InputError(f"{where}: {key} is {identity!r}, expected the dialogue's id")
    if not any(turn.text.strip() for turn in turns):
        raise InputError(f"{where}: dialogue {identity} has no turns, expected some")
    texts = [_summary(f"{where}: {name} {number}", value) for number, value in enumerate(summaries, 1)]
    kept = tuple(text for text in texts if text)
    return Dialogue(str(identity), tuple(_joined(turns)), kept, len(texts) - len(kept), where)


def _summary(where: str, value: Any) -> str:
    """Return a summary's sentences as one text; empty for a null one."""
    sentences = [value] if isinstance(value, str) else value or []
    if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
        raise InputError(f"{where}: {str(value)[:40]!r}, expected sentences or null")
    return " ".join(" ".join(sentences).split())


def _joined(turns: Sequence[Turn]) -> list[Turn]:
    joined: list[Turn] = []
    for turn in turns:
        if not turn.text.strip():
            continue
        if joined and joined[-1].role == turn.role:
            joined[-1] = Turn(turn.role, f"{joined[-1].text} {turn.text}")
        else:
            joined.append(turn)
    return joined


def _list(where: str, row: Row, key: str) -> list[Any]:
    if not isinstance(row.get(key), list):
        raise InputError(f"{where}: {key} is {str(row.get(key))[:40]!r}, expected a list")
    return list(row[key])
