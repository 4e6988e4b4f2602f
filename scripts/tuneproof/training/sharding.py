"""Several devices: what a step sees whatever their number, and what DeepSpeed spreads over them.

ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054): zero1 spreads the moments, zero2 the gradients as well, zero3 also the
weights. The arithmetic is that of plain data parallelism.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from tuneproof.errors import InputError
from tuneproof.study import AnyMethod

_STAGES = {"zero1": 1, "zero2": 2, "zero3": 3}
_OF_MODEL = ("stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")


def stage_of(spec: AnyMethod) -> int:
    """Return the stage of ZeRO, 0 for none."""
    return _STAGES.get(spec.sharding, 0)


def deepspeed_config(spec: AnyMethod) -> dict[str, Any] | None:
    """Return what TrainingArguments(deepspeed=…) wants, or None where nothing is sharded.

    What is "auto" transformers fills from its own arguments: batch, accumulation, clipping, bf16. The optimizer and
    the schedule are not named, so that they are those of the trainer, the same as without sharding.
    """
    if spec.sharding == "none":
        return None
    stage = stage_of(spec)
    # DeepSpeed's own bucket has 5·10⁸ values on every GPU, for however small an adapter
    zero: dict[str, Any] = {"stage": stage, "reduce_bucket_size": "auto"}
    if stage == 3:
        # a checkpoint and the run's result hold whole weights
        zero["stage3_gather_16bit_weights_on_model_save"] = True
        zero.update(dict.fromkeys(_OF_MODEL, "auto"))
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": zero,
    }


def prepare_deepspeed(on_gpu: bool) -> None:
    """Call it before TrainingArguments(deepspeed=…) is made. Raises InputError where DeepSpeed is not installed.

    Without a GPU, DeepSpeed would look for one and warn, and compile a C++ extension for sums over shared memory at the
    first start, for a minute and with a compiler that an image may lack; gloo sums as well.
    """
    if not find_spec("deepspeed"):
        raise InputError(
            "sharding needs DeepSpeed, which is not installed here; expected an environment of envs/*.lock"
        )
    if on_gpu:
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def step_sentence(spec: AnyMethod, processes: int) -> str:
    """Say what a step sees: as many rows as the recipe says, whatever the number of processes."""
    batches = spec.accumulation * spec.devices
    several = "processes" if processes > 1 else "process"
    sentence = (
        f"a step of {batches * spec.batch_size} rows: {spec.batch_size} × {batches // processes} accumulated × "
        f"{processes} {several}"
    )
    if processes != spec.devices:
        sentence += f" (the recipe has {spec.devices} device{'s' if spec.devices > 1 else ''})"
    return sentence
