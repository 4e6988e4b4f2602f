"""From a method's `optimizer` to the one that transformers' Trainer makes.

adamw               torch's fused AdamW
paged_adamw_32bit   bitsandbytes' AdamW whose moments lie in unified memory: CUDA moves them to the host where the
                    GPU is full. Elsewhere there is nothing to move: torch's AdamW, the same arithmetic
adamw_8bit          bitsandbytes' AdamW with moments in blocks of 256 values of 8 bits and one scale (Dettmers et
                    al. 2022, arXiv:2110.02861), "block-wise" in that sense; tensors below 4,096 values stay in 32
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

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


def page_moments(optimizer: Any) -> int:
    """Put moments that a checkpoint has brought back into pages again, and return how many tensors that were.

    `load_state_dict` of bitsandbytes makes ordinary tensors of them, which would stay on the GPU beside activations and
    gradients. While they are loaded, before that, weights and moments have to fit. Small ones are never paged.
    """
    moved = 0
    for parameter, state in optimizer.state.items():
        for name in ("state1", "state2"):
            moment = state.get(name)
            if moment is None or getattr(moment, "is_paged", False):
                continue
            page = optimizer.get_state_buffer(parameter, dtype=moment.dtype)
            if getattr(page, "is_paged", False):
                page.copy_(moment)
                state[name] = page
                moved += 1
    return moved


def paging_callback() -> Any:
    """Return the callback that pages a resumed optimiser's moments, which the trainer loads before training begins."""
    import torch
    from transformers import TrainerCallback

    class Paging(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
            if inner is not None and page_moments(inner):
                torch.cuda.synchronize()
                torch.cuda.empty_cache()

    return Paging()
