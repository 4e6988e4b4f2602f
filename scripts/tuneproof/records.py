"""The rows that flow between stages, their ids, and reading and writing them as JSON Lines.

    Page -> Chunk -> Pair -> Example -> Answer -> Score

Ids are hashes of content, and every row carries the ids of what it was made from, so that any cell of any table
can be walked back to the page it came from. A file is written under a temporary name and renamed: a script that is
killed leaves either the old file or the new one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from tuneproof.errors import InputError

Message = dict[str, str]


@dataclass(frozen=True)
class Page:
    """One document of a corpus; `text` is Markdown without the site's navigation and footers."""

    id: str
    url: str
    group: str
    title: str
    text: str
    fetched_at: str


@dataclass(frozen=True)
class Chunk:
    """A passage of a page that fits a prompt; `headings` is the path of headings above it."""

    id: str
    page_id: str
    url: str
    group: str
    headings: list[str]
    text: str
    tokens: int


@dataclass(frozen=True)
class Pair:
    """A question with its answer; `quote` is the passage of the chunk that supports it, `call_id` who wrote it."""

    id: str
    chunk_id: str
    page_id: str
    question: str
    answer: str
    quote: str
    call_id: str


@dataclass(frozen=True)
class Phrasing:
    """Other wordings of a pair's question."""

    pair_id: str
    questions: list[str]
    call_id: str


@dataclass(frozen=True)
class Annotation:
    """What an LLM takes a question for: the more likely type, and the probability of each. `id` is the pair's."""

    id: str
    type: str
    distribution: dict[str, float]
    call_id: str


@dataclass(frozen=True)
class TypedPair:
    """A pair's type, how probable it is, and by whom: the LLM that annotates, or the classifier."""

    pair_id: str
    type: str
    probability: float
    by: str


@dataclass(frozen=True)
class Example:
    """One row of a data set: a question in one wording, as messages a trainer or a server takes.

    `references` are all right answers that are known, `answer` among them; empty where there is no other.
    """

    id: str
    pair_id: str
    chunk_id: str
    page_id: str
    url: str
    group: str
    split: str
    question: str
    answer: str
    messages: list[Message]
    references: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Retrieved:
    """What the retriever gave for one question, best first; the scores are the retriever's own."""

    example_id: str
    chunk_ids: list[str]
    scores: list[float]


@dataclass(frozen=True)
class Reanswer:
    """A pair's question, answered again from the chunks that were found; `dropped` says why it is of no use."""

    pair_id: str
    question: str
    answer: str
    chunk_ids: list[str]
    call_id: str
    dropped: str | None


@dataclass(frozen=True)
class Answer:
    """What one arm (a run in a mode) said to one question."""

    id: str
    example_id: str
    run: str
    mode: str
    split: str
    text: str
    tokens: int
    stopped: bool
    context_ids: list[str]
    call_id: str


@dataclass(frozen=True)
class Score:
    """One judge's score of one answer; None where the judge gave none. `raw` is what it said, word for word.

    Of a judge that writes, `strict` and `lenient` are what the two parsers read, `score` the one that the study trusts.
    """

    id: str
    answer_id: str
    example_id: str
    judge: str
    score: float | None
    raw: str
    distribution: dict[str, float] = field(default_factory=dict)
    call_id: str = ""
    strict: int | None = None
    lenient: int | None = None


@dataclass(frozen=True)
class Measure:
    """Metrics of one answer that need no judge. `facts` counts the table's facts in the reference answer.

    `values`: by the names of scores/measure.py. `named`: the product that an answer to a recommendation names.
    `encoder`: BERTScore's settings; None where it is not computed.
    """

    answer_id: str
    example_id: str
    values: dict[str, float]
    facts: int
    facts_recalled: int
    trained_facts: int
    trained_facts_recalled: int
    named: str | None = None
    encoder: str | None = None


Row = TypeVar("Row")


def content_id(*parts: str) -> str:
    """Return 16 hex digits of the SHA-256 of the parts; a unit separator keeps ("ab", "c") from ("a", "bc")."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read a megabyte at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_rows(path: Path, row_type: type[Row]) -> list[Row]:
    """Read a JSON Lines file as rows of a type; a wrong row is named by file, line and key."""
    return list(iter_rows(path, row_type))


def iter_rows(path: Path, row_type: type[Row]) -> Iterator[Row]:
    """Yield rows one by one: memory does not grow with the file."""
    fields = {f.name: f for f in dataclasses.fields(row_type)}  # type: ignore[arg-type]
    required = {
        n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    adapter = TypeAdapter(row_type)
    for number, data in iter_json_lines(path):
        if missing := required - data.keys():
            raise InputError(f"{path} line {number}: no {sorted(missing)[0]!r}, expected {row_type.__name__} rows")
        if unknown := data.keys() - fields.keys():
            raise InputError(
                f"{path} line {number}: unknown key {sorted(unknown)[0]!r}, expected {row_type.__name__} rows"
            )
        try:
            yield adapter.validate_python(data)
        except ValidationError as error:
            wrong = error.errors()[0]
            key = ".".join(str(part) for part in wrong["loc"])
            raise InputError(f"{path} line {number}: {key}: {wrong['input']!r} is wrong: {wrong['msg']}") from None


def iter_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a JSON Lines file; raise InputError that names the line that is none."""
    if not path.exists():
        raise InputError(f"{path}: no such file, expected JSON Lines")
    with path.open(encoding="utf-8") as stream:
        try:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    data = json.loads(line.rstrip("\n"))
                except json.JSONDecodeError as error:
                    raise InputError(
                        f"{path} line {number}: {error.msg} at column {error.colno}, expected JSON"
                    ) from None
                if not isinstance(data, dict):
                    raise InputError(f"{path} line {number}: {line[:40].strip()!r}, expected a JSON object")
                yield number, data
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: byte {error.start} is not UTF-8, expected UTF-8 text") from None


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Write dataclass rows or plain objects as JSON Lines, whole or not at all."""
    with atomic_write(path) as stream:
        for row in rows:
            data = dataclasses.asdict(row) if dataclasses.is_dataclass(row) and not isinstance(row, type) else row
            stream.write(json.dumps(data, ensure_ascii=False) + "\n")


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row as a line of its own, also behind a line that a kill or a full disk has torn."""
    with path.open("ab+") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.write(json.dumps(row).encode() + b"\n")


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file that is appended to, none where there is no file; a torn line is left out."""
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def write_json(path: Path, data: Any) -> None:
    """Write one JSON document, indented for people, whole or not at all."""
    with atomic_write(path) as stream:
        stream.write(json.dumps(data, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read one JSON document; what is missing or broken is named."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected a JSON document") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}, expected a JSON document") from None


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success it is flushed to disk and renamed, on failure removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open(mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # a refused write() does not say of which file
        raise
