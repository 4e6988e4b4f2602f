"""Two switches that change how a model is computed and nothing of what it is: `compile` and `liger`.

compile   Each decoder layer's forward through torch.compile. Shapes are dynamic: packed rows are of another length in
          every batch. What is compiled lies inside gradient checkpointing, which then runs it twice, as it does
          without; and attention row by row (`segments`) stays outside, because the borders of the rows are numbers
          that a compiler would take for constants.
liger     Liger's Triton kernels for the norms, the rotary embedding and SwiGLU. Its fused linear cross-entropy is left
          out: it saves the memory of logits that nobody needs, and with `answer_logits` there are none of those. 8
          answers of 40 tokens have 40 MB of logits, whole rows of 512 tokens have 500.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import Any

from tuneproof.errors import InputError
from tuneproof.study import AnyMethod


def speed_up(model: Any, spec: AnyMethod, device: str) -> None:
    """Apply the switches of `spec.speed` to a loaded model, with or without adapters; `device` is cpu or cuda.

    Raises InputError for a switch that the machine, its packages or the model's type do not allow.
    """
    if spec.speed.liger:
        _use_liger(_decoder(model), device)
    if spec.speed.compile:
        if spec.sharding == "zero3":
            raise InputError("speed.compile: zero3 gathers weights between a layer's parts; expected zero2 or less")
        _compile_layers(_decoder(model), device)


def _decoder(model: Any) -> Any:
    """The model under PEFT's wrapper, if there is one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _use_liger(model: Any, device: str) -> None:
    if device != "cuda":
        raise InputError(f"speed.liger: its kernels are Triton's and run on a GPU only, not on {device!r}")
    if not find_spec("liger_kernel"):
        raise InputError(
            "speed.liger: liger-kernel is not installed here; expected false, or an environment of envs/gpu.lock"
        )
    _find_c_compiler("speed.liger")
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    _apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False)
    # for a type of model that it does not know, Liger writes a line at a level that nobody reads
    if not uses_liger(model):
        raise InputError(f"speed.liger: liger-kernel has nothing for models of type {model.config.model_type!r}")


def uses_liger(model: Any) -> bool:
    """Whether the first decoder layer's norms and MLP are computed by Liger."""
    parts = _layers(_decoder(model))[0].named_modules()
    return any(getattr(part.forward, "__module__", "").startswith("liger_kernel") for _, part in parts)


def _compile_layers(model: Any, device: str) -> None:
    """Give the decoder layers a forward that is compiled once for all of them, at the first batch."""
    import torch

    _find_cpp_compiler() if device == "cpu" else _find_c_compiler("speed.compile")
    layers = _layers(model)
    kind: Any = type(layers[0])
    # transformers wraps a layer's forward in checkpointing when the class is made; what it wraps is compiled, and the
    # new class is wrapped in turn
    inner = getattr(kind.forward, "__wrapped__", kind.forward)
    compiled = type(kind.__name__, (kind,), {"forward": torch.compile(inner, dynamic=True)})
    for layer in layers:
        layer.__class__ = compiled


def _layers(model: Any) -> Any:
    return getattr(model, model.base_model_prefix).layers


def _find_cpp_compiler() -> None:
    from torch._inductor import exc
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        raise InputError(
            "speed.compile: on a CPU it needs a C++ compiler, and there is none here; expected g++ or clang++ on PATH, "
            "or CXX, or compile: false"
        ) from None


def _find_c_compiler(switch: str) -> None:
    """Triton, which both switches use on a GPU, compiles a small launcher for each kernel, in C."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        raise InputError(f"{switch}: Triton needs a C compiler, and there is none here; expected gcc or clang on PATH")
