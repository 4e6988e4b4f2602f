"""One process of test_bmuf.py: transformers' Trainer with and without BMUF, killed inside a block and resumed."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import distributed
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from tuneproof.errors import InputError
from tuneproof.study import BMUF
from tuneproof.training.bmuf import install
from tuneproof.training.interruption import seal

BATCH, ROWS = 4, 96


class Regression(torch.nn.Module):
    """A small network in the trainer's manner; one tensor of it is frozen, dropout draws from the process's own RNG."""

    def __init__(self, dropout):
        super().__init__()
        torch.manual_seed(3)
        self.inner, self.outer = torch.nn.Linear(8, 16), torch.nn.Linear(16, 1)
        self.outer.bias.requires_grad_(False)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, inputs, labels):
        found = self.outer(self.dropout(torch.tanh(self.inner(inputs)))).squeeze(-1)
        return {"loss": ((found - labels) ** 2).mean(), "logits": found}


class Rows(torch.utils.data.Dataset):
    def __init__(self, seed, rows):
        draw = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(rows, 8, generator=draw)
        self.labels = torch.sin(self.inputs[:, 0]) + 0.5 * self.inputs[:, 1]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        return {"inputs": self.inputs[row], "labels": self.labels[row]}


class Seal(TrainerCallback):
    """As training.interruption's: after `leave_at` steps it asks for a checkpoint, seals it and leaves."""

    def __init__(self, leave_at):
        self.leave_at = leave_at

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.leave_at:
            control.should_save = True

    def on_save(self, args, state, control, **_):
        distributed.barrier()
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        if state.global_step == self.leave_at:
            raise InterruptedError


class Watch(TrainerCallback):
    """What is in the weights' place when the model is evaluated."""

    def __init__(self):
        self.seen = {}

    def on_evaluate(self, args, state, control, model, **_):
        self.seen[state.global_step] = values(model)


def values(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def fresh(folder, bmuf, leave_at=0, dropout=0.0, epochs=3, **more):
    seal_callback, watch = Seal(leave_at), Watch()
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        ddp_backend="gloo",
        ddp_find_unused_parameters=False,
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        average_tokens_across_devices=False,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        seed=5,
        **{"save_strategy": "no", "learning_rate": 0.02, "lr_scheduler_type": "cosine", **more},
    )
    trainer = Trainer(
        model=Regression(dropout),
        args=arguments,
        train_dataset=Rows(1, ROWS),
        eval_dataset=Rows(2, 64),
        callbacks=[watch, seal_callback],
    )
    trainer.remove_callback(PrinterCallback)
    if bmuf is not None:
        install(trainer, BMUF(**bmuf), before=seal_callback)
    return trainer, watch


def same_everywhere(model):
    mine = values(model)
    everywhere = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
    distributed.all_gather(everywhere, mine)
    return all(torch.equal(mine, other) for other in everywhere)


def beside_ddp(out):
    """Evaluation losses after the same rows: DDP, BMUF, and one with a block of one step without momentum, by SGD."""
    untrained, _ = fresh(out / "untrained", None)
    losses, weights = {"untrained": untrained.evaluate()["eval_loss"]}, {}
    sgd = {"optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    averaging = {"block_steps": 1, "momentum": 0.0, "form": "classical"}
    for name, bmuf, more in (
        ("ddp", None, {}),
        ("nesterov", {"block_steps": 4}, {}),
        ("classical", {"block_steps": 4, "form": "classical"}, {}),
        ("ddp-sgd", None, sgd),
        ("averaged-sgd", averaging, sgd),
        ("ddp-sgd-accumulated", None, {**sgd, "gradient_accumulation_steps": 3}),
        ("averaged-sgd-accumulated", averaging, {**sgd, "gradient_accumulation_steps": 3}),
    ):
        trainer, _ = fresh(out / name, bmuf, epochs=10, **more)
        trainer.train()
        assert same_everywhere(trainer.model), name
        losses[name], weights[name] = trainer.evaluate()["eval_loss"], values(trainer.model).numpy()
    return losses, weights


def resumed(out):
    """Weights after an undisturbed run and after one that was left inside a block, for each way with moments."""
    found = {}
    saving = {"save_strategy": "steps", "save_steps": 5, "eval_strategy": "steps", "eval_steps": 7, "max_steps": 15}
    for moments in ("keep", "average"):
        for name, leave_at in (("whole", 0), ("left", 10)):
            bmuf = {"block_steps": 4, "moments": moments}
            folder = out / f"{name}-{moments}"
            trainer, watch = fresh(folder, bmuf, leave_at, dropout=0.2, **saving)
            if leave_at:
                try:
                    trainer.train()
                except InterruptedError:
                    torch.manual_seed(distributed.get_rank() + 99)
                    trainer, watch = fresh(folder, bmuf, dropout=0.2, **saving)
                    last = folder / f"checkpoint-{leave_at}"
                    trainer.train(resume_from_checkpoint=str(last))
            else:
                trainer.train()
            assert same_everywhere(trainer.model)
            for step, seen in watch.seen.items():
                found[f"{name} {moments} evaluated at {step}"] = seen.numpy()
            found[f"{name} {moments}"] = values(trainer.model).numpy()
    return found


def without_bmuf(out):
    """What is said about a checkpoint of a training that knew nothing of BMUF."""
    options = {"dropout": 0.2, "save_strategy": "steps", "save_steps": 5, "max_steps": 5}
    fresh(out, None, **options)[0].train()
    trainer, _ = fresh(out, {"block_steps": 4}, **options)
    try:
        trainer.train(resume_from_checkpoint=str(out / "checkpoint-5"))
    except InputError as error:
        return str(error)
    return ""


def main(out):
    distributed.init_process_group("gloo")
    out = Path(out)
    losses, weights = beside_ddp(out)
    found = resumed(out)
    said = without_bmuf(out / "plain")
    rank = distributed.get_rank()
    np.savez(out / f"weights.{rank}.npz", **weights, **found)
    if rank == 0:
        (out / "losses.json").write_text(json.dumps(losses))
        (out / "said.txt").write_text(said)
    distributed.barrier()
    distributed.destroy_process_group()
