"""What calls cost, a ledger of it, and a budget that is never passed, however many jobs spend at once.

Every job keeps a ledger of its own: `<store>/ledger/*.jsonl`, append-only, of which the last whole line counts. Before
a job sends a call it claims what the call can cost at the most, by writing the claim and then reading the other
ledgers; where all claims together pass the budget it takes its own back. Of two jobs that claim at the same time at
least one sees the other, so no lock is needed.

A claim reaches a few calls ahead, and it is a lease: after `LEASE_S` without a line, of a job that was killed or that
waits, only what was spent and under way counts, the latter at its worst, because it may be billed. So every call
stands in a line before it is sent, and a job whose lease grew old claims anew before it sends more.
A batch has an account of its own, under its own name, which whoever collects it brings to what it cost.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tuneproof.llm.calls import Reply, Request
from tuneproof.llm.store import LEDGER, new_segment, write_whole
from tuneproof.study import Budget, Price

_AHEAD = 16  # calls that are claimed at once: a claim is a flush to the disk and a look at all ledgers
LEASE_S = 600.0
_NOTE_S = 1.0  # without a budget: between two lines; a kill loses no more than that from the account
_TAIL = 8192  # bytes at a ledger's end that are read first: a line has some 500
_MESSAGE_TOKENS = 16  # at most, around a message's text


@dataclass(frozen=True)
class Cost:
    """Tokens, and dollars where there is a price."""

    tokens: int = 0
    dollars: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.tokens + other.tokens, self.dollars + other.dollars)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.tokens - other.tokens, self.dollars - other.dollars)

    def times(self, n: int) -> Cost:
        """Return the cost of n such calls."""
        return Cost(self.tokens * n, self.dollars * n)

    def within(self, limit: Cost) -> bool:
        """Say whether neither tokens nor dollars are more than the limit's."""
        return self.tokens <= limit.tokens and self.dollars <= limit.dollars + 1e-9


def cost_of(reply: Reply, price: Price | None, batch: bool = False) -> Cost:
    """Return what an answered call costs."""
    tokens = reply.prompt_tokens + reply.completion_tokens
    return Cost(tokens, dollars(reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens, price, batch))


def dollars(prompt: float, cached: float, completion: float, price: Price | None, batch: bool = False) -> float:
    """Return dollars for so many tokens, 0 without a price; `cached` is a part of `prompt`."""
    if price is None:
        return 0.0
    of_cached = price.input if price.cached is None else price.cached
    full = ((prompt - cached) * price.input + cached * of_cached + completion * price.output) / 1e6
    return full * (1 - price.batch_discount) if batch else full


def at_most(request: Request, written: int, price: Price | None, batch: bool = False) -> Cost:
    """Return what a call that writes at most `written` tokens can cost.

    A tokenizer over bytes makes no more tokens of a prompt than there are bytes.
    """
    size = sum(len(m["content"].encode()) + _MESSAGE_TOKENS for m in request.messages)
    size += len(json.dumps(request.schema)) if request.schema else 0
    size += sum(len(c.encode()) + 4 for c in request.choices or []) + 64
    return Cost(size + written, dollars(size, 0, written, price, batch))


@dataclass
class Account:
    """A line of a ledger: what its job has spent so far, what is under way at its worst, and what is claimed in all."""

    stage: str
    llm: str
    provider: str
    calls: int = 0
    unanswered: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0
    under_way: Cost = field(default_factory=Cost)  # with the calls that may be billed though they were not answered
    claim: Cost = field(default_factory=Cost)
    job: str = field(default_factory=lambda: secrets.token_hex(8))
    at: float = 0.0  # seconds since 1970

    @property
    def needed(self) -> Cost:
        """What was spent, and what is under way."""
        return Cost(self.prompt_tokens + self.completion_tokens, self.dollars) + self.under_way

    def committed(self, now: float) -> Cost:
        """What must be counted against the budget."""
        needed, claim = self.needed, self.claim if now - self.at < LEASE_S else Cost()
        return Cost(max(needed.tokens, claim.tokens), max(needed.dollars, claim.dollars))


class Purse:
    """One job's ledger, or a batch's, and its share of the budget."""

    def __init__(
        self,
        root: Path,
        account: Account,
        budget: Budget,
        price: Price | None,
        batch: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._root, self.account, self.price, self.batch = root, account, price, batch
        self._budget, self._clock = budget, clock
        infinite = float("inf")
        self._limit = Cost(
            budget.tokens if budget.tokens is not None else 1 << 62,
            budget.dollars if budget.dollars is not None else infinite,
        )
        self._bounded = budget.tokens is not None or budget.dollars is not None
        self._descriptor: int | None = None

    def of_batch(self, name: str) -> Purse:
        """Return the purse of the batch of that name, as if nothing had happened to it yet."""
        about = Account(self.account.stage, self.account.llm, self.account.provider, job=name)
        return Purse(self._root, about, self._budget, self.price, True, self._clock)

    def hold(self, worst: Cost) -> bool:
        """Set aside what a call can cost; False where the budget has no room for it."""
        account = self.account
        claim = self._claimed()
        account.under_way += worst
        if not self._bounded:
            self._note_now_and_then()
            return True
        if account.needed.within(claim):
            if not self.batch:  # nothing of a batch is sent before all of it is held
                self._write(claim, flush=False)
            return True
        if any(self._claim(ask) for ask in (account.needed + worst.times(_AHEAD), account.needed)):
            return True
        account.under_way -= worst
        self._write(claim)
        return False

    def settle(self, worst: Cost, reply: Reply | None, billed: bool = True) -> Cost:
        """Give back what was set aside, less what the reply cost; return that.

        A call that may have been `billed` without a reply, or with one that does not say its tokens, stays counted at
        its worst.
        """
        account, cost = self.account, Cost()
        if reply is not None:
            cost = cost_of(reply, self.price, self.batch)
            account.calls += 1
            account.prompt_tokens += reply.prompt_tokens
            account.cached_tokens += reply.cached_tokens
            account.completion_tokens += reply.completion_tokens
            account.dollars += cost.dollars
        if not billed or (reply and reply.prompt_tokens):
            account.under_way -= worst
        else:
            account.unanswered += reply is None
        self._note_now_and_then()
        return cost

    def adopt(self, worst: Cost) -> None:
        """Count a call at its worst: it was made, and what it cost is not known."""
        self.account.under_way += worst
        self.account.unanswered += 1

    def note(self) -> None:
        """Write a line that claims nothing ahead."""
        self._write(self.account.needed)

    def close(self) -> None:
        """Write the last line, where there is anything to tell."""
        if self.account.calls or self.account.unanswered or self.account.at:
            self.note()
        self._leave()

    @property
    def refusal(self) -> str:
        """The sentence for a budget that is used up."""
        spent = self._others() + self.account.needed
        parts = []
        if self._limit.dollars < float("inf"):
            parts.append(f"${spent.dollars:.4f} of ${self._limit.dollars:g}")
        if self._limit.tokens < 1 << 62:
            parts.append(f"{spent.tokens:,} of {self._limit.tokens:,} tokens")
        return f"the budget is used up ({' and '.join(parts)}), and the next call could pass it"

    def _claim(self, ask: Cost) -> bool:
        self._write(ask)
        return (self._others() + ask).within(self._limit)

    def _claimed(self) -> Cost:
        # half a lease before the others count it no more, whatever their clocks say
        return self.account.claim if self._clock() - self.account.at < LEASE_S / 2 else Cost()

    def _others(self) -> Cost:
        now, own = self._clock(), self.account.job
        return sum((a.committed(now) for a in accounts(self._root / LEDGER) if a.job != own), Cost())

    def _note_now_and_then(self) -> None:
        # what a batch has cost is written when all of it is known
        if not self.batch and self._clock() - self.account.at > _NOTE_S:
            with contextlib.suppress(OSError):  # no answer is lost for it; a claim that cannot be written is an error
                self._write(self._claimed(), flush=False)

    def _write(self, claim: Cost, flush: bool = True) -> None:
        """Append a line. A kill of the process cannot undo it; a crash of the machine can if it was not flushed."""
        account = self.account
        account.claim, account.at = claim, self._clock()
        if self._descriptor is None:
            self._descriptor, _ = new_segment(self._root / LEDGER)
        line = {**vars(account), "under_way": vars(account.under_way), "claim": vars(claim)}
        try:
            write_whole(self._descriptor, (json.dumps(line) + "\n").encode())
            if flush:
                os.fsync(self._descriptor)
        except OSError:
            self._leave()  # a full disk may have taken half a line; nothing may follow it in that file
            raise

    def _leave(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def accounts(ledger: Path) -> list[Account]:
    """Return every job's account, as its last whole line has it."""
    found: dict[str, Account] = {}
    for path in sorted(ledger.glob("*.jsonl")):
        account = _last(path, max(0, path.stat().st_size - _TAIL)) or _last(path, 0)
        # a job whose disk was full, and a batch, have several files
        if account and (account.job not in found or account.at >= found[account.job].at):
            found[account.job] = account
    return list(found.values())


def _last(path: Path, start: int) -> Account | None:
    with path.open("rb") as stream:
        stream.seek(start)
        for raw in stream.read().split(b"\n")[-2::-1]:
            try:
                line = json.loads(raw)
                return Account(**{**line, "under_way": Cost(**line["under_way"]), "claim": Cost(**line["claim"])})
            except (ValueError, TypeError, KeyError):
                continue  # torn by a crash, or cut by `start`
    return None


def by_stage(ledger: Path, name: Callable[[Account], tuple[str, ...]]) -> dict[tuple[str, ...], Account]:
    """Sum the accounts under the names that `name` gives them."""
    sums: dict[tuple[str, ...], Account] = {}
    now = time.time()
    for a in accounts(ledger):
        total = sums.setdefault(name(a), Account(a.stage, a.llm, a.provider))
        for part in (
            "calls",
            "unanswered",
            "prompt_tokens",
            "cached_tokens",
            "completion_tokens",
            "dollars",
        ):
            setattr(total, part, getattr(total, part) + getattr(a, part))
        total.claim += a.committed(now)
    return sums
