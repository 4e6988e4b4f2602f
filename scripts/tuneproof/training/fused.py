"""An adapter's share of a layer as one function, with a way back of its own.

y = W x + s B (A x). PEFT casts x to the adapter's fp32 and back, and autograd keeps what each operation produced. Here
x is read as it is, the second product is added to W x in place, and only x and the few columns of A x are kept. The
adapter's own numbers stay fp32; they are rounded to x's type where they are multiplied, as autocast does. What lies
under the adapter may be of any kind, 4-bit weights too.
"""

from __future__ import annotations

from typing import Any


def fuse(model: Any) -> int:
    """Give every LoRA layer of a PEFT model the fused function; return how many. Names and saving stay PEFT's."""
    from peft.tuners.lora.layer import Linear

    kinds: list[Any] = [Linear]
    try:
        from peft.tuners.lora.bnb import Linear4bit

        kinds.append(Linear4bit)
    except ImportError:  # without bitsandbytes
        pass
    layers = [module for module in model.modules() if type(module) in kinds and _plain(module)]
    fused = {kind: _fused(kind) for kind in {type(layer) for layer in layers}}
    for layer in layers:
        layer.__class__ = fused[type(layer)]
    return len(layers)


def _plain(layer: Any) -> bool:
    """Whether a layer is y = W x + s B (A x) and no more: no variant of LoRA, no bias in the adapter."""
    return not layer.lora_variant and not any(layer.lora_bias.values()) and not layer.fan_in_fan_out


def _fused(kind: Any) -> Any:
    import torch

    def add(output: Any, x: Any, a: Any, b: Any, scale: float) -> Any:
        """Add s B (A x) to `output`; return A x. x: … × in; output: … × out; a: rank × in; b: out × rank."""
        narrow = x.reshape(-1, x.shape[-1]) @ a.to(x.dtype).T
        output.view(-1, output.shape[-1]).addmm_(narrow, b.to(x.dtype).T, alpha=scale)
        return narrow

    class Share(torch.autograd.Function):
        """`add`, with a way back."""

        @staticmethod
        def forward(ctx: Any, output: Any, x: Any, a: Any, b: Any, scale: float) -> Any:
            narrow = add(output, x, a, b, scale)
            ctx.mark_dirty(output)
            ctx.save_for_backward(x, narrow, a, b)
            ctx.scale = scale
            return output

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            x, narrow, a, b = ctx.saved_tensors
            g = gradient.reshape(-1, gradient.shape[-1])
            back = (g @ b.to(g.dtype)).mul_(ctx.scale)
            d_b = (g.T @ narrow).to(b.dtype).mul_(ctx.scale)
            d_a = (back.T @ x.reshape(-1, x.shape[-1])).to(a.dtype)
            d_x = (back @ a.to(g.dtype)).view_as(x) if ctx.needs_input_grad[1] else None
            return gradient, d_x, d_a, d_b, None

    class Fused(kind):
        def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
            (name,) = self.active_adapters
            if self.disable_adapters or self.merged or kwargs or args or name not in self.lora_A:
                return super().forward(x, *args, **kwargs)
            output = self.base_layer(x)
            dropped = self.lora_dropout[name](x)
            share = dropped, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
            if torch.is_grad_enabled():
                return Share.apply(output, *share)
            add(output, *share)  # torch.compile looks into a function of autograd only where there is a gradient
            return output

    return Fused
