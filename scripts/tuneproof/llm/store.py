"""The store of model calls: append-only JSON Lines, content-addressed. What was answered is never asked again.

One folder per engine, one segment per process: two processes, on one machine or on two that share a file system,
never write the same file, so there is nothing to lock. A line is written with one call to the system as soon as its
answer is there, which a kill of the process cannot undo; `sync` puts what was written on the disk, which a crash of
the machine cannot undo. A line that a crash tore, at the end or in the middle, is reported and skipped by the reader:
its call is asked again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tuneproof.llm.calls import REFUSED, Reply, Request

LEDGER = "ledger"  # the folder beside the engines' that llm/budget.py keeps


class Store:
    """The replies of one engine, in memory by key, with everything new appended to this process's segment."""

    def __init__(self, root: Path, engine_id: str) -> None:
        self._engine_id = engine_id
        self.folder = root / re.sub(r"[^\w.-]+", "_", engine_id)
        self._replies: dict[str, Reply] = {}
        self._descriptor: int | None = None
        self._own: set[Path] = set()
        self._read: dict[Path, tuple[int, int]] = {}  # a segment's size when it was read, and its part in whole lines
        self.refresh()

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """Return the stored reply to a call, or None."""
        return self._replies.get(key)

    @property
    def answered(self) -> bool:
        """Whether the engine has ever answered, and not only refused."""
        return any(reply.finish_reason != REFUSED for reply in self._replies.values())

    def refresh(self) -> set[str]:
        """Read what other processes have stored since the last look; return its keys.

        A look at a folder in which nothing happened costs a system call per segment.
        """
        found = set()
        for segment in sorted(set(self.folder.glob("*.jsonl")) - self._own):
            size, whole = segment.stat().st_size, 0
            if segment in self._read:
                before, whole = self._read[segment]
                if before == size:
                    continue
            for line in calls(segment, whole):
                if not line.raw.endswith(b"\n"):
                    break  # torn, or another process is writing it
                whole += len(line.raw)
                if line.content:
                    self._remember(line.content["key"], line.content["reply"])
                    found.add(line.content["key"])
            self._read[segment] = (size, whole)
        return found

    def put(self, calls: list[tuple[str, Request, Reply]], sync: bool = True, **about: str | float | None) -> None:
        """Append replies as one write, by default flushed to the disk before returning.

        `about` is written into every line for those who read the store: the stage, the dollars.
        """
        if self._descriptor is None:
            self._descriptor, segment = new_segment(self.folder)
            self._own.add(segment)
        text = "".join(
            json.dumps(
                {"key": key, "engine": self._engine_id, "request": vars(request), "reply": reply.plain(), **about},
                ensure_ascii=False,
            )
            + "\n"
            for key, request, reply in calls
        )
        try:
            write_whole(self._descriptor, text.encode())
            if sync:
                os.fsync(self._descriptor)
        except OSError:
            # a full disk may have taken half a line; nothing may follow it in that segment
            os.close(self._descriptor)
            self._descriptor = None
            raise
        for key, _, reply in calls:
            self._remember(key, reply)

    def _remember(self, key: str, reply: Reply) -> None:
        # what was stored first stays: results may rest on it; on a refusal none does that a later reply does not mend
        if self._replies.setdefault(key, reply).finish_reason == REFUSED:
            self._replies[key] = reply

    def sync(self) -> None:
        """Flush what was put without it to the disk."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)


def new_segment(folder: Path) -> tuple[int, Path]:
    """Create a file that no other process writes; return its descriptor, for appending, and its path.

    Time, machine and process name it for the reader. They do not make it unique in containers on several machines,
    so a random part does, and creating it fails rather than shares.
    """
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    moment = f"{time.strftime('%Y%m%dT%H%M%S', time.localtime(now))}.{int(now % 1 * 1e6):06}"
    path = folder / f"{moment}-{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(3)}.jsonl"
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666), path


def write_whole(descriptor: int, content: bytes) -> None:
    """Write all of it: the system may take less than it is given."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


class Line(NamedTuple):
    """A line of a segment; `content` is None where it is no whole JSON object of the expected kind."""

    raw: bytes
    place: str
    content: dict[str, Any] | None


def lines(segment: Path, start: int = 0) -> Iterator[Line]:
    """Yield the lines from byte `start` on; report those that are no JSON objects."""
    with segment.open("rb") as stream:
        stream.seek(start)
        for raw in stream:
            place = f"{segment} byte {start}"
            start += len(raw)
            content = None
            try:
                content = json.loads(raw) if raw.endswith(b"\n") else None  # half a number is a number, too
                fault = "" if isinstance(content, dict) else "torn" if content is None else "no object"
            except ValueError as error:
                fault = repr(error)
            if fault:
                print(f"{place}: {fault} ({len(raw)} bytes); skipped", file=sys.stderr)
            yield Line(raw, place, None if fault else content)


def calls(segment: Path, start: int = 0) -> Iterator[Line]:
    """Yield a segment's lines, `reply` as a Reply; report those that are no stored calls."""
    for line in lines(segment, start):
        content = line.content
        if content is not None:
            try:
                content["key"], content["request"]
                content["reply"] = Reply(**content["reply"])
            except (KeyError, TypeError) as error:
                print(f"{line.place}: {error!r}, expected a stored call; skipped", file=sys.stderr)
                content = None
        yield Line(line.raw, line.place, content)


def entries(segment: Path) -> Iterator[dict[str, Any]]:
    """Yield a segment's calls."""
    return (line.content for line in calls(segment) if line.content)


# --- the whole store, for scripts/llm_store.py ---


def segments(root: Path) -> list[Path]:
    """Return all engines' segments."""
    return sorted(path for path in root.glob("*/*.jsonl") if path.parent.name != LEDGER)


def misplaced(entry: dict[str, Any]) -> bool:
    """Say whether a call's address is not that of its request, as after an edit by hand."""
    # stores from before the engine's identity was written into each line cannot be checked
    return "engine" in entry and Request(**entry["request"]).key(entry["engine"]) != entry["key"]


def compact(folder: Path) -> tuple[int, int]:
    """Join an engine's segments into one without repetitions; return the numbers of segments and calls.

    Two jobs that asked the same call at the same time may rest on replies that differ: both stay. The new segment is
    whole on the disk before the old ones go, so a kill leaves calls twice, never none. Lines that are no calls are kept
    in `damaged.txt`. Not while a study runs: a process that is writing would go on with a segment that is gone.
    """
    old = sorted(folder.glob("*.jsonl"))
    kept: dict[str, set[str]] = {}  # the replies of each call
    refused: dict[str, bytes] = {}  # kept where nothing better came
    digest = hashlib.sha256()
    temporary, damaged = folder / "compacting.tmp", b""
    with temporary.open("wb") as out:
        for line in (line for segment in old for line in calls(segment)):
            if line.content is None:
                damaged += line.raw.removesuffix(b"\n") + b"\n"
                continue
            if line.content["reply"].finish_reason == REFUSED:
                refused[line.content["key"]] = line.raw
                continue
            key, reply = line.content["key"], json.dumps(line.content["reply"].plain(), sort_keys=True)
            if reply not in kept.setdefault(key, set()):
                kept[key].add(reply)
                out.write(line.raw)
                digest.update(line.raw)
        for key, raw in refused.items():
            if key not in kept:
                kept[key] = set()
                out.write(raw)
                digest.update(raw)
        out.flush()
        os.fsync(out.fileno())
    if damaged:
        with (folder / "damaged.txt").open("ab") as aside:
            aside.write(damaged)
            aside.flush()
            os.fsync(aside.fileno())
    # the name sorts before all others: what was stored first stays first
    whole = temporary.rename(folder / f"00000000T000000-{digest.hexdigest()[:12]}.jsonl")
    for segment in old:
        if segment != whole:
            segment.unlink()
    return len(old), len(kept)
