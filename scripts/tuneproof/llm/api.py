"""Chat completions over HTTP: OpenAI's endpoint, or any other that speaks its protocol (`base_url`).

The `openai` package says where to ask and with which headers, organisation and key among them; the requests go out
through aiohttp, which is what the package's own fast transport stands on, because the package's layers over it take
four fifths of the processor time (benchmarks/llm.json) and its two retries lose rows. Rows are independent of one
another: a slow or failing one holds up none, and each is stored when its answer is there.

A cause that concerns all rows (the key, the model's name, an empty account, a certificate) ends the job at once, and
what is under way is waited for and kept. A row that the provider refuses is answered with that refusal. All else is
tried again, and as long as it is the endpoint that is away, no row's tries are counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import json
import math
import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import urlsplit

from tuneproof.errors import InputError
from tuneproof.llm.budget import Cost, Purse, at_most
from tuneproof.llm.calls import FILTERED, REFUSED, Reply, Request, choice_of
from tuneproof.llm.limits import Bucket, Pace, backoff, learn, retry_after
from tuneproof.records import Message
from tuneproof.study import ApiLLM

_TOP = 20  # the most candidates for a token that the protocol gives
_SYNC_S = 0.01  # answers of so long are flushed to the disk together
_BACKOFF_S = 0.5
_DRAIN_S = 20.0  # what is under way when a job is told to end; Slurm kills 30 s after it has told
_ALL_REFUSED = 8  # so many refusals without one answer are no fault of the rows
_SAY_S = 30.0  # a longer wait of all rows is announced
_CHARS_PER_TOKEN = 4  # for tokens per minute only, and made good when the answer is there
# In place of a begun reply, which a chat endpoint does not go on with.
_ONLY = "\n\nReply with exactly one of {choices} and nothing else."
_AS_JSON = "\n\nReply with nothing but JSON of this schema:\n{schema}"


def engine_id(llm: ApiLLM) -> str:
    """Return all that a reply depends on as far as a caller can know it: the provider and the model's name."""
    said = hashlib.sha256(json.dumps(llm.body, sort_keys=True).encode()).hexdigest()[:8] if llm.body else ""
    words = "" if llm.json_schema else ".schema-in-words"
    return f"openai.{provider_of(llm)}.{llm.model}{words}" + (f".body-{said}" if said else "")


def url_of(llm: ApiLLM) -> str:
    """Return the endpoint's address. The package, told none, would take one from the environment."""
    return llm.base_url or "https://api.openai.com/v1"


def host_of(llm: ApiLLM) -> str:
    """Return the endpoint's host, with its port."""
    return urlsplit(url_of(llm)).netloc


def provider_of(llm: ApiLLM) -> str:
    """Return what stands for the endpoint in addresses and sums: its configured name, or host and path."""
    return llm.provider or (host_of(llm) + urlsplit(url_of(llm)).path).rstrip("/").removesuffix("/v1")


def key_of(llm: ApiLLM, environ: Mapping[str, str]) -> str:
    """Return the key from the environment, empty where none is needed; raise InputError where it is none."""
    if llm.key_env is None:
        return ""
    key = environ.get(llm.key_env, "").strip()
    if not key:
        raise InputError(f"the environment has no {llm.key_env}, expected the key of {llm.model} at {host_of(llm)}")
    if not re.fullmatch(r"[!-~]+", key):
        raise InputError(f"{llm.key_env} in the environment is no key: it has spaces or characters outside ASCII in it")
    return key


@dataclass(order=True)
class _Row:
    """A call that is still to be answered. Rows that wait for another try are sorted by `due`."""

    due: float
    number: int
    key: str = field(compare=False)
    request: Request = field(compare=False)
    worst: Cost = field(compare=False)
    tokens: float = field(compare=False)
    failures: int = field(default=0, compare=False)
    excused: int = field(default=0, compare=False)  # tries without an answer that were no fault of the row


@dataclass(frozen=True)
class _Failure:
    """Why a request brought no reply."""

    cause: str
    status: int = 0  # of HTTP, or what a server that says 200 to everything has in its place
    code: str = ""
    pause: float | None = None  # seconds that the endpoint asks to wait
    billed: bool = False  # perhaps
    unreachable: bool = False
    untrusted: bool = False  # no TLS with this endpoint
    said: str = ""  # an answer that is no chat completion


class OpenAI:
    """One model behind an endpoint, asked row by row with at most `max_concurrent` requests under way."""

    def __init__(
        self,
        llm: ApiLLM,
        purse: Purse,
        environ: Mapping[str, str] = os.environ,
        backoff_s: float = _BACKOFF_S,
        rng: Random | None = None,
        answered: bool = False,
    ) -> None:
        """`answered`: the store holds an answer of this model, so that a refusal is most likely the row's fault."""
        self.id = engine_id(llm)
        self._llm, self._purse, self._backoff_s, self._answered = llm, purse, backoff_s, answered
        self._rng = rng or Random()
        self._key = key_of(llm, environ)

    def answer_each(
        self, asked: Mapping[str, Request], keep: Callable[[str, Reply], object], sync: Callable[[], object]
    ) -> dict[str, str]:
        """Answer requests by key, in any order; see Provider."""
        for request in asked.values():
            arguments(self._llm, request)  # what cannot be said in the protocol is said before anything is paid
        try:
            return asyncio.run(self._answer_each(asked, keep, sync))
        finally:
            self._purse.close()

    async def _answer_each(
        self, asked: Mapping[str, Request], keep: Callable[[str, Reply], object], sync: Callable[[], object]
    ) -> dict[str, str]:
        async with _session(self._llm, self._key) as session:
            run = _Run(self._llm, self._purse, session, keep, self._backoff_s, self._rng, self._key, self._answered)
            syncing = asyncio.create_task(_sync_often(sync))
            syncing.add_done_callback(run.done)  # a disk that takes no more ends the job
            try:
                return await run.to_the_end(asked)
            finally:
                syncing.remove_done_callback(run.done)
                syncing.cancel()
                await asyncio.gather(syncing, return_exceptions=True)
                sync()


def _session(llm: ApiLLM, key: str) -> Any:
    """Return an HTTP session that knows the endpoint, with the headers that the package would send."""
    import aiohttp
    import openai

    package = openai.AsyncOpenAI(api_key=key or "none", base_url=url_of(llm))
    said = {**package.default_headers, **package.auth_headers}
    return aiohttp.ClientSession(
        str(package.base_url),
        headers={name: value for name, value in said.items() if isinstance(value, str)},
        connector=aiohttp.TCPConnector(limit=llm.max_concurrent),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=llm.timeout_s),
        proxy=_proxy(str(package.base_url)),
    )


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an endpoint. (aiohttp would look it up anew for each request.)"""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)


async def _sync_often(sync: Callable[[], object]) -> None:
    while True:
        await asyncio.sleep(_SYNC_S)
        await asyncio.to_thread(sync)


class _Run:
    """One pass over the rows. Everything happens on the event loop; `_pump` sends whatever may be sent now."""

    def __init__(
        self,
        llm: ApiLLM,
        purse: Purse,
        session: Any,
        keep: Callable[[str, Reply], object],
        backoff_s: float,
        rng: Random,
        key: str,
        answered: bool,
    ) -> None:
        now = time.monotonic()
        self._llm, self._purse, self._session, self._keep = llm, purse, session, keep
        self._backoff_s, self._rng, self._key = backoff_s, rng, key
        self._pace = Pace(llm.max_concurrent, now, backoff_s, rng)
        self._requests, self._tokens = Bucket(llm.requests_per_minute, now), Bucket(llm.tokens_per_minute, now)
        self._fresh: Iterator[_Row] = iter(())
        self._first: _Row | None = None  # taken and not sent yet: limits or budget hold it back
        self._waiting: list[_Row] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._unanswered: dict[str, str] = {}
        self._answered = answered
        self._doubtful: list[tuple[str, Reply]] = []
        self._cause = ""  # why the last request without an answer had none
        self._stop: BaseException | None = None
        self._ended = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None

    async def to_the_end(self, asked: Mapping[str, Request]) -> dict[str, str]:
        """Ask until every row is answered or given up; raise what ends the whole job."""
        self._fresh = self._rows(asked)
        loop = asyncio.get_running_loop()
        with _told_to_end(loop, self._end_early):
            self._pump()
            await self._ended.wait()
        if self._stop:
            raise self._stop
        if self._doubtful:
            raise self._for_all(self._doubtful[0][1].error)
        return self._unanswered

    def _rows(self, asked: Mapping[str, Request]) -> Iterator[_Row]:
        for number, (key, request) in enumerate(asked.items()):
            chars = sum(len(m["content"]) for m in request.messages)
            written = most_written(self._llm, request)
            worst = at_most(request, written, self._purse.price, self._purse.batch)
            yield _Row(0.0, number, key, request, worst, chars / _CHARS_PER_TOKEN + written)

    def _next(self, now: float) -> _Row | None:
        due = bool(self._waiting) and self._waiting[0].due <= now
        # one that never failed says more about an endpoint that is away
        fresh = next(self._fresh, None) if self._pace.away or not due else None
        return fresh or (heapq.heappop(self._waiting) if due else None)

    def _pump(self) -> None:
        """Send what may be sent now. Mostly called by the event loop, which goes on after an exception: this ends."""
        try:
            self._send_more()
        except Exception as error:
            self._stop = self._stop or error
        if self._stop and not self._under_way:
            self._ended.set()

    def _send_more(self) -> None:
        """Send rows as long as concurrency, limits and budget allow; otherwise see to it that `_pump` comes again."""
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
        due = math.inf
        doubt = len(self._doubtful) >= _ALL_REFUSED
        if doubt and not self._under_way:
            raise self._for_all(self._doubtful[0][1].error)
        while self._stop is None and not doubt and len(self._under_way) < self._pace.limit:
            now = time.monotonic()
            row = self._first = self._first or self._next(now)
            if row is None:
                due = self._waiting[0].due if self._waiting else math.inf
                break
            wait = max(self._pace.wait(now), self._requests.wait(1, now), self._tokens.wait(row.tokens, now))
            if wait > 0:
                due = now + wait
                break
            if not self._purse.hold(row.worst):
                if not self._under_way:  # what is under way gives back what it does not need
                    raise InputError(f"{self._purse.refusal}. {RESUME}")
                break
            self._requests.take(1, now)
            self._tokens.take(row.tokens, now)
            task = asyncio.create_task(self._try(row))
            self._first = None
            self._under_way.add(task)
            task.add_done_callback(self.done)
        if not self._under_way:
            self._wait(due)
        if self._stop is None and due < math.inf:
            self._alarm = asyncio.get_running_loop().call_later(max(due - time.monotonic(), 0), self._pump)

    def _wait(self, due: float) -> None:
        """With nothing under way: end where there is nothing to wait for, or it takes longer than patience."""
        seconds, cause = due - time.monotonic(), self._cause or "its limits are used up"
        if due == math.inf:
            self._ended.set()
        elif due - self._pace.heard > 60 * self._llm.patience_min:
            wanted = f"next try in {seconds:.0f} s, later than {self._llm.patience_min:g} min after the last answer"
            raise self._for_all(f"{cause}; {wanted}. {RESUME}")
        elif seconds > _SAY_S:
            print(f"{self._for_all(cause)}; next try in {seconds:.0f} s", file=sys.stderr)

    def done(self, task: asyncio.Task[None]) -> None:
        """Go on without a task that has ended; its exception ends the job."""
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._stop = self._stop or error
        self._pump()

    async def _try(self, row: _Row) -> None:
        """Send a row once and see what becomes of it."""
        sent, came = time.monotonic(), None
        try:
            came = await self._send(row.request)
        finally:
            billed = not isinstance(came, _Failure) or came.billed
            self._purse.settle(row.worst, came if isinstance(came, Reply) else None, billed)
        if isinstance(came, Reply):
            refuse_another_model(self._llm, came)
            reply = came
        elif refused := self._refusal(came):
            reply = refused
        else:
            self._again(row, came, sent)
            return
        now = time.monotonic()
        self._pace.answered(now)
        self._tokens.take(reply.prompt_tokens + reply.completion_tokens - row.tokens, now)
        self._answered = self._answered or reply.finish_reason != REFUSED
        if not self._answered and not _too_long(reply.error):
            self._doubtful.append((row.key, reply))  # it may concern all rows, not this one
            return
        self._keep(row.key, reply)
        if self._answered:
            for key, refused in self._doubtful:
                self._keep(key, refused)
            self._doubtful.clear()

    async def _send(self, request: Request) -> Reply | _Failure:
        import aiohttp

        content = json.dumps({"model": self._llm.model, **arguments(self._llm, request)}).encode()
        try:
            async with self._session.post("chat/completions", data=content) as response:
                said = await response.read()
        except TimeoutError:
            return _Failure(f"no answer within {self._llm.timeout_s:g} s", billed=True)
        except aiohttp.ClientError as error:
            cause = short(f"{type(error).__name__}: {error}", self._key)
            unreachable = isinstance(error, aiohttp.ClientConnectorError)
            untrusted = isinstance(error, aiohttp.ClientSSLError)  # which is a ClientConnectorError as well
            return _Failure(cause, billed=not unreachable, unreachable=unreachable, untrusted=untrusted)
        learn(self._requests, self._tokens, response.headers, time.monotonic())
        if response.status < 300:
            return _answer(request, said, self._key)
        cause, code = _refused(response, said, self._key)
        pause = retry_after(response.headers, time.time()) if response.status in (429, 503) else None
        return _Failure(cause, response.status, code, pause)

    def _for_all(self, cause: str) -> InputError:
        return InputError(f"{self._llm.model} at {host_of(self._llm)}: {cause}")

    def _refusal(self, came: _Failure) -> Reply | None:
        """Return a refusal that concerns the row alone, None where another try may help; raise where none can."""
        status, code = came.status, came.code
        if came.untrusted and not self._answered:  # later it may be a gateway that starts anew
            raise self._for_all(came.cause)
        passing = status < 400 or status in (408, 409, 425) or status >= 500
        if passing or (status == 429 and code != "insufficient_quota"):
            return None
        if code in ("content_filter", "content_policy_violation"):
            return Reply("", 0, 0, FILTERED, served=self._llm.model, error=came.cause)
        if status not in (400, 413, 422) or concerns_all(f"{code} {came.cause}"):
            raise self._for_all(came.cause)
        return Reply("", 0, 0, REFUSED, error=came.cause)

    def _again(self, row: _Row, came: _Failure, sent: float) -> None:
        """Have a row wait for another try, or give it up."""
        now, self._cause = time.monotonic(), came.cause
        if came.status == 429:
            self._pace.refused(sent, now, came.pause)
            row.excused += 1
        elif self._pace.failed(sent, now, row.failures == 0, came.unreachable):
            row.excused += 1
        else:
            row.failures += 1
        if row.failures <= self._llm.retries:
            waits = backoff(row.failures + row.excused, self._backoff_s, self._rng)
            row.due = now + (waits if came.pause is None else came.pause)
            heapq.heappush(self._waiting, row)
        elif came.said:  # nor will the next run fare better: whether the stage can do without it is for max_failed
            self._keep(row.key, Reply(came.said, 0, 0, REFUSED, error=came.cause))
        else:
            self._unanswered[row.key] = came.cause

    def _end_early(self, name: str) -> None:
        """On a signal: send nothing more, keep what is still answered within a short time."""
        self._stop = self._stop or InputError(f"ended by {name}. {RESUME}")

        def give_up() -> None:
            for task in self._under_way:
                task.cancel()

        asyncio.get_running_loop().call_later(_DRAIN_S, give_up)
        self._pump()


RESUME = "What was answered is stored; the same command goes on with the rest"


class _told_to_end:
    """Handlers for SIGTERM and SIGINT while rows are under way, where this is the main thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, act: Callable[[str], None]) -> None:
        self._loop, self._act, self._set = loop, act, list[signal.Signals]()

    def __enter__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._loop.add_signal_handler(number, self._act, number.name)
                self._set.append(number)
            except (RuntimeError, ValueError, NotImplementedError):
                return

    def __exit__(self, *_: object) -> None:
        for number in self._set:
            self._loop.remove_signal_handler(number)


def refuse_another_model(llm: ApiLLM, reply: Reply) -> None:
    """Raise InputError where another model answered than the configured one."""
    if not serves(llm.served or llm.model, reply.served):
        raise InputError(
            f"{host_of(llm)}: {reply.served!r} answered, expected {llm.served or llm.model!r} (if it is the right one, "
            f"say so under `served:`). {RESUME}"
        )


def serves(configured: str, served: str) -> bool:
    """Say whether a served name is the configured one, or a dated version of it; gpt-x-mini is not gpt-x."""
    return re.fullmatch(r"(models/)?" + re.escape(configured) + r"([-@]\d[\d-]*)?", served) is not None


def arguments(llm: ApiLLM, request: Request) -> dict[str, Any]:
    """What a request is in the protocol's words, with the configured `body` over them.

    Greedy, and with `max_tokens`, because not every server knows its successor.
    """
    said = {**_arguments(llm, request), **llm.body}
    return {name: value for name, value in said.items() if value is not None}


def most_written(llm: ApiLLM, request: Request) -> int:
    """Return how many tokens the endpoint may write to a request, those of its reasoning included."""
    said = arguments(llm, request)
    return int(said.get("max_completion_tokens") or said["max_tokens"])


def _arguments(llm: ApiLLM, request: Request) -> dict[str, Any]:
    messages = request.messages
    said: dict[str, Any] = {"messages": messages, "max_tokens": request.max_tokens, "temperature": 0}
    if request.choices:
        said["messages"] = _with(messages, _ONLY.format(choices=", ".join(c.strip() for c in request.choices)))
        return {**said, "logprobs": True, "top_logprobs": _TOP}
    if request.prefill:
        raise InputError("engine openai does not go on with a begun reply")
    if request.schema and llm.json_schema:
        shape = {"name": "reply", "schema": _strict(request.schema), "strict": True}
        said["response_format"] = {"type": "json_schema", "json_schema": shape}
    elif request.schema:
        said["messages"] = _with(messages, _AS_JSON.format(schema=json.dumps(request.schema)))
    return said


def _with(messages: list[Message], text: str) -> list[Message]:
    last = messages[-1]
    changed: Message = {**last, "content": last["content"] + text}
    return [*messages[:-1], changed]


def _strict(schema: Any) -> Any:
    """A schema without the keywords that OpenAI's strict mode refuses; the reply is checked against them here."""
    if isinstance(schema, dict):
        refused = ("minLength", "maxLength") if schema.get("type") == "string" else ()
        return {key: _strict(value) for key, value in schema.items() if key not in refused}
    return [_strict(item) for item in schema] if isinstance(schema, list) else schema


def reply_of(request: Request, completion: dict[str, Any]) -> Reply:
    """Read a chat completion; raise one of Python's lookup errors where it is none."""
    choice, usage = completion["choices"][0], completion.get("usage") or {}
    message = choice["message"]
    distribution: dict[str, float] = {}
    candidates = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs")
    if request.choices and candidates:
        weights = dict.fromkeys(request.choices, 0.0)
        for candidate in candidates:
            if said := choice_of(candidate["token"], request.choices):
                weights[said] += math.exp(candidate["logprob"])
        if total := sum(weights.values()):
            distribution = {name: weight / total for name, weight in weights.items()}
    text, refusal = message.get("content") or "", message.get("refusal")
    text.encode()  # half a character can be said in JSON and stored nowhere
    finish = choice.get("finish_reason") or "stop"
    filtered = bool(refusal) or finish.startswith(FILTERED)  # `content_filter: PROHIBITED_CONTENT`, for one
    prompt, written, both = (int(usage.get(f"{part}_tokens") or 0) for part in ("prompt", "completion", "total"))
    return Reply(
        text=text,
        prompt_tokens=prompt,
        completion_tokens=max(written, both - prompt),  # some count what was thought in the total alone
        finish_reason=FILTERED if filtered else finish,
        distribution=distribution,
        served=str(completion.get("model") or ""),
        cached_tokens=int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
        error=str(refusal or (finish if filtered and finish != FILTERED else "")),
    )


def _answer(request: Request, said: bytes, key: str) -> Reply | _Failure:
    """Read what came with HTTP status 200."""
    try:
        completion = json.loads(said)
        if not completion.get("choices") and completion.get("error"):
            words, code = _error_of(completion)
            return _Failure(short(f"HTTP status 200, {code}: {words}", key), int(code) if code.isdigit() else 0, code)
        return reply_of(request, completion)
    except Exception as error:  # JSON can be wrong in all ways
        cause = short(f"the answer is no chat completion ({type(error).__name__}: {error})", key)
        return _Failure(cause, billed=True, said=short(said.decode(errors="replace"), key) or "nothing")


def _refused(response: Any, said: bytes, key: str) -> tuple[str, str]:
    """Return a refusal as part of a sentence, and its code where it has one."""
    try:
        words, code = _error_of(json.loads(said))
    except Exception:
        words, code = said.decode(errors="replace"), ""
    return short(f"HTTP status {response.status} {response.reason or ''}: {words}", key), code


def _error_of(answer: Any) -> tuple[str, str]:
    """Return the words and the code of an error: OpenAI's, Gemini's in a list, or that of a small server."""
    answer = answer[0] if isinstance(answer, list) else answer
    error = answer.get("error") or answer
    if isinstance(error, str):
        return error, ""
    # where `code` repeats the HTTP status, `status` has the name
    return str(error.get("message") or error), str(error.get("status") or error.get("code") or "")


def concerns_all(cause: str) -> bool:
    """Say whether a refusal speaks of the account, although its status speaks of the request."""
    return re.search(r"API[ _]KEY|billing|FAILED_PRECONDITION", cause, re.IGNORECASE) is not None


def _too_long(cause: str) -> bool:
    return re.search(r"context.{0,20}(length|size|window)|too long|too large", cause, re.IGNORECASE) is not None


def short(said: str, key: str) -> str:
    """A provider's words as part of one sentence. It may repeat the key in its refusal, and sentences go to logs."""
    # the key goes first: half of it, at the cut, would not be found
    return " ".join((said.replace(key, "<key>") if key else said).split())[:300]
