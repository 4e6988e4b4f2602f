"""Progress with rate and time left: a moving bar on a terminal, a readable line every few seconds in a log."""

from __future__ import annotations

import sys
from typing import Any

_LOG_INTERVAL_S = 10.0


def progress(total: int | None, unit: str, what: str, initial: int = 0, scale: bool = False) -> Any:
    """Return a tqdm bar over `total` units of work; a log gets one line per ten seconds, not a thousand per second."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit=unit,
        desc=what,
        initial=initial,
        unit_scale=scale,
        file=sys.stderr if terminal else _LineWriter(),
        mininterval=0.2 if terminal else _LOG_INTERVAL_S,
        maxinterval=_LOG_INTERVAL_S,
        dynamic_ncols=terminal,
        ncols=None if terminal else 100,
        ascii=not terminal,
    )


class _LineWriter:
    """A log wants lines: what tqdm paints over with carriage returns becomes one line each."""

    def write(self, text: str) -> int:
        line = text.strip("\r\n ")
        if line:
            print(line, file=sys.stderr, flush=True)
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()
