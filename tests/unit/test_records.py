"""Rows are what the next stage reads: whole files or none, the same ids for the same content on every machine."""

import json
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass

import pytest

from tuneproof.errors import InputError
from tuneproof.records import (
    Answer,
    Chunk,
    Example,
    Measure,
    Page,
    Pair,
    Phrasing,
    Reanswer,
    Retrieved,
    Score,
    append_row,
    atomic_write,
    content_id,
    file_sha256,
    iter_json_lines,
    iter_rows,
    read_json,
    read_rows,
    whole_rows,
    write_json,
    write_rows,
)

MESSAGES = [{"role": "user", "content": "Wie groß ist „CV1“?"}, {"role": "assistant", "content": "4,100 m²"}]
ROWS = [
    Page("p", "http://a.test/ü", "metros", "Brückmoor", "# Brückmoor\n\nText\twith 'quotes' and \"quotes\"\n", ""),
    Chunk("c", "p", "http://a.test/", "metros", ["Brückmoor", "Power"], "line\u2028separator and \x1f", 12),
    Pair("q", "c", "p", "What?", "That.", "that", "call"),
    Phrasing("q", ["Which?", "How?"], "call"),
    Example("e", "q", "c", "p", "http://a.test/", "metros", "train", "What?", "That.", MESSAGES),
    Retrieved("e", ["c", "d"], [0.75, 1 / 3]),
    Reanswer("q", "What?", "", ["c"], "call", "reply is empty"),
    Answer("a", "e", "m/base", "closed", "test_new_pages", "", 0, False, [], "call"),
    Score("s", "a", "e", "qwen", None, "no score", {}, "call"),
    Score("t", "a", "e", "qwen", 3.25, "3", {"3": 0.75, "4": 0.25}, "call"),
    Measure("a", "e", {"rouge_l": 2 / 3, "words": 4.0}, 2, 1, 2, 0, "Cage", "minilm_L5"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_row_comes_back_as_it_was_written(tmp_path, row):
    file = tmp_path / "rows.jsonl"
    write_rows(file, [row, row])
    assert read_rows(file, type(row)) == [row, row]
    assert len(file.read_bytes().splitlines()) == 2


def test_a_key_with_a_default_may_be_missing(tmp_path):
    file = tmp_path / "scores.jsonl"
    write_rows(file, [{"id": "s", "answer_id": "a", "example_id": "e", "judge": "j", "score": 1.0, "raw": "1"}])
    assert read_rows(file, Score) == [Score("s", "a", "e", "j", 1.0, "1")]


def test_rows_are_read_one_by_one(tmp_path):
    file = tmp_path / "rows.jsonl"
    write_rows(file, [Phrasing("q", [], "call")])
    with file.open("a") as stream:
        stream.write("{broken\n")
    rows = iter_rows(file, Phrasing)
    assert next(rows).pair_id == "q"  # the broken line has not been looked at yet
    with pytest.raises(InputError, match=r"rows\.jsonl line 2: .*expected JSON"):
        next(rows)


def test_empty_lines_count_as_lines_but_not_as_rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('\n{"a": 1}\n\n{"a": 2}\n')
    assert list(iter_json_lines(file)) == [(2, {"a": 1}), (4, {"a": 2})]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"pair_id": "q" "x"}\n', "line 1: Expecting ',' delimiter at column 17, expected JSON"),
        (b'{"pair_id":\n', "line 1: Expecting value at column 12, expected JSON"),
        (b"[1, 2]\n", "line 1: '[1, 2]', expected a JSON object"),
        (b'{"a": "\xff"}\n', "is not UTF-8, expected UTF-8 text"),
        (b'{"pair_id": "q", "questions": []}\n', "line 1: no 'call_id', expected Phrasing rows"),
        (b'{"pair_id": "q", "questions": [], "call_id": "c", "x": 1}\n', "unknown key 'x', expected Phrasing rows"),
    ],
)
def test_a_wrong_row_is_named_by_file_line_and_key(tmp_path, content, expected):
    file = tmp_path / "phrasings.jsonl"
    file.write_bytes(content)
    with pytest.raises(InputError) as raised:
        read_rows(file, Phrasing)
    assert str(file) in str(raised.value) and expected in str(raised.value)


def test_ids_stay_the_same_across_versions_of_this_program():
    # SHA-256 of the UTF-8 bytes, 16 hex digits; a change would orphan every data set that was made before it
    assert content_id() == "e3b0c44298fc1c14"
    assert content_id("abc") == "ba7816bf8f01cfea"
    assert content_id("http://www.haldrune.test/", "Brückmoor") == "dce2860294cf2f48"


def test_the_border_between_two_parts_is_part_of_the_id():
    ids = {content_id(*parts) for parts in [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc")]}
    assert len(ids) == 5


def test_a_digest_covers_files_larger_than_a_block(tmp_path):
    file = tmp_path / "large"
    file.write_bytes(b"x" * (2**20 + 1))
    assert file_sha256(file) == "154b8ed3c2383ce429058768595935faf7851b5c38db2b1732594be1d88bc05a"


def test_a_json_document_comes_back_and_is_written_for_people(tmp_path):
    file = tmp_path / "new" / "folder" / "lock.json"
    write_json(file, {"title": "Brückmoor", "files": []})
    assert read_json(file) == {"title": "Brückmoor", "files": []}
    assert file.read_text(encoding="utf-8") == '{\n  "title": "Brückmoor",\n  "files": []\n}\n'


@dataclass
class Unwritable:
    value: object


def test_a_row_is_appended_behind_a_torn_one(tmp_path):
    file = tmp_path / "journal.jsonl"
    append_row(file, {"step": 1})
    with file.open("a") as stream:
        stream.write('{"step": 2, "sec')
    append_row(file, {"step": 3})
    assert [row["step"] for row in whole_rows(file)] == [1, 3]
    assert whole_rows(tmp_path / "none.jsonl") == []


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    file = tmp_path / "rows.jsonl"
    write_rows(file, [{"version": "old"}])
    with pytest.raises(TypeError):
        write_rows(file, [{"version": "new"}, Unwritable({1, 2})])
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
    assert json.loads(file.read_text()) == {"version": "old"}


def test_an_interrupted_write_leaves_no_temporary_file(tmp_path):
    def rows():
        yield {"n": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / "rows.jsonl", rows())
    assert list(tmp_path.iterdir()) == []


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("old")
    with atomic_write(file) as stream:
        stream.write("new")
        stream.flush()
        assert file.read_text() == "old"
    assert file.read_text() == "new"


def test_a_writer_killed_in_the_middle_leaves_the_old_file(root, tmp_path):
    """SIGKILL runs no handler: what keeps the old file is that the new one has another name until it is whole."""
    file = tmp_path / "rows.jsonl"
    write_rows(file, [{"version": "old"}])
    program = textwrap.dedent(
        f"""
        import sys, time
        from pathlib import Path
        from tuneproof.records import write_rows

        def rows():
            for n in range(10_000):
                yield {{"version": "new", "padding": "x" * 1000}}
            print("writing", flush=True)
            time.sleep(60)

        write_rows(Path({str(file)!r}), rows())
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(root / "scripts")}, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout.readline() == b"writing\n"
        writer.send_signal(signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    assert read_rows_as_they_are(file) == [{"version": "old"}]
    write_rows(file, [{"version": "next"}])  # what the killed writer left is in nobody's way
    assert read_rows_as_they_are(file) == [{"version": "next"}]


def read_rows_as_they_are(file):
    return [row for _, row in iter_json_lines(file)]
