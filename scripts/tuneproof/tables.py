"""Tables as CSV files: written with the first row's keys as columns, read as text by column."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError


def to_csv(rows: Sequence[Mapping[str, Any]], digits: int | None = None) -> str:
    """Return rows as CSV; None is an empty cell. `digits` rounds floats to so many significant ones: a small p stays.

    Without rows there is nothing that names the columns, and the text is empty.
    """
    stream = io.StringIO()
    if rows:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _rounded(value, digits) for key, value in row.items()} for row in rows)
    return stream.getvalue()


def read_csv(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    """Read a table whose first line names the columns; raise InputError where there is none."""
    if not path.exists():
        raise InputError(f"{path}: no such file, expected a table")
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter=delimiter))


def _rounded(value: Any, digits: int | None) -> Any:
    return float(f"{value:.{digits}g}") if digits and isinstance(value, float) else value
