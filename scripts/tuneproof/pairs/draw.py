"""Draw evenly over groups, and always the same: by a hash of the id, not by the order of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tuneproof.records import content_id


def evenly(groups: Mapping[str, str], limit: int) -> set[str]:
    """Return at most `limit` of the ids (id -> group), taken from the groups in turn so that none is left out."""
    taken: Counter[str] = Counter()
    turns = []
    for row_id in sorted(groups, key=lambda i: content_id("draw", i)):
        group = groups[row_id]
        taken[group] += 1
        turns.append((taken[group], group, row_id))
    return {row_id for _, _, row_id in sorted(turns)[:limit]}
