"""Ask a language model many questions: from the store where it has answered before, from the engine otherwise."""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tuneproof.errors import InputError
from tuneproof.llm.calls import FILTERED, REFUSED, Engine, Provider, Reply, Request
from tuneproof.llm.store import Store
from tuneproof.progress import progress

_LOOK_S = 2.0  # between two looks at what other jobs have stored
_REPAIR = "This is not the JSON that was asked for: {fault}. Reply with the corrected JSON and nothing else."


@dataclass(frozen=True)
class Answered:
    """A reply with the id of its call in the store.

    `fault` says why a reply cannot be used, and is empty where it can. Where a reply did not fit its schema and the
    model was asked once more, this is the second one and `first` the one that it repairs.
    """

    call_id: str
    reply: Reply
    fault: str = ""
    first: Answered | None = None


def complete(
    requests: list[Request],
    engine_id: str,
    start: Callable[[], Engine | Provider],
    store: Store,
    what: str,
    replay: bool = False,
    about: Callable[[Reply], dict[str, Any]] | None = None,
    ask_refused: bool = False,
) -> list[Answered]:
    """Answer every request, in order, with progress on stderr.

    `start` loads the engine; it is not called where the store knows every answer, so a rerun needs no model at all.
    With `replay` a call that the store does not know raises InputError. `about(reply)` is what the store's readers are
    told besides; the stage is told anyway. With `ask_refused` a stored refusal counts only in replay: the next time the
    account may be in order or the server's context longer, and to ask costs nothing.

    An engine that answers in groups gets groups that are cut from the whole list, not from what is missing, and a
    group with one unknown call is answered whole: a reply then never depends on where an earlier run was killed. What
    is stored already stays as it was. A provider is asked for what is missing only, and not for what another job has
    had answered meanwhile. Where it leaves calls unanswered
    that another try may answer, all others are stored and InputError says how many are left.
    """
    store.refresh()
    keys = [request.key(engine_id) for request in requests]
    unique = dict(zip(keys, requests, strict=True))
    known = {
        key for key in unique if (r := store.get(key)) and (replay or not ask_refused or r.finish_reason != REFUSED)
    }
    missing = {key: request for key, request in unique.items() if key not in known}
    if missing and replay:
        raise InputError(
            f"{what}: replay, and the store holds no answer to {len(missing)} of {len(unique)} calls, "
            f"the first of them {next(iter(missing))} of {engine_id}"
        )
    if missing:
        engine = start()
        assert engine.id == engine_id, f"engine {engine.id} was started for {engine_id}"
        told = about or (lambda _: {})
        began = time.monotonic()
        with progress(len(unique), "call", what) as bar:
            if hasattr(engine, "answer_each"):
                unanswered = _each(engine, unique, missing, store, what, told, bar)  # type: ignore[arg-type]
            else:
                unanswered = {}
                _groups(engine, unique, store, what, bar)
        _say(what, unique, missing, store, time.monotonic() - began)
        if unanswered:
            raise InputError(
                f"{what}: {len(unanswered)} of {len(unique)} calls got no answer, the first of them "
                f"{next(iter(unanswered))}: {next(iter(unanswered.values()))}. The others are stored; run again to ask "
                "for these"
            )
    else:
        print(f"{what}: all {len(unique)} calls from the store", file=sys.stderr)
    answers = []
    for key in keys:
        reply = store.get(key)
        assert reply is not None
        answers.append(Answered(key, reply, _unusable(reply)))
    return answers


def _groups(
    engine: Engine,
    unique: Mapping[str, Request],
    store: Store,
    what: str,
    bar: Any,
) -> None:
    order = list(unique)
    for group in (order[i : i + engine.group_size] for i in range(0, len(order), engine.group_size)):
        if all(store.get(key) for key in group):
            bar.update(len(group))
            continue
        replies = engine.answer([unique[key] for key in group], bar.update)
        fresh = zip(group, replies, strict=True)
        store.put([(key, unique[key], reply) for key, reply in fresh if store.get(key) is None], stage=what)


class _Missing(Mapping[str, Request]):
    """What is to be asked. While a provider goes through it, what other jobs have stored falls out."""

    def __init__(self, missing: Mapping[str, Request], store: Store) -> None:
        self._missing, self._store = missing, store
        self._looked, self._shared = time.monotonic(), False

    def __getitem__(self, key: str) -> Request:
        return self._missing[key]

    def __len__(self) -> int:
        return len(self._missing)

    def __iter__(self) -> Iterator[str]:
        left, shuffled = list(self._missing)[::-1], False
        while left:
            if self._shared and not shuffled:
                # two jobs that go through the same calls in the same order ask for the same one at the same time
                random.shuffle(left)
                shuffled = True
            key = left.pop()
            stored = self._store.get(key)
            if stored is None or stored.finish_reason == REFUSED:
                yield key

    def look(self) -> None:
        """Read what other jobs have stored, now and then."""
        if time.monotonic() - self._looked > _LOOK_S:
            with contextlib.suppress(OSError):  # a look that fails costs a call at the most
                self._shared |= not self._missing.keys().isdisjoint(self._store.refresh())
            self._looked = time.monotonic()


def _each(
    provider: Provider,
    unique: Mapping[str, Request],
    missing: Mapping[str, Request],
    store: Store,
    what: str,
    about: Callable[[Reply], dict[str, Any]],
    bar: Any,
) -> dict[str, str]:
    kept = counted = 0
    bar.update(len(unique) - len(missing))

    def keep(key: str, reply: Reply) -> None:
        nonlocal kept
        store.put([(key, missing[key], reply)], sync=False, stage=what, **about(reply))
        kept += 1

    def sync() -> None:
        # in another thread than `keep`: each of the two writes one of the counters
        nonlocal counted
        if (before := kept) > counted:
            store.sync()
            bar.update(before - counted)  # an answer counts from here
            counted = before
        left.look()

    left = _Missing(missing, store)
    unanswered = provider.answer_each(left, keep, sync)
    bar.update(len(missing) - len(unanswered) - counted)  # what other jobs had answered
    return unanswered


def _say(
    what: str, unique: Mapping[str, Request], missing: Mapping[str, Request], store: Store, seconds: float
) -> None:
    replies = [reply for key in missing if (reply := store.get(key))]
    prompt, completion = sum(r.prompt_tokens for r in replies), sum(r.completion_tokens for r in replies)
    print(
        f"{what}: {len(replies)} calls answered, {len(unique) - len(missing)} from the store, {seconds:.0f} s, "
        f"{prompt} prompt and {completion} completion tokens, {completion / max(seconds, 1e-9):.0f} written/s",
        file=sys.stderr,
    )


def complete_structured(
    requests: list[Request], shape: type[BaseModel], ask: Callable[[list[Request]], list[Answered]]
) -> list[Answered]:
    """Answer requests with `ask` and check every reply with pydantic; one that does not fit is asked for once more.

    The second request holds the first reply and what is wrong with it. A reply that was cut off at `max_tokens` is
    not asked for again, since the same limit would cut it again.
    """
    answered = ask(requests)
    checked = [a if a.fault else _checked(a, shape) for a in answered]
    broken = [
        i for i, a in enumerate(checked) if a.fault and not answered[i].fault and a.reply.finish_reason != "length"
    ]
    if broken:
        print(
            f"{len(broken)} of {len(requests)} replies do not fit their schema and are asked for again", file=sys.stderr
        )
        again = ask([_repair(requests[i], checked[i]) for i in broken])
        for i, second in zip(broken, again, strict=True):
            repaired = replace(second, first=checked[i])
            checked[i] = repaired if repaired.fault else _checked(repaired, shape)
    return checked


def _repair(request: Request, broken: Answered) -> Request:
    messages, said = list(request.messages), _REPAIR.format(fault=broken.fault)
    if broken.reply.text.strip():
        messages += [{"role": "assistant", "content": broken.reply.text}, {"role": "user", "content": said}]
    else:  # servers refuse an empty turn, and two turns of one side
        messages[-1] = {**messages[-1], "content": f"{messages[-1]['content']}\n\n{said}"}
    return Request(messages, request.max_tokens, request.prefill, request.schema, request.choices)


def _checked(answered: Answered, shape: type[BaseModel]) -> Answered:
    reply = answered.reply
    try:
        shape.model_validate_json(reply.text)
        return answered
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        fault = "cut off at max_tokens" if reply.finish_reason == "length" else f"{place}: {first['msg']}".lstrip(": ")
    return replace(answered, fault=fault)


def addresses(
    request: Request, engine_id: str, replies: Mapping[str, Sequence[Reply]], shape: type[BaseModel] | None = None
) -> list[str]:
    """Return where the call behind a row may be stored: at its request's address or, with `shape`, at a repair's.

    `replies` are the store's, by address.
    """
    first = request.key(engine_id)
    tried = [_checked(Answered(first, reply), shape) for reply in replies.get(first, ())] if shape else []
    return [first, *(_repair(request, answered).key(engine_id) for answered in tried if answered.fault)]


def _unusable(reply: Reply) -> str:
    if reply.finish_reason in (FILTERED, REFUSED):
        return f"{reply.finish_reason}: {reply.error}".rstrip(": ")
    return f"{REFUSED}: {reply.error}" if reply.error else ""  # the model itself declined, in words


def failures(answered: list[Answered]) -> list[dict[str, str]]:
    """Return the rows that came to nothing: call id, reason, raw text, and the raw text before the repair."""
    return [
        {
            "call_id": a.call_id,
            "reason": a.fault,
            "text": a.reply.text,
            "text_before_repair": a.first.reply.text if a.first else "",
        }
        for a in answered
        if a.fault
    ]


def refuse_above(share: float, failed: list[dict[str, str]], rows: int, path: Path) -> None:
    """Raise InputError where more than a share of the rows came to nothing; `path` holds them."""
    if len(failed) > share * rows:
        raise InputError(
            f"{len(failed)} of {rows} replies are unusable ({failed[0]['reason']}), more than max_failed "
            f"{share:g}; see {path}"
        )


def usage(
    stage: str, model: str, answered: list[Answered], dollars: Callable[[Reply], float] | None = lambda _: 0.0
) -> dict[str, Any]:
    """Return the calls and tokens behind a stage's result, each call once, whether asked now or in an earlier run.

    `repairs` of the calls were second tries after a reply that did not fit its schema; `unusable` rows came to nothing.
    `served` are the names under which the replies came. `dollars` is None where no price is known.
    """
    replies = {a.call_id: a.reply for a in answered}
    repaired = {a.first.call_id: a.first.reply for a in answered if a.first}
    replies |= repaired
    return {
        "stage": stage,
        "llm": model,
        "served": sorted({r.served for r in replies.values() if r.served}),
        "calls": len(replies),
        "prompt_tokens": sum(r.prompt_tokens for r in replies.values()),
        "completion_tokens": sum(r.completion_tokens for r in replies.values()),
        "cached_tokens": sum(r.cached_tokens for r in replies.values()),
        "dollars": round(sum(dollars(r) for r in replies.values()), 6) if dollars else None,
        "repairs": len(repaired),
        "unusable": sum(1 for a in answered if a.fault),
    }
