"""OpenAI's batch endpoint: the same requests and the same store, at half the price, answered within a day.

Requests go up as files, answers come down as files, and a line's `custom_id` is the call's address in the store. A
batch that was submitted is never submitted again: its name and keys are in `<engine's folder>/batches/` before it is
created, its id before it is waited for, and should a kill or a broken connection fall between the two, it is found
again in the provider's list by its name. What a batch did not answer, because it expired, failed or refused, is asked
again in the next one, and no more. Each batch has its own account in the ledger: its worst case until it is collected.
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tuneproof.errors import InputError
from tuneproof.llm.api import (
    RESUME,
    arguments,
    engine_id,
    host_of,
    key_of,
    most_written,
    refuse_another_model,
    reply_of,
    short,
    url_of,
)
from tuneproof.llm.budget import LEASE_S, Cost, Purse, at_most
from tuneproof.llm.calls import FILTERED, REFUSED, Reply, Request
from tuneproof.llm.store import lines, new_segment, write_whole
from tuneproof.study import ApiLLM

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # of one file, as OpenAI's documentation has it
_ENDPOINT: Final = "/v1/chat/completions"
_ENDED = ("completed", "expired", "failed", "cancelled")
_NAME = "tuneproof"  # of the entry in a batch's metadata that holds our name for it
_TOO_MUCH = "token_limit_exceeded"  # more tokens wait in all batches than the account may have waiting
_ALL_REFUSED = 8  # so many refusals without one answer are no fault of the rows


@dataclass
class _Part:
    """Requests of one batch: our name for it, its rows' keys, the provider's batch once there is one."""

    name: str
    keys: list[str]
    batch: Any = None


class Batch:
    """One model behind a batch endpoint."""

    def __init__(
        self,
        llm: ApiLLM,
        purse: Purse,
        folder: Path,
        environ: Mapping[str, str] = os.environ,
        most_requests: int = MOST_REQUESTS,
        most_bytes: int = MOST_BYTES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import openai

        self.id = engine_id(llm)
        self._llm, self._purse, self._journal = llm, purse, folder / "batches"
        self._descriptor: int | None = None
        self._asked: dict[str, Request] = {}
        self._most_requests, self._most_bytes, self._sleep = most_requests, most_bytes, sleep
        self._key = key_of(llm, environ)
        # these few calls cost nothing and are safe to repeat, so the package's own retries serve here
        self._client = openai.OpenAI(
            api_key=self._key or "none", base_url=url_of(llm), max_retries=llm.retries, timeout=llm.timeout_s
        )

    def answer_each(
        self, asked: Mapping[str, Request], keep: Callable[[str, Reply], object], sync: Callable[[], object]
    ) -> dict[str, str]:
        """Answer requests by key; see Provider. Rows that no batch answers within `retries` rounds are returned."""
        import openai

        left, causes = dict(asked), dict[str, str]()
        self._asked = dict(left)

        def take(key: str, reply: Reply) -> None:
            keep(key, reply)
            del left[key]

        try:
            fruitless = 0
            waiting = self._open_batches(left)
            while left and fruitless <= self._llm.retries:
                before = len(left)
                submitted = {key for part in waiting for key in part.keys}
                rest = {key: request for key, request in left.items() if key not in submitted}
                waiting += [self._submit(name, part) for name, part in self._parts(rest)]
                if not waiting:
                    raise InputError(f"{self._purse.refusal}. {RESUME}")
                for part in waiting:
                    self._collect(part, left, take, sync, causes)
                if len(left) == before:
                    fruitless += 1
                    if _TOO_MUCH in causes.values():
                        self._most_requests = max(1, min(self._most_requests, before) // 2)
                    if fruitless <= self._llm.retries:
                        self._sleep(self._llm.batch_poll_s * 2**fruitless)
                waiting = []
        except openai.OpenAIError as error:
            raise InputError(f"{self._llm.model} at {host_of(self._llm)}: {self._said(error)}. {RESUME}") from None
        finally:
            sync()
            if self._descriptor is not None:
                os.close(self._descriptor)
        return {key: causes.get(key, "no batch answered it") for key in left}

    def _parts(self, left: Mapping[str, Request]) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Cut what is left into files that the endpoint takes, as lines by key, each with a name and a purse."""
        keys = iter(left)
        key = next(keys, None)
        while key is not None:
            name, part, size = secrets.token_hex(16), dict[str, bytes](), 0
            purse, room = self._purse.of_batch(name), True
            while key is not None:
                body = {"model": self._llm.model, **arguments(self._llm, left[key])}
                content = {"custom_id": key, "method": "POST", "url": _ENDPOINT, "body": body}
                line = json.dumps(content, ensure_ascii=False).encode() + b"\n"
                if part and (len(part) == self._most_requests or size + len(line) > self._most_bytes):
                    break
                if not (room := purse.hold(self._at_most(left[key]))):
                    break  # what this file costs less than it could will be there for the next one
                part[key] = line
                size += len(line)
                key = next(keys, None)
            purse.note()
            purse.close()
            if part:
                yield name, part
            if not room:
                return

    def _at_most(self, request: Request) -> Cost:
        return at_most(request, most_written(self._llm, request), self._purse.price, batch=True)

    def _submit(self, name: str, lines: Mapping[str, bytes]) -> _Part:
        """Upload a file and start a batch. Where it is not known whether one was created, look before trying again."""
        import openai

        part = _Part(name, list(lines))
        self._note({"name": name, "keys": part.keys, "at": time.time()})
        content = (f"{name}.jsonl", io.BytesIO(b"".join(lines.values())))
        try:
            file = self._client.files.create(file=content, purpose="batch")
            for left in range(self._llm.retries, -1, -1):
                try:
                    part.batch = self._client.with_options(max_retries=0).batches.create(
                        completion_window="24h", endpoint=_ENDPOINT, input_file_id=file.id, metadata={_NAME: name}
                    )
                except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError):
                    self._sleep(self._llm.batch_poll_s)
                    part.batch = self._by_name().get(name)
                    if part.batch is None and not left:
                        raise
                if part.batch is not None:
                    break
        except openai.APIStatusError as error:
            if error.status_code < 500:
                self._end(part, self._purse.of_batch(name))  # there is none, and nothing to pay
            raise
        self._note({"name": name, "batch": part.batch.id})
        return part

    def _collect(
        self,
        part: _Part,
        left: dict[str, Request],
        take: Callable[[str, Reply], None],
        sync: Callable[[], object],
        causes: dict[str, str],
    ) -> None:
        """Wait until a batch has ended and take what it answered, a part of it or all."""
        import openai

        try:
            batch = self._wait(part.batch)
            files = [file for file in (batch.output_file_id, batch.error_file_id) if file]
            contents = [self._client.files.content(file).content for file in files]
        except openai.NotFoundError as error:
            print(f"batch {part.batch.id} is gone ({self._said(error)}); it counts at its worst", file=sys.stderr)
            self._note({"name": part.name, "ended": part.keys})
            return
        errors = batch.errors.data if batch.errors and batch.errors.data else []
        purse = self._purse.of_batch(part.name)
        if batch.status == "failed":
            self._end(part, purse)
            if any(e.code == _TOO_MUCH for e in errors):
                causes |= dict.fromkeys(part.keys, _TOO_MUCH)
                return
            cause = short("; ".join(str(e.message) for e in errors) or "no reason given", self._key)
            raise InputError(f"{host_of(self._llm)}: batch {batch.id} failed: {cause}. {RESUME}")
        refused: dict[str, Reply] = {}
        for content in contents:
            for line in content.split(b"\n"):  # not at what else ends a line for Python: answers may hold it
                if line.strip():
                    self._take(line, left, take, refused, causes, purse)
        sync()
        known = len(refused) < _ALL_REFUSED and any(self._journal.parent.glob("*.jsonl"))
        if refused and not purse.account.calls and not known:
            self._end(part, purse)
            cause = next(iter(refused.values())).error
            raise InputError(f"{self._llm.model} at {host_of(self._llm)}: batch {batch.id} has no answer: {cause}")
        for key, reply in refused.items():
            take(key, reply)
        sync()
        self._end(part, purse, [key for key in part.keys if key in self._asked])

    def _wait(self, batch: Any) -> Any:
        """Look at a batch until it has ended, through lost connections that last no longer than the patience."""
        import openai

        status, heard = "", time.monotonic()
        while True:
            if batch.status != status:
                status, counts = batch.status, batch.request_counts
                print(
                    f"batch {batch.id}: {status}" + (f", {counts.completed} of {counts.total}" if counts else ""),
                    file=sys.stderr,
                )
            if status in _ENDED:
                return batch
            self._sleep(self._llm.batch_poll_s)
            try:
                batch, heard = self._client.batches.retrieve(batch.id), time.monotonic()
            except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
                if time.monotonic() - heard > 60 * self._llm.patience_min:
                    raise
                print(f"batch {batch.id}: {self._said(error)}; looking again", file=sys.stderr)

    def _take(
        self,
        line: bytes,
        left: Mapping[str, Request],
        take: Callable[[str, Reply], None],
        refused: dict[str, Reply],
        causes: dict[str, str],
        purse: Purse,
    ) -> None:
        """Take one line of an answer; what it cost counts whether or not this job asks for it."""
        found = re.search(rb'"custom_id":\s*"(\w+)"', line)
        key = found[1].decode() if found else ""
        request = self._asked.get(key, Request([], 0))
        try:
            said = json.loads(line)
            response = said.get("response") or {}
            status, body = int(response.get("status_code") or 0), response.get("body") or {}
            if status == 200:
                reply = reply_of(request, body)
            else:
                error = said.get("error") or body.get("error") or {}
                code = str(error.get("code") or "")
                cause = short(f"HTTP status {status}: {code} {error.get('message', '')}", self._key)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as fault:
            causes[key] = short(f"the answer is no chat completion ({fault!r})", self._key)
            purse.adopt(self._at_most(request))
            return
        if status == 200:
            refuse_another_model(self._llm, reply)
            purse.settle(Cost(), reply)
            if key in left:
                take(key, reply)
        elif key in left and code == "content_filter":
            take(key, Reply("", 0, 0, FILTERED, served=self._llm.model, error=cause))
        elif key in left and status in (400, 413, 422):
            refused[key] = Reply("", 0, 0, REFUSED, error=cause)
        else:
            causes[key] = cause  # batch_expired, server errors: the next batch asks again

    def _said(self, error: Exception) -> str:
        return short(f"{type(error).__name__}: {error}", self._key)

    # --- what was submitted ---

    def _note(self, line: dict[str, Any]) -> None:
        if self._descriptor is None:
            self._descriptor, _ = new_segment(self._journal)
        write_whole(self._descriptor, json.dumps(line).encode() + b"\n")
        os.fsync(self._descriptor)

    def _end(self, part: _Part, purse: Purse, keys: list[str] | None = None) -> None:
        """Write what a batch has cost, then that it need not be asked for these rows, by default all, again."""
        purse.note()
        purse.close()
        self._note({"name": part.name, "ended": part.keys if keys is None else keys})

    def _by_name(self) -> dict[str, Any]:
        """Return all the provider's batches by the names that we gave them, page by page."""
        return {(batch.metadata or {}).get(_NAME, ""): batch for batch in self._client.batches.list(limit=100)}

    def _open_batches(self, left: Mapping[str, Request]) -> list[_Part]:
        """Return the batches of earlier runs that may answer what is left."""
        import openai

        parts, ids, ended = dict[str, _Part](), dict[str, str](), dict[str, set[str]]()
        begun: dict[str, float] = {}
        for path in sorted(self._journal.glob("*.jsonl")):
            for content in (line.content for line in lines(path) if line.content):
                name = content["name"]
                if "keys" in content:
                    parts[name], begun[name] = _Part(name, content["keys"]), content["at"]
                elif "batch" in content:
                    ids[name] = content["batch"]
                else:
                    ended.setdefault(name, set()).update(content["ended"])
        unknown = parts.keys() - ids.keys() - ended.keys()
        listed = self._by_name() if unknown else {}
        for name in unknown:
            if name in listed:
                ids[name] = listed[name].id
                self._note({"name": name, "batch": ids[name]})
            elif time.time() - begun[name] > LEASE_S:  # another job may be about to create a younger one
                self._end(parts[name], self._purse.of_batch(name))
        found = []
        for name, part in parts.items():
            if name in ids and any(key in left and key not in ended.get(name, ()) for key in part.keys):
                try:
                    part.batch = self._client.batches.retrieve(ids[name])
                    found.append(part)
                except openai.NotFoundError as error:
                    print(f"batch {ids[name]} is gone ({self._said(error)}); it counts at its worst", file=sys.stderr)
                    self._note({"name": name, "ended": part.keys})
        return found
