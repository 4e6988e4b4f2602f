"""From a method's `optimizer` to the one that transformers' Trainer makes.

adamw               torch's fused AdamW
paged_adamw_32bit   bitsandbytes' AdamW whose moments lie in unified memory: CUDA moves them to the host where the
                    GPU is full. Elsewhere there is nothing to move: torch's AdamW, the same arithmetic
adamw_8bit          bitsandbytes' AdamW with moments in blocks of 256 values of 8 bits and one scale (Dettmers et
                    al. 2022, arXiv:2110.02861), "block-wise" in that sense; tensors below 4,096 values stay in 32
"""

from __future__ import annotations

from importlib.util import find_spec

from tuneproof.errors import InputError


def trainer_optimizer(optimizer: str, device: str) -> tuple[str, str]:
    """Return what TrainingArguments(optim=…) wants for a method's `optimizer`, and a note for the log, often empty.

    `device` is the type of torch's device: cpu, cuda. Raises InputError where bitsandbytes is missing or has no
    kernels for the device.
    """
    if optimizer == "adamw":
        return "adamw_torch_fused", ""
    if optimizer == "paged_adamw_32bit" and device != "cuda":
        note = f"optimizer paged_adamw_32bit: nothing can be paged on {device}; torch's AdamW, the same arithmetic"
        return "adamw_torch_fused", note
    _check_bitsandbytes(optimizer, device)
    return optimizer, ""


def _check_bitsandbytes(optimizer: str, device: str) -> None:
    if not find_spec("bitsandbytes"):
        raise InputError(
            f"optimizer: {optimizer!r} needs bitsandbytes, which is not installed here; expected adamw, or an "
            "environment made from envs/*.lock"
        )
    import bitsandbytes

    if device not in bitsandbytes.supported_torch_devices:
        known = ", ".join(sorted(bitsandbytes.supported_torch_devices))
        raise InputError(
            f"optimizer: {optimizer!r} does not run on {device!r}, for which bitsandbytes has no kernels; expected "
            f"adamw, or a device of {known}"
        )
