"""Optimisers: each form takes steps as a plain reference does, and goes on bit for bit from its saved state."""

import importlib.util

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

from tuneproof.errors import InputError
from tuneproof.training import optimisers
from tuneproof.training.optimisers import trainer_optimizer

RATE, DECAY, STEPS = 1e-2, 0.1, 8


def problem():
    """A tiny regression; its first matrix is large enough (4,096 values) for moments of 8 bits."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 8))
    return model, torch.randn(STEPS, 16, 64), torch.randn(STEPS, 16, 8)


def optimizer_of(model, name, device="cpu"):
    """What the trainer makes of a method's `optimizer`."""
    chosen, _ = trainer_optimizer(name, device)
    arguments = TrainingArguments(output_dir="unused", use_cpu=True, optim=chosen, learning_rate=RATE)
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    return kind(model.parameters(), **{**options, "weight_decay": DECAY})


def steps(model, optimizer, inputs, targets):
    for x, y in zip(inputs, targets, strict=True):
        optimizer.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        optimizer.step()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trained(make):
    model, inputs, targets = problem()
    steps(model, make(model), inputs, targets)
    return weights(model)


def plain_adamw(model):
    """Loshchilov & Hutter 2019, algorithm 2, in numpy, in 64 bits."""

    class Plain:
        def __init__(self):
            self.parameters, self.t = list(model.parameters()), 0
            self.w = [p.detach().numpy().astype(np.float64) for p in self.parameters]
            self.m, self.v = ([np.zeros_like(w) for w in self.w] for _ in range(2))

        def zero_grad(self):
            model.zero_grad()

        @torch.no_grad()
        def step(self):
            self.t += 1
            for i, p in enumerate(self.parameters):
                g = p.grad.numpy().astype(np.float64)
                self.m[i] = 0.9 * self.m[i] + 0.1 * g
                self.v[i] = 0.999 * self.v[i] + 0.001 * g**2
                m, v = self.m[i] / (1 - 0.9**self.t), self.v[i] / (1 - 0.999**self.t)
                self.w[i] = self.w[i] * (1 - RATE * DECAY) - RATE * m / (np.sqrt(v) + 1e-8)
                p.copy_(torch.from_numpy(self.w[i]))

    return Plain()


def test_adamw_is_torchs_and_the_published_one():
    found = trained(lambda model: optimizer_of(model, "adamw"))
    same = trained(lambda model: torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True))
    assert torch.equal(found, same)
    assert torch.allclose(found, trained(plain_adamw), rtol=0, atol=1e-6)


def test_paged_without_a_gpu_is_adamw_and_says_so():
    name, note = trainer_optimizer("paged_adamw_32bit", "cpu")
    assert name == "adamw_torch_fused"
    assert note == "optimizer paged_adamw_32bit: nothing can be paged on cpu; torch's AdamW, the same arithmetic"
    assert trainer_optimizer("paged_adamw_32bit", "cuda") == ("paged_adamw_32bit", "")
    plain = trained(lambda model: optimizer_of(model, "adamw"))
    assert torch.equal(trained(lambda model: optimizer_of(model, "paged_adamw_32bit")), plain)


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_the_paged_arithmetic_is_adamws():
    """bitsandbytes decays a weight after its update, torch before: they differ by rate² · decay a step."""
    paged = trained(lambda model: optimizer_of(model, "paged_adamw_32bit", device="cuda"))
    plain = trained(lambda model: optimizer_of(model, "adamw"))
    assert torch.allclose(paged, plain, rtol=0, atol=STEPS * RATE**2 * DECAY)
    model, *_ = problem()
    kind = type(optimizer_of(model, "paged_adamw_32bit", device="cuda"))
    for decay, tolerance in ((0.0, 1e-6), (1e-4, 1e-6)):
        paged = trained(lambda model, d=decay: kind(model.parameters(), lr=RATE, weight_decay=d, is_paged=True))
        plain = trained(lambda model, d=decay: torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=d))
        assert torch.allclose(paged, plain, rtol=0, atol=tolerance)


def test_moments_of_8_bits_are_near():
    """8 bits hold a moment to about 1 %: after eight steps of 0.01 the weights are 0.01 apart at the most."""
    model, inputs, targets = problem()
    optimizer = optimizer_of(model, "adamw_8bit")
    steps(model, optimizer, inputs, targets)
    first, *others = [optimizer.state[p]["state1"].dtype for p in model.parameters()]
    assert first == torch.uint8 and set(others) == {torch.float32}
    apart = weights(model) - trained(lambda model: optimizer_of(model, "adamw"))
    assert 0 < apart.abs().max() < 0.01
    moved = weights(model) - weights(problem()[0])
    assert apart.norm() / moved.norm() < 0.02


@pytest.mark.parametrize("name", ["adamw", "paged_adamw_32bit", "adamw_8bit"])
def test_a_saved_state_goes_on_bit_for_bit(name, tmp_path):
    model, inputs, targets = problem()
    undisturbed = trained(lambda model: optimizer_of(model, name))
    optimizer = optimizer_of(model, name)
    steps(model, optimizer, inputs[:3], targets[:3])
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")

    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed, *_ = problem()
    resumed.load_state_dict(saved["model"])
    optimizer = optimizer_of(resumed, name)
    optimizer.load_state_dict(saved["optimizer"])
    steps(resumed, optimizer, inputs[3:], targets[3:])
    assert torch.equal(weights(resumed), undisturbed)


def test_without_bitsandbytes(monkeypatch):
    monkeypatch.setattr(optimisers, "find_spec", lambda name: None)
    assert trainer_optimizer("adamw", "cuda")[0] == "adamw_torch_fused"
    with pytest.raises(InputError, match="optimizer: 'adamw_8bit' needs bitsandbytes, which is not installed here"):
        trainer_optimizer("adamw_8bit", "cuda")


def test_a_device_without_kernels():
    assert importlib.util.find_spec("bitsandbytes"), "envs/cpu.lock has it"
    with pytest.raises(InputError, match=r"'adamw_8bit' does not run on 'meta'.*expected adamw, or a device"):
        trainer_optimizer("adamw_8bit", "meta")


@pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="bitsandbytes is not installed")
def test_moments_that_a_checkpoint_brings_back_are_paged_again(monkeypatch):
    model, inputs, targets = problem()
    optimizer = optimizer_of(model, "paged_adamw_32bit", device="cuda")  # bitsandbytes' own, on the CPU without pages
    steps(model, optimizer, inputs, targets)

    def page(parameter, dtype):
        empty = torch.zeros_like(parameter, dtype=dtype)
        empty.is_paged = parameter.numel() >= 4096  # as on a GPU: small ones are not
        return empty

    monkeypatch.setattr(optimizer, "get_state_buffer", page)
    before = {p: {k: v for k, v in s.items()} for p, s in optimizer.state.items()}
    assert optimisers.page_moments(optimizer) == 2, "both moments of the one large matrix"
    for parameter, state in optimizer.state.items():
        for name in ("state1", "state2"):
            assert torch.equal(state[name], before[parameter][name])
    assert optimisers.page_moments(optimizer) == 0, "what is paged stays"
