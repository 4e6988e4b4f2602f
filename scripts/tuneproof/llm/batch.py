"""OpenAI's batch endpoint: the same requests and the same store, at half the price, answered within a day.

Requests go up as files, answers come down as files, and a line's `custom_id` is the call's address in the store. A
batch that was submitted is never submitted again: its id is in `<engine's folder>/batches/` before it is waited for,
and should a kill fall between the two, it is found again in the provider's list by the name that it was given.
What a batch did not answer, because it expired, failed or refused, is asked again in the next one, and no more.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
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
from tuneproof.llm.budget import Cost, Purse, at_most
from tuneproof.llm.calls import FILTERED, REFUSED, Reply, Request
from tuneproof.llm.store import new_segment, write_whole
from tuneproof.study import ApiLLM

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # of one file, as OpenAI's documentation has it
_ENDPOINT: Final = "/v1/chat/completions"
_ENDED = ("completed", "expired", "failed", "cancelled")
_NAME = "tuneproof"  # of the entry in a batch's metadata that holds a digest of its requests


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
        self._held: dict[str, Cost] = {}
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

        def take(key: str, reply: Reply) -> None:
            keep(key, reply)
            del left[key]

        try:
            fruitless = 0
            waiting = self._open_batches(left)
            while left and fruitless <= self._llm.retries:
                before = len(left)
                waiting = waiting or [self._submit(part) for part in self._parts(left)]
                if not waiting:
                    raise InputError(f"{self._purse.refusal}. {RESUME}")
                for batch in waiting:
                    self._collect(batch, left, take, sync, causes)
                waiting = []
                fruitless += len(left) == before
        except openai.OpenAIError as error:
            said = short(f"{type(error).__name__}: {error}", self._key)
            raise InputError(f"{self._llm.model} at {host_of(self._llm)}: {said}. {RESUME}") from None
        finally:
            sync()
            self._purse.close()
            if self._descriptor is not None:
                os.close(self._descriptor)
        return {key: causes.get(key, "no batch answered it") for key in left}

    def _parts(self, left: Mapping[str, Request]) -> Iterator[dict[str, bytes]]:
        """Cut what is left into files that the endpoint takes, as lines by key."""
        part: dict[str, bytes] = {}
        size = 0
        for key, request in left.items():
            body = {"model": self._llm.model, **arguments(self._llm, request)}
            content = {"custom_id": key, "method": "POST", "url": _ENDPOINT, "body": body}
            line = json.dumps(content, ensure_ascii=False).encode() + b"\n"
            if part and (len(part) == self._most_requests or size + len(line) > self._most_bytes):
                yield part
                part, size = {}, 0
            worst = self._at_most(request)
            if not self._purse.hold(worst):
                break  # what this file costs less than it could will be there for the next one
            self._held[key] = worst
            part[key] = line
            size += len(line)
        if part:
            yield part

    def _at_most(self, request: Request) -> Cost:
        return at_most(request, most_written(self._llm, request), self._purse.price, batch=True)

    def _submit(self, part: Mapping[str, bytes]) -> Any:
        """Upload a file and start a batch, or find the one that an earlier run started with these very requests."""
        name = hashlib.sha256(b"".join(part.values())).hexdigest()[:32]
        _, ended = self._journaled()
        for batch in self._client.batches.list(limit=100).data:
            if (batch.metadata or {}).get(_NAME) == name and batch.id not in ended:
                self._note({"batch": batch.id, "keys": list(part)})
                return batch
        content = io.BytesIO(b"".join(part.values()))
        file = self._client.files.create(file=(f"{name}.jsonl", content), purpose="batch")
        batch = self._client.batches.create(
            completion_window="24h", endpoint=_ENDPOINT, input_file_id=file.id, metadata={_NAME: name}
        )
        self._note({"batch": batch.id, "keys": list(part)})
        return batch

    def _collect(
        self,
        batch: Any,
        left: dict[str, Request],
        take: Callable[[str, Reply], None],
        sync: Callable[[], object],
        causes: dict[str, str],
    ) -> None:
        """Wait until a batch has ended and take what it answered, a part of it or all."""
        while batch.status not in _ENDED:
            self._sleep(self._llm.batch_poll_s)
            batch = self._client.batches.retrieve(batch.id)
        if batch.status == "failed":
            errors = batch.errors.data if batch.errors and batch.errors.data else []
            cause = short("; ".join(str(e.message) for e in errors) or "no reason given", self._key)
            self._note({"ended": batch.id})
            raise InputError(f"{host_of(self._llm)}: batch {batch.id} failed: {cause}. {RESUME}")
        for file in (batch.output_file_id, batch.error_file_id):
            if file:
                for line in self._client.files.content(file).iter_lines():
                    if line.strip():
                        self._take(json.loads(line), left, take, causes)
                sync()
        # a row that stands in neither file was not asked
        batches, _ = self._journaled()
        for key in [key for key in batches[batch.id] if key in self._held]:
            self._purse.settle(self._held.pop(key), None, billed=False)
        self._note({"ended": batch.id})

    def _take(
        self,
        line: dict[str, Any],
        left: dict[str, Request],
        take: Callable[[str, Reply], None],
        causes: dict[str, str],
    ) -> None:
        key = line["custom_id"]
        if key not in left:
            return
        request, response = left[key], line.get("response") or {}
        body, error = response.get("body") or {}, line.get("error") or {}
        if response.get("status_code") == 200:
            try:
                reply = reply_of(request, body)
            except (KeyError, IndexError, TypeError, ValueError) as fault:
                causes[key] = f"the answer is no chat completion ({fault!r})"
                return
            refuse_another_model(self._llm, reply)
            self._purse.settle(self._held.pop(key), reply)
            take(key, reply)
            return
        error = error or body.get("error") or {}
        status, code = int(response.get("status_code") or 0), str(error.get("code") or "")
        cause = short(f"HTTP status {status}: {code} {error.get('message', '')}", self._key)
        self._purse.settle(self._held.pop(key), None, billed=False)
        if status in (400, 413, 422):
            filtered = code == "content_filter"
            served = self._llm.model if filtered else ""
            take(key, Reply("", 0, 0, FILTERED if filtered else REFUSED, served=served, error=cause))
        else:
            causes[key] = cause  # batch_expired, server errors: the next batch asks again

    # --- what was submitted ---

    def _note(self, line: dict[str, Any]) -> None:
        if self._descriptor is None:
            self._descriptor, _ = new_segment(self._journal)
        write_whole(self._descriptor, json.dumps(line).encode() + b"\n")
        os.fsync(self._descriptor)

    def _journaled(self) -> tuple[dict[str, list[str]], set[str]]:
        """Return the batches of all jobs with their keys, and which of them have been collected."""
        lines: list[dict[str, Any]] = []
        for path in sorted(self._journal.glob("*.jsonl")):
            lines += [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        return {line["batch"]: line["keys"] for line in lines if "batch" in line}, {
            line["ended"] for line in lines if "ended" in line
        }

    def _open_batches(self, left: Mapping[str, Request]) -> list[Any]:
        """Return the batches of earlier runs that may answer what is left."""
        batches, ended = self._journaled()
        found = []
        for batch_id, keys in batches.items():
            wanted = [key for key in keys if key in left]
            if wanted and batch_id not in ended:
                found.append(self._client.batches.retrieve(batch_id))
                for key in wanted:
                    self._held[key] = self._at_most(left[key])
                    self._purse.adopt(self._held[key])
        return found
