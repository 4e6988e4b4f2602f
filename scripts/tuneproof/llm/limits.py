"""How fast a provider may be asked: requests and tokens per minute, concurrency that gives way, when to try again.

Everything here is arithmetic over a clock that is handed in; the waiting is done by api.py.
"""

from __future__ import annotations

import email.utils
import math
import re
from collections.abc import Mapping
from random import Random

_BACKOFF_MAX_S = 60.0
_AWAY = 8  # so many calls that fail in a row are no fault of the calls
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


class Bucket:
    """A token bucket: `per_minute` units flow in, at most a minute's worth stay. None: unlimited until told."""

    def __init__(self, per_minute: float | None, now: float) -> None:
        self._size = math.inf if per_minute is None else float(per_minute)
        self._level, self._rate, self._at = self._size, self._size / 60, now

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until `amount` may be taken; one larger than the bucket waits for a full bucket."""
        self._flow(now)
        lacking = min(amount, self._size) - self._level
        return lacking / self._rate if lacking > 0 else 0.0

    def take(self, amount: float, now: float) -> None:
        """Take `amount`; the level may fall below zero, and a negative amount gives back."""
        self._flow(now)
        self._level = min(self._level - amount, self._size)

    def learn(self, limit: float, remaining: float, reset_s: float, now: float) -> None:
        """Take over what the provider says: so much is left, and all of it is back after `reset_s`.

        Right for a bucket on the provider's side and, from its last requests on, for a window that begins anew.
        """
        self._size, self._level, self._at = limit, remaining, now
        self._rate = (limit - remaining) / reset_s if limit > remaining and reset_s > 0 else limit / 60

    def _flow(self, now: float) -> None:
        if self._size < math.inf:
            self._level = min(self._size, self._level + (now - self._at) * self._rate)
        self._at = now


class Pace:
    """How the endpoint bears what it is asked: how much at once, and when again.

    A 429 takes off half a place and an answer adds one n-th: a round of n that is refused whole halves n, one that is
    answered whole adds one, and a stray refusal changes little.

    An endpoint that takes no connection, or fails `_AWAY` calls one after another, is `away`: then one call at a time
    asks whether it is back. After a 429 and while it is away all calls pause, for as long as the endpoint says, or
    longer each time.
    """

    def __init__(self, most: int, now: float, backoff_s: float, rng: Random) -> None:
        self._most, self._limit, self._paused_until = most, float(most), -math.inf
        self._backoff_s, self._rng = backoff_s, rng
        self._pauses = self._failed = 0
        self.away = False
        self.heard = now  # when the last answer came

    @property
    def limit(self) -> int:
        """The requests that may be under way at once now."""
        return 1 if self.away else int(self._limit)

    def answered(self, now: float) -> None:
        """Count an answer: whatever was wrong before is over."""
        self._limit = min(self._most, self._limit + 1 / self._limit)
        self.heard, self.away, self._pauses, self._failed = now, False, 0, 0

    def refused(self, sent: float, now: float, pause_s: float | None) -> None:
        """Count a 429; `pause_s` is how long the endpoint wants to be left alone."""
        self._limit = max(1.0, self._limit - 0.5)
        self._pause(sent, now, pause_s)

    def failed(self, sent: float, now: float, first: bool, unreachable: bool) -> bool:
        """Count a call without an answer; say whether that is the endpoint's state and not the call's fault.

        Only a call's `first` failure is evidence: one that failed before may be at fault itself.
        """
        self._failed += first
        self.away = self.away or unreachable or self._failed >= _AWAY
        if self.away:
            self._pause(sent, now, None)
        return self.away

    def wait(self, now: float) -> float:
        """Return the seconds until the provider may be asked again."""
        return max(0.0, self._paused_until - now)

    def _pause(self, sent: float, now: float, seconds: float | None) -> None:
        if seconds is None:
            if sent < self._paused_until:
                return  # sent before the pause, it says what is known
            self._pauses += 1
            seconds = backoff(self._pauses, self._backoff_s, self._rng)
        self._paused_until = max(self._paused_until, now + seconds)


def backoff(failures: int, first_s: float, rng: Random) -> float:
    """Return the seconds before the next try: doubled per failure up to a minute, with half of it drawn by lot."""
    # without the lot, requests that failed together come back together
    return min(_BACKOFF_MAX_S, first_s * 2.0 ** (failures - 1)) * rng.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str], epoch: float) -> float | None:
    """Return the seconds that a response asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as a date."""
    try:
        if value := headers.get("retry-after-ms"):
            return max(0.0, float(value) / 1000)
        value = headers.get("retry-after")
        if not value:
            return None
        if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
            return float(value)
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - epoch)
    except (ValueError, OverflowError):
        return None


def learn(requests: Bucket, tokens: Bucket, headers: Mapping[str, str], now: float) -> None:
    """Teach both buckets what a response's `x-ratelimit-*` headers say; nothing where there are none."""
    for bucket, unit in ((requests, "requests"), (tokens, "tokens")):
        limit, remaining, reset = (
            headers.get(f"x-ratelimit-{what}-{unit}") for what in ("limit", "remaining", "reset")
        )
        seconds = duration(reset) if reset else None
        if limit and remaining and seconds is not None and limit.isdigit() and remaining.isdigit() and int(limit):
            bucket.learn(int(limit), int(remaining), seconds, now)


def duration(text: str) -> float | None:
    """Return the seconds of a duration such as 6m0s, 1.5s or 20ms, or of a bare number; None for anything else."""
    if found := re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    found = _DURATION.fullmatch(text)
    if not found or not text:
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds + milliseconds / 1000
