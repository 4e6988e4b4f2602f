"""An arm: a run in a mode on a data set, with the files that it answers from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tuneproof.errors import InputError
from tuneproof.records import Chunk, Example, Retrieved, read_rows
from tuneproof.study import Mode


class Arm(BaseModel):
    """Which model answers what, and how: `student` is the lock of its weights, `adapter` the file of what was tuned.

    `retrieved` is there in mode rag, `chunks` in modes rag and oracle.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    mode: Mode
    dataset: str
    student: Path
    adapter: Path | None
    tests: list[Path]
    retrieved: Path | None
    chunks: Path | None

    @property
    def adapter_folder(self) -> Path | None:
        """The folder that PEFT and vLLM read."""
        return self.adapter.parent if self.adapter else None


@dataclass(frozen=True)
class Material:
    """What an arm is asked, and what its prompts may hold, by id."""

    examples: list[Example]
    retrieved: dict[str, Retrieved]
    chunks: dict[str, Chunk]


def parse_arms(texts: Sequence[str]) -> list[Arm]:
    """Read arms that a script is given, each as JSON; raise InputError where one is wrong."""
    try:
        return TypeAdapter(list[Arm]).validate_json(f"[{','.join(texts)}]")
    except ValidationError as error:
        wrong = error.errors()[0]
        key = ".".join(str(part) for part in wrong["loc"]) or "arms"
        raise InputError(f"--arms: {key}: {wrong['input']!r} is wrong: {wrong['msg']}") from None


def read_material(arm: Arm) -> Material:
    """Read an arm's tests, and what was retrieved for them."""
    return Material(
        [example for path in arm.tests for example in read_rows(path, Example)],
        {row.example_id: row for row in read_rows(arm.retrieved, Retrieved)} if arm.retrieved else {},
        _chunks(arm.chunks) if arm.chunks else {},
    )


@lru_cache(maxsize=4)  # the arms of a job read the same few corpora one after the other
def _chunks(path: Path) -> dict[str, Chunk]:
    return {chunk.id: chunk for chunk in read_rows(path, Chunk)}
