"""BMUF: the numbers of a plain reference, a trainer beside one that exchanges every gradient, and a killed run."""

import itertools
import json

import bmuf_numbers
import numpy as np
import pytest
import torch
from processes import run_together
from safetensors.torch import load_file

from tuneproof.errors import InputError
from tuneproof.study import BMUF
from tuneproof.training.bmuf import Filter

ROWS, INPUTS = 16, 6


def problem(workers, steps):
    """A linear regression; each worker has rows of its own for each step."""
    random = np.random.default_rng(7)
    inputs = random.normal(size=(workers, steps, ROWS, INPUTS))
    targets = inputs @ random.uniform(-0.5, 0.5, INPUTS) + 0.1 * random.normal(size=(workers, steps, ROWS))
    values = {"start": random.uniform(-0.5, 0.5, INPUTS), "inputs": inputs, "targets": targets}
    return {key: value.astype(np.float32) for key, value in values.items()}


class PlainAdamW:
    """Loshchilov & Hutter 2019, algorithm 2."""

    def __init__(self, rate):
        self.rate, self.m, self.v, self.t = rate, 0.0, 0.0, 0

    def step(self, w, g):
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * g, 0.999 * self.v + 0.001 * g**2
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return w * (1 - self.rate * 0.01) - self.rate * m / (np.sqrt(v) + 1e-8)


def reference(case, values):
    """Return W after every step (inside a block: that of the block before), and at the end."""
    bmuf, (workers, steps) = case["bmuf"], values["inputs"].shape[:2]
    momentum = 1 - 1 / workers if bmuf.get("momentum") is None else bmuf["momentum"]
    optimizers = [PlainAdamW(case["rate_of_learning"]) for _ in range(workers)]
    x, y = (values[key].astype(np.float64) for key in ("inputs", "targets"))
    model = start = values["start"].astype(np.float64)
    delta, own, models = 0.0, [start] * workers, []
    for step in range(steps):
        for i, optimizer in enumerate(optimizers):
            gradient = 2 / ROWS * x[i, step].T @ (x[i, step] @ own[i] - y[i, step])
            own[i] = optimizer.step(own[i], gradient)
        if (step + 1) % bmuf["block_steps"] == 0 or step + 1 == steps:
            delta = momentum * delta + bmuf.get("rate", 1.0) * (np.mean(own, axis=0) - start)
            model = model + delta
            start = model + momentum * delta if bmuf["form"] == "nesterov" else model
            own = [start] * workers
            if bmuf.get("moments") == "reset":
                optimizers = [PlainAdamW(case["rate_of_learning"]) for _ in range(workers)]
            if bmuf.get("moments") == "average":
                m, v = (np.mean([getattr(o, key) for o in optimizers], axis=0) for key in "mv")
                for optimizer in optimizers:
                    optimizer.m, optimizer.v = m, v
        models.append(model)
    return np.stack([*models, model])


def cases():
    every = {
        f"{form}-{moments}": {"form": form, "block_steps": 3, "moments": moments}
        for form, moments in itertools.product(("classical", "nesterov"), ("keep", "reset", "average"))
    }
    every["averaging"] = {"form": "classical", "block_steps": 4, "momentum": 0.0}
    every["rate"] = {"form": "nesterov", "block_steps": 2, "momentum": 0.6, "rate": 0.8}
    every["one-block"] = {"form": "nesterov", "block_steps": 100}
    return {name: {"bmuf": bmuf, "rate_of_learning": 0.01} for name, bmuf in every.items()}


def check(models, case, values):
    wanted = reference(case, values)
    assert np.abs(models - wanted).max() < 1e-6, case
    assert np.abs(models[-1] - models[0]).max() > 0.05, "it has learned something"


@pytest.mark.parametrize("workers", [2, 4])
def test_every_form_gives_the_references_numbers(tmp_path, workers):
    values = problem(workers, steps=11)  # the last block has two steps of three
    (tmp_path / "cases.json").write_text(json.dumps(cases()))
    np.savez(tmp_path / "problem.npz", **values)
    run_together("bmuf_numbers", workers, tmp_path / "cases.json", tmp_path / "problem.npz", tmp_path)
    for name, case in cases().items():
        check(np.load(tmp_path / f"{name}.npz")["models"], case, values)


@pytest.mark.parametrize("name", cases())
def test_one_worker_filters_its_own_updates(name):
    values = problem(1, steps=11)
    check(bmuf_numbers.train(cases()[name], values), cases()[name], values)


# --- in a trainer, by two processes ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What bmuf_trainer.py has left, and the weights of its first and its second process."""
    out = tmp_path_factory.mktemp("bmuf")
    run_together("bmuf_trainer", 2, out, DS_ACCELERATOR="cpu")
    return out, *(dict(np.load(out / f"weights.{rank}.npz")) for rank in (0, 1))


def test_it_learns_what_ddp_learns(trained):
    losses = json.loads((trained[0] / "losses.json").read_text())
    assert losses["untrained"] > 0.7 and losses["ddp"] < 0.02
    for form in ("classical", "nesterov"):
        assert losses[form] == pytest.approx(losses["ddp"], abs=0.01), "after the same rows, 960 of each"


@pytest.mark.parametrize("batches", ["", "-accumulated"])
def test_averaging_after_each_step_of_sgd_is_ddp(trained, batches):
    """The mean of the workers' steps is the step along the mean of their gradients, without moments and clipping."""
    weights = trained[1]
    assert np.abs(weights[f"averaged-sgd{batches}"] - weights[f"ddp-sgd{batches}"]).max() < 1e-6


def test_what_is_evaluated_is_one_model(trained):
    """Evaluations after 7 and 14 steps fall into blocks of 4: no worker's own weights are evaluated there."""
    _, first, second = trained
    evaluated = [name for name in first if "evaluated" in name]
    assert len(evaluated) == 10 and all(np.array_equal(first[name], second[name]) for name in evaluated)


@pytest.mark.parametrize("moments", ["keep", "average"])
def test_left_inside_a_block_it_goes_on_bit_for_bit(trained, moments):
    _, first, second = trained
    for weights in (first, second):
        for what in (f"{moments}", f"{moments} evaluated at 14"):
            assert np.array_equal(weights[f"whole {what}"], weights[f"left {what}"])


def test_what_a_checkpoint_holds(trained):
    checkpoint = trained[0] / "left-keep" / "checkpoint-10"
    names = ["bmuf.rank0.safetensors", "bmuf.rank1.safetensors", "bmuf.safetensors"]
    assert sorted(path.name for path in checkpoint.glob("bmuf*")) == names
    assert set(names) <= set(json.loads((checkpoint / "complete.json").read_text())), "and they are sealed"
    own = [load_file(checkpoint / name) for name in names[:2]]
    assert not torch.equal(own[0]["weight/inner.weight"], own[1]["weight/inner.weight"]), "inside a block"
    assert not any("outer.bias" in name for name in own[0]), "what is frozen is neither exchanged nor saved"


def test_a_checkpoint_is_of_the_workers_that_saved_it(trained):
    weight = torch.nn.Parameter(torch.zeros(3))
    alone = Filter(BMUF(), {"w": weight})
    said = r"checkpoint-10: saved by 2 workers of bmuf, this attempt has 1; start it with 2 devices, or remove"
    with pytest.raises(InputError, match=said):
        alone.load(trained[0] / "left-keep" / "checkpoint-10", torch.optim.AdamW([weight]))
    said = "plain/checkpoint-5: no bmuf.safetensors, expected a checkpoint of a training with bmuf"
    assert (trained[0] / "said.txt").read_text().endswith(said)


# --- with moments of 8 bits ---


def learn(weight, optimizer, steps, bmuf):
    for step in steps:
        bmuf.hide()
        weight.grad = torch.sin(torch.arange(weight.numel()) * (1.0 + step))
        optimizer.step()
        bmuf.step(optimizer)


@pytest.mark.parametrize("moments", ["keep", "reset"])
def test_moments_of_8_bits_go_through_a_checkpoint(tmp_path, moments):
    from bitsandbytes.optim import AdamW

    spec, found = BMUF(block_steps=3, moments=moments, momentum=0.5), []
    for stop in (8, 5):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 4096))
        optimizer = AdamW([weight], lr=0.01, optim_bits=8)
        bmuf = Filter(spec, {"w": weight})
        learn(weight, optimizer, range(stop), bmuf)
        if stop < 8:
            bmuf.save(tmp_path, optimizer)
            other = torch.nn.Parameter(torch.zeros(4096))
            optimizer = AdamW([other], lr=0.01, optim_bits=8)
            bmuf = Filter(spec, {"w": other})
            bmuf.load(tmp_path, optimizer)
            learn(other, optimizer, range(stop, 8), bmuf)
            weight = other
        bmuf.finish(optimizer)
        found.append(weight.detach())
    assert torch.equal(*found)


def test_reset_is_a_new_optimizer():
    from bitsandbytes.optim import AdamW

    def with_reset(make, reset):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 4096))
        optimizer = make(weight)
        bmuf = Filter(BMUF(block_steps=2, moments="reset" if reset else "keep", momentum=0.0), {"w": weight})
        learn(weight, optimizer, range(2), bmuf)
        learn(weight, optimizer if reset else make(weight), range(2, 4), bmuf)
        return weight.detach()

    for make in (lambda w: torch.optim.AdamW([w], lr=0.01), lambda w: AdamW([w], lr=0.01, optim_bits=8)):
        assert torch.equal(with_reset(make, reset=True), with_reset(make, reset=False))
