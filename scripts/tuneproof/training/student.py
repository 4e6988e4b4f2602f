"""The student as a method trains it: with adapters, with adapters beside 4-bit weights, or all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuneproof.arithmetic import dtype_of
from tuneproof.errors import InputError
from tuneproof.study import AnyMethod, Full, QLoRA

_HEAD = "lm_head"


def check_student(spec: AnyMethod, folder: Path) -> None:
    """Raise InputError for what the student's configuration rules out, before any weight is read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    longest = config.max_position_embeddings
    if spec.max_tokens > longest:
        raise InputError(f"max_tokens: {spec.max_tokens} is more than the model reads, expected at most {longest}")
    if isinstance(spec, Full) or spec.targets == "all-linear":
        return
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    known = sorted({n.split(".")[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)} - {_HEAD})
    if unknown := [target for target in spec.targets if target not in known]:
        raise InputError(f"targets: the model has no module {unknown[0]!r}, expected some of {', '.join(known)}")


def load_student(spec: AnyMethod, folder: Path, attention: str) -> Any:
    """Return the model that `spec` trains, on the CPU, or on this process's GPU where its weights are 4-bit."""
    import torch
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"attn_implementation": attention}
    if isinstance(spec, QLoRA):
        options |= _in_four_bits(spec)
    else:
        # the weights of a full tuning stay fp32: steps of 1e-5 are lost in bf16; autocast computes in bf16
        options["dtype"] = torch.float32 if isinstance(spec, Full) else dtype_of(spec.precision)
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    if isinstance(spec, QLoRA):
        _keep_differentiable(model)
    model.config.use_cache = False
    if isinstance(spec, Full):
        return model

    from peft import LoraConfig, get_peft_model

    for parameter in model.parameters():
        parameter.requires_grad = False
    lora = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=spec.targets,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)  # the adapter's own weights are fp32


def _in_four_bits(spec: QLoRA) -> dict[str, Any]:
    import os

    import torch

    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise InputError("qlora: bitsandbytes is not installed here, expected it for 4-bit weights") from None
    from transformers import BitsAndBytesConfig

    dtype = dtype_of(spec.precision)
    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=spec.double_quantisation,
        bnb_4bit_compute_dtype=dtype,
    )
    device = {"": int(os.environ.get("LOCAL_RANK", "0"))} if torch.cuda.is_available() else {"": "cpu"}
    return {"quantization_config": four, "device_map": device, "dtype": dtype}


def _keep_differentiable(model: Any) -> None:
    """Forbid bitsandbytes to repack 4-bit weights for a CPU with AVX-512.

    It does so at the first evaluation, for good, and what it then computes has no gradient: the adapters would get
    none through the layers, without a word.
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
