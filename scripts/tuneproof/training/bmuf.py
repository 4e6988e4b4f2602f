"""Blockwise model-update filtering (BMUF): workers train alone for a block of steps, then their updates are filtered.

K. Chen, Q. Huo: Scalable training of deep learning machines by incremental block training with intra-block parallel
optimization and blockwise model-update filtering, ICASSP 2016. With N workers, S where a block started, W the model:

    G     = mean_i(W_i) - S           what the block has learned
    Delta = eta · Delta + zeta · G    eta: block momentum, 1 - 1/N unless said; zeta: block rate
    W     = W + Delta
    S     = W (classical) or W + eta · Delta (Nesterov), where the next block starts

W is the model: it is evaluated, saved and handed over, never S nor what a single worker has. Only tensors that are
trained are exchanged, once a block, and each worker's gradients are clipped by their own norm.

Inside a block every worker has weights and moments of its own, of which transformers saves the first worker's only. So
a checkpoint also holds `bmuf.safetensors` (W and Delta) and, from each worker, `bmuf.rankN.safetensors`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneproof.errors import InputError
from tuneproof.study import BMUF

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

_SHARED = "bmuf.safetensors"
_TABLES = ("qmap1", "qmap2")  # bitsandbytes' code of 8-bit moments: a constant beside them


class Filter:
    """One worker's side of BMUF over the tensors `trained`, which it reads and writes in place.

    W and Delta are kept in 32 bits, whatever the weights are. Every worker computes the same W from the same sums, so
    none has to be sent.
    """

    def __init__(self, spec: BMUF, trained: Mapping[str, Tensor]) -> None:
        import torch
        from torch import distributed

        together = distributed.is_available() and distributed.is_initialized()
        self.workers = distributed.get_world_size() if together else 1
        self.rank = distributed.get_rank() if together else 0
        self.steps = 0  # of this block
        self.momentum = 1 - 1 / self.workers if spec.momentum is None else spec.momentum
        self._spec = spec
        self._trained = dict(trained)
        self._model = {name: w.detach().to(torch.float32, copy=True) for name, w in trained.items()}
        self._delta = {name: torch.zeros_like(w) for name, w in self._model.items()}
        self._aside: dict[str, Tensor] = {}

    def step(self, optimizer: Optimizer, last: bool = False) -> None:
        """Count an optimiser step; close the block if it is full, or the training's last."""
        self.steps += 1
        if last or self.steps == self._spec.block_steps:
            self.close(optimizer)

    def close(self, optimizer: Optimizer) -> None:
        """Filter the block, however many steps it has, and go to where the next one starts."""
        import torch

        with torch.no_grad():
            for name, weight in self._trained.items():
                learned = self._mean(weight.to(torch.float32, copy=True)) - self._start(name).float()
                self._delta[name].mul_(self.momentum).add_(learned, alpha=self._spec.rate)
                self._model[name].add_(self._delta[name])
                weight.copy_(self._start(name))
            self._treat_moments(optimizer)
        self.steps = 0

    def show(self) -> None:
        """Put the model in the weights' place, so that it is what is evaluated or saved; `hide` undoes it."""
        if not self._aside:
            self._aside = {name: weight.detach().clone() for name, weight in self._trained.items()}
            self._fill(self._model)

    def hide(self) -> None:
        """Put this worker's own weights back, to train on."""
        if self._aside:
            self._fill(self._aside)
            self._aside = {}

    def finish(self, optimizer: Optimizer) -> None:
        """Filter what is left of a block and leave the model in the weights' place for good."""
        self.hide()
        if self.steps:
            self.close(optimizer)
        self._fill(self._model)

    def save(self, checkpoint: Path, optimizer: Optimizer) -> None:
        """Write this worker's weights and moments and, if it is the first, what all share."""
        from safetensors.torch import save_file

        checkpoint.mkdir(parents=True, exist_ok=True)
        own = {f"weight/{name}": weight for name, weight in (self._aside or self._trained).items()}
        for name, weight in self._trained.items():
            for key, value in optimizer.state[weight].items():
                own[f"{key}/{name}"] = _as_tensor(value)
        facts = {"workers": json.dumps(self.workers), "steps": json.dumps(self.steps)}
        save_file(_copies(own), self._file(checkpoint), metadata=facts)
        if self.rank == 0:
            shared = {f"model/{name}": w for name, w in self._model.items()}
            save_file(_copies({**shared, **{f"delta/{n}": w for n, w in self._delta.items()}}), checkpoint / _SHARED)

    def load(self, checkpoint: Path, optimizer: Optimizer) -> None:
        """Go on as this worker of the attempt that saved `checkpoint`.

        Raises InputError where that attempt had another number of workers: nobody could go on as the others.
        """
        import torch
        from safetensors import safe_open

        shared, own = checkpoint / _SHARED, self._file(checkpoint)
        if not shared.exists():
            raise InputError(f"{checkpoint}: no {_SHARED}, expected a checkpoint of a training with bmuf")
        with safe_open(checkpoint / "bmuf.rank0.safetensors", "pt") as stream:
            self._check_workers(checkpoint, json.loads(stream.metadata()["workers"]))
        with torch.no_grad(), safe_open(shared, "pt") as stream:
            for name in self._trained:
                self._model[name].copy_(stream.get_tensor(f"model/{name}"))
                self._delta[name].copy_(stream.get_tensor(f"delta/{name}"))
        with torch.no_grad(), safe_open(own, "pt") as stream:
            self.steps = json.loads(stream.metadata()["steps"])
            names = stream.keys()
            for entry in names:
                key, name = entry.split("/", 1)
                weight, value = self._trained[name], stream.get_tensor(entry)
                if key == "weight":
                    weight.copy_(value)
                else:
                    _put(optimizer.state[weight], key, value.to(weight.device))

    def _file(self, checkpoint: Path) -> Path:
        return checkpoint / f"bmuf.rank{self.rank}.safetensors"

    def _check_workers(self, checkpoint: Path, workers: int) -> None:
        if workers != self.workers:
            raise InputError(
                f"{checkpoint}: saved by {workers} workers of bmuf, this attempt has {self.workers}; start it with "
                f"{workers} devices, or remove the folder {checkpoint.parent} to begin anew"
            )

    def _start(self, name: str) -> Tensor:
        """Where the present block started, or the next one starts: with the rounding of the weights."""
        model = self._model[name]
        ahead = model + self.momentum * self._delta[name] if self._spec.form == "nesterov" else model
        return ahead.to(self._trained[name].dtype)

    def _fill(self, values: Mapping[str, Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, weight in self._trained.items():
                weight.copy_(values[name])

    def _mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over the workers; `tensor` is overwritten."""
        from torch import distributed

        if self.workers > 1:
            distributed.all_reduce(tensor)
            tensor /= self.workers
        return tensor

    def _treat_moments(self, optimizer: Optimizer) -> None:
        """Keep, average, or zero AdamW's moments; with zeros its correction of their bias begins anew as well."""
        if self._spec.moments == "keep":
            return
        for weight in self._trained.values():
            state = optimizer.state[weight]
            for key, value in state.items():
                if key in _TABLES:
                    continue
                if self._spec.moments == "average":
                    if getattr(value, "ndim", 0):
                        self._mean(value)
                elif isinstance(value, int):
                    state[key] = 0
                else:
                    value.zero_()


def install(trainer: Any, spec: BMUF, before: Any = None) -> None:
    """Make a transformers Trainer train by BMUF; call it once, before `trainer.train()`.

    Its callback stands just before the callback `before` (the one that seals checkpoints), else at the end: behind all
    that may ask for an evaluation or a checkpoint, so that these are of W. A checkpoint that `before` itself asks for
    inside a block holds the first worker's weights where W would be; going on from it is not affected.
    """
    from transformers import TrainerCallback

    class Blocks(TrainerCallback):
        """Learns of the trainer's steps and tells the filter."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **about: Any) -> None:
            # not before: only now are the weights those of the first worker, or of the checkpoint
            self.filter = Filter(spec, {n: w for n, w in trainer.model.named_parameters() if w.requires_grad})
            _silence(trainer.model_wrapped.modules())
            if state.global_step:
                self.filter.load(_checkpoint(args, state), _plain(about))

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.filter.hide()

        def on_step_end(self, args: Any, state: Any, control: Any, **about: Any) -> None:
            last = state.global_step >= state.max_steps or control.should_training_stop
            self.filter.step(_plain(about), last)
            self._show(control)

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._show(control)

        def on_save(self, args: Any, state: Any, control: Any, **about: Any) -> None:
            self.filter.save(_checkpoint(args, state), _plain(about))

        def on_train_end(self, args: Any, state: Any, control: Any, **about: Any) -> None:
            if not (args.load_best_model_at_end and state.best_model_checkpoint):
                self.filter.finish(_plain(about))

        def _show(self, control: Any) -> None:
            if control.should_evaluate or control.should_save:
                self.filter.show()

    callbacks = trainer.callback_handler.callbacks
    callbacks.insert(callbacks.index(before) if before else len(callbacks), Blocks())


def _silence(modules: Iterable[Any]) -> None:
    """Keep DistributedDataParallel from exchanging gradients, and buffers, for good.

    transformers turns the exchange off for all but the last batch of a step, through DDP's no_sync, which restores
    what it found: it finds False.
    """
    from torch.nn.parallel import DistributedDataParallel

    for module in modules:
        if isinstance(module, DistributedDataParallel):
            module.require_backward_grad_sync = False
            module.require_forward_param_sync = False


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _plain(about: Mapping[str, Any]) -> Any:
    """Return torch's optimizer out of accelerate's, which hides the state's setter."""
    optimizer = about["optimizer"]
    return getattr(optimizer, "optimizer", optimizer)


def _as_tensor(value: Any) -> Tensor:
    import torch

    return value if isinstance(value, torch.Tensor) else torch.tensor(value)  # bitsandbytes counts steps in an int


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU: safetensors takes no two tensors that share memory."""
    import torch

    return {name: torch.clone(t.detach().cpu(), memory_format=torch.contiguous_format) for name, t in tensors.items()}


def _put(state: dict[str, Any], key: str, value: Tensor) -> None:
    """Set a state's entry, in place where there is one: what is paged stays paged."""
    import torch

    present = state.get(key)
    if isinstance(present, torch.Tensor) and present.shape == value.shape and present.dtype == value.dtype:
        present.copy_(value)
    else:
        state[key] = value if value.is_floating_point() or value.ndim else int(value)
