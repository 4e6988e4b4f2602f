"""Attention over rows that lie one behind the other and do not see each other.

transformers hands every attention layer to the function that the model's configuration names. Two are added to its
own: `segments` for a CPU, `varlen` for a GPU. Both take the borders of the rows from `cu_seq_lens_q`, which
`packing` puts into each batch, and neither computes anything across a border.

On a CPU flash attention is no gain: the scores of rows of some hundred tokens fit its caches, and plain matmul and
softmax need fewer passes (`make bench-train` has a row for each).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

SEGMENTS = "tuneproof_segments"
VARLEN = "tuneproof_varlen"
# Queries are taken in blocks of as many rows, and keys after a block's last row are left out: half the work of a long
# row is above the diagonal.
_BLOCK = 256


def register() -> None:
    """Make both known to transformers; no mask is made for them."""
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface

    # borders read as numbers are constants to a compiler: it would compile anew for every batch
    segments = torch.compiler.disable(_segments)
    for name, function in ((SEGMENTS, segments), (VARLEN, _varlen)):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, _no_mask)


def best_for(device: str, packing: bool, precision: str) -> str:
    """Return the attention that `auto` stands for, as transformers calls it; `device` is cpu or cuda."""
    if not packing:
        return "sdpa"
    if device == "cpu" or precision == "fp32":  # flash attention has 16 bits only
        return SEGMENTS
    import torch

    # flash attention inside torch needs Ampere or newer; elsewhere rows go one by one through the same code as here
    return VARLEN if torch.cuda.get_device_capability() >= (8, 0) else SEGMENTS


def _no_mask(*_: Any, **__: Any) -> None:
    return None


def _segments(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float,
    dropout: float = 0.0,
    cu_seq_lens_q: Any = None,
    **_: Any,
) -> tuple[Any, None]:
    """Causal attention row by row. query: 1 × heads × tokens × width; result: 1 × tokens × heads × width."""
    import torch

    query, key, value = _as_computed(query, key, value)
    with torch.autocast(query.device.type, enabled=False):
        output = _function().apply(query[0], key[0], value[0], scaling, cu_seq_lens_q.tolist())
    return output.transpose(0, 1).unsqueeze(0), None


def _varlen(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float,
    dropout: float = 0.0,
    cu_seq_lens_q: Any = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[Any, None]:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1) for x in _as_computed(query, key, value))
    borders: Any = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
    output: Any = varlen_attn(q, k, v, *borders, scale=scaling, window_size=(-1, 0), enable_gqa=True)
    return output.unsqueeze(0), None


def _as_computed(*tensors: Any) -> list[Any]:
    """Under autocast the rotary embedding leaves fp32 beside bf16: return all in the type that is computed in."""
    import torch

    device = tensors[0].device.type
    on = torch.is_autocast_enabled(device)
    return [x.to(torch.get_autocast_dtype(device) if on else tensors[-1].dtype) for x in tensors]


def _parts(borders: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (where its row starts, first, last + 1) of each block of queries."""
    for start, end in itertools.pairwise(borders):
        for a in range(start, end, _BLOCK):
            yield start, a, min(a + _BLOCK, end)


def _flat(x: Any, a: int, b: int) -> Any:
    """Tokens a to b of shared × tokens × groups × width, as a view of shared × tokens · groups × width."""
    return x[:, a:b].view(x.shape[0], (b - a) * x.shape[2], x.shape[3])


def _function() -> Any:
    """The autograd function, made once: torch is imported only where training begins."""
    global _FUNCTION
    if _FUNCTION is None:
        _FUNCTION = _make_function()
    return _FUNCTION


_FUNCTION: Any = None


def _make_function() -> Any:
    import torch

    class Segments(torch.autograd.Function):
        """softmax(q kᵀ · scaling) v of each row, under the diagonal.

        Queries of heads that share keys and values lie beside each other, so that keys are never repeated, and a row's
        part of all heads is one product. The probabilities are kept for the way back, 2 bytes × heads × length² / 2 a
        row: computing them again would cost more time than this much memory is worth.
        """

        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any, scaling: float, borders: list[int]) -> Any:
            heads, tokens, width = query.shape
            shared = key.shape[0]
            groups = heads // shared
            # shared × tokens × groups × width
            q = query.reshape(shared, groups, tokens, width).transpose(1, 2).contiguous().mul_(scaling)
            k, v = key.contiguous(), value.contiguous()
            rows = min(max(b - a for a, b in itertools.pairwise(borders)), _BLOCK)
            above = torch.full((rows, rows), float("-inf"), dtype=q.dtype, device=q.device).triu_(1)[:, None]
            output = torch.empty_like(q)
            kept = []
            for start, a, b in _parts(borders):
                scores = torch.bmm(_flat(q, a, b), k[:, start:b].transpose(1, 2))
                scores.view(shared, b - a, groups, b - start)[..., a - start :] += above[: b - a, :, : b - a]
                p = torch.softmax(scores, -1)
                _flat(output, a, b).copy_(torch.bmm(p, v[:, start:b]))
                kept.append(p)
            ctx.save_for_backward(q, k, v, *kept)
            ctx.scaling, ctx.borders = scaling, borders
            return output.transpose(1, 2).reshape(heads, tokens, width)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            q, k, v, *kept = ctx.saved_tensors
            shared, tokens, groups, width = q.shape
            g = gradient.reshape(shared, groups, tokens, width).transpose(1, 2).contiguous()
            d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
            for (start, a, b), p in zip(_parts(ctx.borders), kept, strict=True):
                part = _flat(g, a, b)
                d_v[:, start:b].baddbmm_(p.transpose(1, 2), part)
                d_p = torch.bmm(part, v[:, start:b].transpose(1, 2))
                d_scores = torch._softmax_backward_data(d_p, p, -1, p.dtype)
                _flat(d_q, a, b).copy_(torch.bmm(d_scores, k[:, start:b]))
                d_k[:, start:b].baddbmm_(d_scores.transpose(1, 2), _flat(q, a, b))
            d_query = d_q.mul_(ctx.scaling).transpose(1, 2).reshape(shared * groups, tokens, width)
            return d_query, d_k, d_v, None, None

    return Segments
