"""Merge an adapter into its base, and measure what merging changes.

A merged weight is rounded to the base's type once more: in bf16, of 8 bits of precision, an update that is smaller than
1/512 of a weight is lost in part. For an adapter that was trained beside 4-bit weights (QLoRA) there is more: the base
that it learned to correct is the quantised one, and the base that it is merged into is not. Whether that helps or
harms is measured, not argued: logits, next tokens and validation loss, before and after.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError


def read_adapter(folder: Path) -> None:
    """Raise InputError where the folder holds no adapter that PEFT could load."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file, expected an adapter of a finished run")


def load_base(student: Path) -> Any:
    """Return the base in the type of its files, on the GPU where there is one."""
    import torch
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(student, dtype="auto")
    return base.to("cuda" if torch.cuda.is_available() else "cpu")


def with_adapter(base: Any, adapter: Path) -> Any:
    """Return the base with the adapter beside it, unmerged, as it was trained."""
    from peft import PeftModel

    return PeftModel.from_pretrained(base, adapter).eval()


def logits_of(model: Any, tokens: Sequence[tuple[list[int], int]]) -> list[Any]:
    """Return, row by row, the logits that predict the answer's tokens, in fp32: one row at a time, without padding."""
    import torch

    found = []
    with torch.inference_mode():
        for ids, prompt in tokens:
            logits = model(input_ids=torch.tensor([ids], device=model.device)).logits[0]
            found.append(logits[prompt - 1 : -1].float().cpu())
    return found


def loss_of(logits: Sequence[Any], tokens: Sequence[tuple[list[int], int]]) -> float:
    """Return the mean cross-entropy of the answers' tokens, in nats."""
    import torch

    sums, count = 0.0, 0
    for row, (ids, prompt) in zip(logits, tokens, strict=True):
        target = torch.tensor(ids[prompt:])
        sums += float(torch.nn.functional.cross_entropy(row, target, reduction="sum"))
        count += len(target)
    return sums / count


def compare(before: Sequence[Any], after: Sequence[Any], tokens: Sequence[tuple[list[int], int]]) -> dict[str, Any]:
    """Return how far two models' logits are apart over the answers: differences, next tokens, validation loss."""
    import torch

    worst, sums, values, same, places = 0.0, 0.0, 0, 0, 0
    for a, b in zip(before, after, strict=True):
        apart = (a - b).abs()
        worst = max(worst, float(apart.max()))
        sums += float(apart.sum(dtype=torch.float64))
        values += apart.numel()
        same += int((a.argmax(-1) == b.argmax(-1)).sum())
        places += len(a)
    spread = math.sqrt(sum(float(a.var(-1).sum()) for a in before) / places)
    return {
        "rows": len(tokens),
        "tokens": places,
        "logits_max_difference": worst,
        "logits_mean_difference": sums / values,
        "logits_sd": spread,
        "same_next_token": same / places,
        "loss_before": loss_of(before, tokens),
        "loss_after": loss_of(after, tokens),
    }


def merged(model: Any) -> Any:
    """Return the base with the adapter in its weights; raise InputError where an update is not finite."""
    try:
        return model.merge_and_unload(safe_merge=True)
    except ValueError as error:  # PEFT's word for weights that are NaN or infinite after the merge
        raise InputError(f"the adapter cannot be merged: {error}") from None


def quantise(model: Any, double: bool) -> int:
    """Round the weights of a model to NF4 and back, in place, as QLoRA's forward pass does; return how many layers.

    bitsandbytes dequantises to the type of computation before each product, so this model's outputs are those of the
    4-bit one; the output layer is left alone, as transformers leaves it.
    """
    import torch

    try:
        from bitsandbytes import functional
    except ImportError:
        raise InputError(
            "bitsandbytes is not installed here, expected it (envs/cpu.lock), for the adapter's base is in NF4"
        ) from None
    head = model.get_output_embeddings()
    layers = 0
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and module is not head:
                packed, state = functional.quantize_4bit(
                    module.weight.data.contiguous(), quant_type="nf4", compress_statistics=double
                )
                module.weight.data = functional.dequantize_4bit(packed, state).to(module.weight.dtype)
                layers += 1
    return layers


def sentences(report: dict[str, Any]) -> list[str]:
    """Say what merging changed."""
    names = {
        "merged": "merged into the base",
        "merged_into_quantised": "merged into the 4-bit base, dequantised",
    }
    trained = "the base in 4 bits with the adapter beside it" if report["kind"] == "qlora" else "the adapter unmerged"
    said = [
        f"{name}, against {trained}: logits differ by {c['logits_mean_difference']:.4f} on average and "
        f"{c['logits_max_difference']:.3f} at most (their sd is {c['logits_sd']:.2f}); "
        f"{100 * c['same_next_token']:.1f} % of {c['tokens']:,} next tokens are the same; "
        f"validation loss {c['loss_before']:.4f} before, {c['loss_after']:.4f} after"
        for key, name in names.items()
        if (c := report.get(key))
    ]
    if report["kind"] == "qlora":
        said.append(
            f"written is the adapter {names[report['written']]}: "
            + (
                "the weights that it was trained beside"
                if report["written"] == "merged_into_quantised"
                else "whole precision, but not the weights that it was trained beside (--onto quantised gives these)"
            )
        )
    return said
