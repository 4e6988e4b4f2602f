"""Which device a job computes on, and which arithmetic it is fast in.

A CPU without instructions for bf16 emulates it, and multiplies matrices many times slower than in fp32
(docs/training.md has the figures). So what may choose, chooses by the device.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from tuneproof.errors import InputError

Precision = Literal["bf16", "fp32"]
Wanted = Literal["auto", "bf16", "fp32"]

# the words of /proc/cpuinfo for bf16 products: Intel and AMD, Intel's tiles, ARM
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}


def device() -> str:
    """Return where torch computes, cuda or cpu; raise InputError where this job was given a GPU that it cannot use.

    A CPU would take days. Slurm names a job's GPUs in CUDA_VISIBLE_DEVICES; a torch for CPUs is asked for none.
    """
    import torch

    if torch.cuda.is_available():
        return "cuda"
    given, built_for = os.environ.get("CUDA_VISIBLE_DEVICES", ""), torch.version.cuda
    if built_for and given not in ("", "-1", "NoDevFiles"):
        raise InputError(
            f"the GPU cannot be used: CUDA_VISIBLE_DEVICES is {given!r} and torch is built for CUDA {built_for}, which "
            "the driver does not offer; expected a driver that does (`nvidia-smi` names its CUDA version), and in a "
            "container `--nv`. To compute on the CPU set CUDA_VISIBLE_DEVICES to nothing"
        )
    return "cpu"


def fast_precision(cpuinfo: Path = Path("/proc/cpuinfo")) -> Precision:
    """Return bf16 where this machine's GPU, or its CPU if there is none, multiplies in it, else fp32."""
    import torch

    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if _BF16 & set(cpuinfo.read_text().split()) else "fp32"


def resolved(wanted: Wanted) -> Precision:
    """Return the precision itself, or the fast one of this machine for auto."""
    return fast_precision() if wanted == "auto" else wanted


def gpus_of(engine: str) -> int:
    """Return the GPUs that a job of an engine computes on: vLLM has one, transformers where there is one."""
    if engine == "transformers":
        import torch

        return int(torch.cuda.is_available())
    return int(engine == "vllm")


def hardware_of(engine: str, proc: Path = Path("/proc")) -> str | None:
    """Return what a job of an engine computes on, "1 × NVIDIA H200" or "2 cores of AMD EPYC"; None for an API.

    The driver's files name the GPU: torch would take memory of it, beside vLLM's.
    """
    if engine == "openai":
        return None
    gpus = gpus_of(engine)
    file, key = ("driver/nvidia/gpus/*/information", "Model") if gpus else ("cpuinfo", "model name")
    text = next((path.read_text() for path in sorted(proc.glob(file))), "")
    found = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
    if gpus:
        return f"{gpus} × {found[1] if found else 'GPU'}"
    return f"{len(os.sched_getaffinity(0))} cores of {found[1] if found else 'CPU'}"


def dtype_of(wanted: Wanted) -> Any:
    """Return torch's type of a precision."""
    import torch

    return torch.bfloat16 if resolved(wanted) == "bf16" else torch.float32
