"""The students that answer for the arms of one job: their base is loaded once, the first time that one is asked."""

from __future__ import annotations

from pathlib import Path

from tuneproof.answers.arms import Arm
from tuneproof.errors import InputError
from tuneproof.llm import transformers, vllm
from tuneproof.llm.calls import Engine
from tuneproof.study import Decoding
from tuneproof.training.fused import fuse


class Students:
    """A base model and its adapters. What an arm is answered does not depend on the others that share the base."""

    def __init__(self, decoding: Decoding, arms: list[Arm]) -> None:
        locks = {arm.student for arm in arms}
        if len(locks) != 1:
            raise InputError(
                f"--arms: they are of {len(locks)} models ({', '.join(map(str, sorted(locks)))}), expected one"
            )
        (self._lock,) = locks
        self._decoding = decoding
        self._adapters = list(dict.fromkeys(arm.adapter_folder for arm in arms if arm.adapter_folder))
        self._base: transformers.Base | vllm.Base | None = None
        self._ids: dict[Path | None, str] = {}

    def id_of(self, arm: Arm) -> str:
        """Return the identity of the engine that answers for an arm; nothing is loaded for that."""
        adapter = arm.adapter_folder
        if adapter not in self._ids:
            together = self._decoding.batch_size
            if self._decoding.engine == "vllm":
                self._ids[adapter] = vllm.student_id(self._lock, adapter, together, vllm.rank_of(self._adapters))
            else:
                self._ids[adapter] = transformers.engine_id(self._lock, adapter, together, self._decoding.precision)
        return self._ids[adapter]

    def engine(self, arm: Arm) -> Engine:
        """Return the engine of an arm, on the base that all arms share."""
        together = self._decoding.batch_size
        if self._base is None:
            if self._decoding.engine == "vllm":
                self._base = vllm.Base(self._lock, self._adapters, together)
            else:
                # PEFT's own layers turn their input into fp32 and back; training has not done so either
                self._base = transformers.Base(self._lock, self._decoding.precision, fuse)
        return self._base.engine(arm.adapter_folder, together)
