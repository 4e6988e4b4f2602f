"""What a step computes and keeps: FLOPs for model-FLOPs utilisation, bytes for the choice of gradient checkpointing."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneproof.arithmetic import Wanted, dtype_of

# Dense bf16 FLOP/s by NVIDIA's data sheets, by words of the device's name; the first whose words it has.
_DATA_SHEETS = {
    "H100 PCIe": 756e12, "H100 NVL": 835e12, "H200 NVL": 835e12, "H200": 989e12, "H100": 989e12, "A100": 312e12,
    "L40S": 362e12, "L40": 181e12, "A10G": 70e12, "A10": 125e12, "L4": 121e12,
}  # fmt: skip
# Of a layer's activations, in values of 2 bytes a token: kept for the way back by the norms (fp32 copies), projections,
# rotary embedding and attention's output (multiples of the hidden width) and by SwiGLU (of the intermediate width).
# Fitted to measured peaks; a test holds the estimate against one.
_KEPT_WIDTHS, _KEPT_INTERMEDIATE = 16.0, 4.0


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that its costs depend on."""

    layers: int
    width: int
    intermediate: int
    heads_width: int
    heads: int
    vocabulary: int
    weights: int  # of all linear layers but the head
    trained: int  # weights that are trained
    full: bool

    @classmethod
    def of(cls, model: Any, full: bool) -> Shape:
        """Read the sizes of a loaded model, with or without adapters."""
        config = model.config
        head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        kv = config.num_key_value_heads * head_width
        q = config.num_attention_heads * head_width
        linear = config.hidden_size * (2 * q + 2 * kv + 3 * config.intermediate_size)
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            q,
            config.num_attention_heads,
            config.vocab_size,
            config.num_hidden_layers * linear,
            sum(p.numel() for p in model.parameters() if p.requires_grad),
            full,
        )

    def flops(self, lengths: Sequence[int], answers: int) -> float:
        """Return the useful FLOPs of a training step: real tokens, logits of answers, attention under the diagonal.

        Per weight and token 2 forward and 2 back to the activations, and 2 more for a gradient of the weight's own
        where it is trained (Kaplan et al. 2020, section 2.1). Attention: 2 products forward, 4 back, each of
        2 · length² / 2 · width. Recomputed activations do not count.
        """
        tokens = sum(lengths)
        through = 4 * self.weights * tokens + 4 * self.width * self.vocabulary * answers
        own = 2 * self.weights * tokens if self.full else 6 * self.trained * tokens
        attention = 6 * self.layers * self.heads_width * sum(n * n for n in lengths)
        return float(through + own + attention)

    def activation_bytes(self, lengths: Sequence[int], answers: int, keeps_probabilities: bool) -> float:
        """Return about how many bytes of activations a batch keeps for the way back, without checkpointing."""
        tokens = sum(lengths)
        layer = 2 * tokens * (_KEPT_WIDTHS * self.width + _KEPT_INTERMEDIATE * self.intermediate)
        scores = 2 * self.heads * sum(n * n for n in lengths) / 2 if keeps_probabilities else 0
        logits = 10 * answers * self.vocabulary  # bf16, and fp32 with its gradient
        return float(self.layers * (layer + scores) + logits)


def peak_flops(device: str, precision: Wanted) -> tuple[float, str]:
    """Return the FLOP/s that utilisation is counted against, and where the figure comes from.

    A GPU is counted against bf16 in either precision: its fp32 matmuls may use tensor cores or not.
    """
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else ""
    if sheet := data_sheet(name):
        return _DATA_SHEETS[sheet], f"data sheet of the {sheet}, dense bf16"
    size = 8192 if device == "cuda" else 2048  # a GPU multiplies 2048³ in less time than it takes to wait for it
    return _matmul_flops(device, precision, size), f"{precision} matmul of {size}³, measured here"


def data_sheet(name: str) -> str | None:
    """Return the data sheet of a device's name; None for an unknown device and for a slice of one (MIG)."""
    words = set(name.replace("-", " ").split())
    if "MIG" in words:
        return None
    return next((sheet for sheet in _DATA_SHEETS if set(sheet.split()) <= words), None)


def _matmul_flops(device: str, precision: Wanted, size: int) -> float:
    import torch

    a, b = (torch.ones(size, size, dtype=dtype_of(precision), device=device) for _ in "ab")
    best = float("inf")
    for _ in range(12):
        began = time.perf_counter()
        product = torch.nn.functional.linear(a, b)
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def coming_bytes(model: Any, device: str, copies: bool, stage: int, processes: int) -> float:
    """Return the bytes that training will put on the device beside activations, as far as they are not there yet.

    Weights that are still on the CPU, and of what is trained an fp32 gradient (4 bytes) and AdamW's two moments (8).
    `copies`: autocast keeps a bf16 copy of fp32 weights. `stage` of ZeRO spreads moments (1), gradients (2) and weights
    (3) over the processes.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters() if p.device.type != device)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    parts = [(weights, 3), (4 * trained, 2), (8 * trained, 1), (2 * trained if copies else 0, 3)]
    return float(sum(size / processes if stage >= spread_from else size for size, spread_from in parts))


def free_bytes(device: str) -> float:
    """Return the memory that this process may still take: of the GPU, or of the job or machine."""
    if device == "cuda":
        import torch

        return float(torch.cuda.mem_get_info()[0])
    available = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, value = line.split(":")
        available[name] = int(value.split()[0]) * 1024
    free = float(available["MemAvailable"])
    if job := os.environ.get("SLURM_MEM_PER_NODE"):  # megabytes; Slurm kills what takes more
        free = min(free, float(job) * 2**20 - resident_bytes())
    return free / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def resident_bytes() -> float:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
