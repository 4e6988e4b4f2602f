"""What calls cost, a ledger of it, and a budget that is never passed, however many jobs spend at once.

Every job keeps a ledger of its own: `<store>/ledger/*.jsonl`, append-only, of which the last whole line counts. Before
a job sends a call it claims what the call can cost at the most, by writing the claim and then reading the other
ledgers; where all claims together pass the budget it takes its own back. Of two jobs that claim at the same time at
least one sees the other, so no lock is needed. A job that was killed leaves its claim behind, because calls that were
under way may be billed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tuneproof.llm.calls import Reply, Request
from tuneproof.llm.store import LEDGER, new_segment, write_whole
from tuneproof.study import Budget, Price

_AHEAD = 16  # calls that are claimed at once: a claim is a flush to the disk and a look at all ledgers
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
    """The last line of a job's ledger: what was spent so far, and what is claimed, spent part included."""

    stage: str
    llm: str
    provider: str
    calls: int = 0
    unanswered: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0
    claim: Cost = field(default_factory=Cost)

    @property
    def committed(self) -> Cost:
        """What must be counted against the budget."""
        tokens = self.prompt_tokens + self.completion_tokens
        return Cost(max(tokens, self.claim.tokens), max(self.dollars, self.claim.dollars))


class Purse:
    """One job's ledger, and its share of the budget."""

    def __init__(self, root: Path, account: Account, budget: Budget, price: Price | None, batch: bool = False) -> None:
        self._root, self.account, self.price, self.batch = root / LEDGER, account, price, batch
        infinite = float("inf")
        self._limit = Cost(
            budget.tokens if budget.tokens is not None else 1 << 62,
            budget.dollars if budget.dollars is not None else infinite,
        )
        self._bounded = budget.tokens is not None or budget.dollars is not None
        self._held, self._lost = Cost(), Cost()
        self._descriptor: int | None = None
        self._own: Path | None = None

    def hold(self, worst: Cost) -> bool:
        """Set aside what a call can cost; False where the budget has no room for it."""
        if self._bounded:
            needed = self._spent + self._held + worst
            claim = self.account.claim
            if not needed.within(claim) and not any(self._claim(ask) for ask in (needed + worst.times(_AHEAD), needed)):
                self._write(claim)
                return False
        self._held += worst
        return True

    def adopt(self, worst: Cost) -> None:
        """Set aside what a call of an earlier job can cost, which is under way and cannot be taken back."""
        self._held += worst

    def settle(self, worst: Cost, reply: Reply | None, billed: bool = True) -> Cost:
        """Give back what was set aside, less what the reply cost; return that.

        A call that may have been `billed` without a reply, or with one that does not say its tokens, stays counted at
        its worst.
        """
        self._held -= worst
        if billed and not (reply and reply.prompt_tokens):
            self._lost += worst
            self.account.unanswered += reply is None
        if reply is None:
            return Cost()
        account, cost = self.account, cost_of(reply, self.price, self.batch)
        account.calls += 1
        account.prompt_tokens += reply.prompt_tokens
        account.cached_tokens += reply.cached_tokens
        account.completion_tokens += reply.completion_tokens
        account.dollars += cost.dollars
        return cost

    def close(self) -> None:
        """Write the last line: no claim beyond what was spent or may be billed."""
        if self.account.calls or self.account.unanswered or self._own:
            self._write(self._spent + self._held)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def refusal(self) -> str:
        """The sentence for a budget that is used up."""
        spent = self._others() + self._spent
        parts = []
        if self._limit.dollars < float("inf"):
            parts.append(f"${spent.dollars:.4f} of ${self._limit.dollars:g}")
        if self._limit.tokens < 1 << 62:
            parts.append(f"{spent.tokens:,} of {self._limit.tokens:,} tokens")
        return f"the budget is used up ({' and '.join(parts)}), and the next call could pass it"

    @property
    def _spent(self) -> Cost:
        a = self.account
        return Cost(a.prompt_tokens + a.completion_tokens, a.dollars) + self._lost

    def _claim(self, ask: Cost) -> bool:
        self._write(ask)
        return (self._others() + ask).within(self._limit)

    def _others(self) -> Cost:
        return sum((a.committed for path, a in accounts(self._root) if path != self._own), Cost())

    def _write(self, claim: Cost) -> None:
        self.account.claim = claim
        if self._descriptor is None:
            self._descriptor, self._own = new_segment(self._root)
        line = {"at": time.strftime("%Y-%m-%dT%H:%M:%S"), **asdict(self.account)}
        write_whole(self._descriptor, (json.dumps(line) + "\n").encode())
        os.fsync(self._descriptor)


def accounts(ledger: Path) -> Iterable[tuple[Path, Account]]:
    """Yield every job's account, from the last whole line of its file."""
    for path in sorted(ledger.glob("*.jsonl")):
        *lines, _ = path.read_bytes().split(b"\n")
        if lines:
            line: dict[str, Any] = json.loads(lines[-1])
            del line["at"]
            yield path, Account(**{**line, "claim": Cost(**line["claim"])})


def by_stage(ledger: Path, name: Callable[[Account], tuple[str, ...]]) -> dict[tuple[str, ...], Account]:
    """Sum the accounts under the names that `name` gives them."""
    sums: dict[tuple[str, ...], Account] = {}
    for _, a in accounts(ledger):
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
        total.claim += a.committed
    return sums
