"""The store of model calls: append-only JSON Lines, content-addressed. What was answered is never asked again.

One folder per engine, one segment per process: two processes never write the same file. A group of replies is one
write followed by fsync, so a kill leaves a group whole or, at worst, a torn tail, which reading drops and reports.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tuneproof.errors import InputError
from tuneproof.llm.calls import Reply, Request


class Store:
    """The replies of one engine, in memory by key, with everything new appended to this process's segment."""

    def __init__(self, root: Path, engine_id: str) -> None:
        self.folder = root / re.sub(r"[^\w.-]+", "_", engine_id)
        self._segment: Path | None = None
        self._replies: dict[str, Reply] = {}
        for segment in sorted(self.folder.glob("*.jsonl")):
            self._read(segment)

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """Return the stored reply to a call, or None."""
        return self._replies.get(key)

    def put(self, calls: list[tuple[str, Request, Reply]]) -> None:
        """Append replies as one write and flush them to the disk before returning."""
        if self._segment is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._segment = self.folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{os.uname().nodename}-{os.getpid()}.jsonl"
        lines = [
            json.dumps({"key": key, "request": asdict(request), "reply": asdict(reply)}, ensure_ascii=False) + "\n"
            for key, request, reply in calls
        ]
        with self._segment.open("ab") as stream:
            stream.write("".join(lines).encode())
            stream.flush()
            os.fsync(stream.fileno())
        self._replies.update({key: reply for key, _, reply in calls})

    def _read(self, segment: Path) -> None:
        lines = segment.read_bytes().split(b"\n")
        torn = lines.pop()  # a whole segment ends with a newline
        if torn:
            print(f"{segment}: the last line is torn ({len(torn)} bytes) and was dropped", file=sys.stderr)
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                self._replies[entry["key"]] = Reply(**entry["reply"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{segment} line {number}: {error!r}, expected a stored call") from None
