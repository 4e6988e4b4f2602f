"""Tune a student by a method of the configuration, resumed where an earlier attempt ended.

The folder of checkpoints is keyed by a hash of everything that shapes the run, so that another recipe never continues
from them. The same code runs as one process, or as several under torchrun.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tuneproof import arithmetic
from tuneproof.errors import InputError
from tuneproof.fetch.weights import read_lock, weights_sha256
from tuneproof.records import content_id, file_sha256, whole_rows, write_json, write_rows
from tuneproof.study import AnyMethod, Full
from tuneproof.training import attention
from tuneproof.training.bmuf import install
from tuneproof.training.compute import Shape, coming_bytes, free_bytes
from tuneproof.training.fused import fuse
from tuneproof.training.interruption import (
    Diverged,
    Interrupted,
    Journal,
    Stop,
    full_disk,
    last_checkpoint,
    remove_incomplete,
    step_of,
    stop_callback,
)
from tuneproof.training.kernels import speed_up
from tuneproof.training.optimisers import paging_callback, trainer_optimizer
from tuneproof.training.order import Order
from tuneproof.training.packing import packed, padded, padding_share
from tuneproof.training.rows import Row, Rows, read_rows, tokenizer_digest
from tuneproof.training.sharding import deepspeed_config, prepare_deepspeed, stage_of, step_sentence
from tuneproof.training.student import check_student, load_student
from tuneproof.training.telemetry import LOG, TELEMETRY, Work, log_rows, telemetry_callback
from tuneproof.training.trainer import evaluation_steps, make_trainer, schedule_callback

# Whoever changes one of these goes on from the checkpoints that there are: they shape no number of the run.
_WITHOUT_EFFECT = {"save_steps", "gradient_checkpointing"}
# of free memory, for what is not counted: workspaces, the optimiser's step, fragmentation
_USABLE = 0.7
# set by torchrun: a process's number on its node, and how many there are
_LOCAL = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}


@dataclass(frozen=True)
class Task:
    """What is to be tuned: the files, the seed, and where checkpoints and results go."""

    student: Path
    train: Path
    val: Path
    seed: int
    checkpoints: Path
    out: Path
    may_diverge: bool = False


def run_spec(spec: AnyMethod, task: Task, tokenizer: Any) -> dict[str, Any]:
    """Return everything that shapes a run: recipe, seed, and the digests of model, tokenizer and data."""
    return {
        "method": spec.model_dump(),
        "seed": task.seed,
        "model_sha256": weights_sha256(read_lock(task.student)),
        "tokenizer": tokenizer_digest(tokenizer),
        "train_sha256": file_sha256(task.train),
        "val_sha256": file_sha256(task.val),
    }


def tune(spec: AnyMethod, task: Task, stop: Stop) -> None:
    """Train, and write adapter/ (or model/ of a full tuning), train_log.jsonl, telemetry.jsonl and spec.json.

    Raises InputError for what cannot be trained: before a model is loaded for a module that does not exist, rows that
    are empty or too long and a batch that cannot be shared by the processes; at its step for a loss that is no number,
    unless the task may diverge: then what there is by that step is written, and the log says so. (One process alone:
    several would have to agree.) Raises Interrupted, with a checkpoint saved, where `stop` says so.
    """
    import torch
    from transformers import AutoTokenizer
    from transformers.utils import logging

    if arithmetic.device() == "cuda":
        torch.cuda.set_device(own_gpu(torch.cuda.device_count()))
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed, where it is installed, would warn of a missing GPU
    logging.disable_progress_bar()  # of the weights that are loaded: a line that scrolls in a log
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # PEFT asks transformers the old way
    spec = spec.model_copy(update={"precision": arithmetic.resolved(spec.precision)})
    check_student(spec, task.student.parent)
    accumulation = batches_per_step(spec, _processes())
    tokenizer = AutoTokenizer.from_pretrained(task.student.parent)
    train, val = (read_rows(f, tokenizer, spec.max_tokens, spec.too_long, _cache()) for f in (task.train, task.val))

    resolved = run_spec(spec, task, tokenizer)
    shaping = {**resolved, "method": spec.model_dump(exclude=_WITHOUT_EFFECT)}
    folder = task.checkpoints.with_name(f"{task.checkpoints.name}.{content_id(json.dumps(shaping, sort_keys=True))}")
    last = last_checkpoint(folder)
    journal = Journal(folder, os.environ.get("TUNEPROOF_RUN")) if is_first_process() else None
    if journal:
        journal.begin(step_of(last))
        remove_incomplete(folder)
        if last:
            print(f"train: resuming from {last}", file=sys.stderr, flush=True)
    trainer: Any = None
    try:
        trainer, order, steps = _prepare(
            spec, task, train, val, tokenizer, accumulation, folder, stop, journal, last is not None
        )
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    except Interrupted as interrupted:
        if journal:
            journal.add(interrupted.reason, interrupted.step)
        raise
    except Diverged as diverged:
        if not task.may_diverge or _processes() > 1:
            if journal:
                journal.diverged(diverged)
            raise
        print(f"train: {diverged}. It ends here, as diverged", file=sys.stderr, flush=True)
        trainer.state.log_history.append({"step": diverged.step, "diverged": True})
    except InputError:
        if journal and trainer is None:
            journal.withdraw()  # refused, so that it was no attempt
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        if not full_disk(folder):
            raise
        raise InputError(
            f"{folder}: no space left on the disk for a checkpoint ({error}); the one before it is kept, "
            f"{last_checkpoint(folder) or 'none yet'}: make room and run again"
        ) from None
    _write_run(trainer, spec, task, resolved, order, steps, train, val)
    if journal:
        journal.add("done", trainer.state.global_step)
        for name in (journal.file.name, TELEMETRY):
            write_rows(task.out / name, whole_rows(folder / name))
        shutil.rmtree(folder, ignore_errors=True)


def is_first_process() -> bool:
    """Whether this is the only process of the training, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def batches_per_step(spec: AnyMethod, processes: int) -> int:
    """Return the batches that each process accumulates, so that a step sees as many examples as the recipe says."""
    batches = spec.accumulation * spec.devices
    if batches % processes:
        raise InputError(
            f"{processes} processes cannot share a step of {batches * spec.batch_size} examples (batch_size "
            f"{spec.batch_size} × accumulation {spec.accumulation} × devices {spec.devices}); expected a divisor of "
            f"{batches}"
        )
    return batches // processes


def own_gpu(gpus: int) -> int:
    """Return the number of this process's GPU, of `gpus` on its node; raise InputError where they are too few."""
    rank, processes = (int(os.environ.get(name, default)) for name, default in _LOCAL.items())
    if processes > gpus:
        raise InputError(f"devices: {processes} processes on this node, but it shows {gpus} GPU(s): expected one each")
    return rank


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _cache() -> Path:
    """Tokens of rows by content: a sweep and a resumed run tokenise nothing again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tuneproof" / "tokens"


def _prepare(
    spec: AnyMethod,
    task: Task,
    train: Rows,
    val: Rows,
    tokenizer: Any,
    accumulation: int,
    folder: Path,
    stop: Stop,
    journal: Journal | None,
    resumed: bool,
) -> tuple[Any, Order, list[Work]]:
    import torch
    from transformers import PrinterCallback, set_seed

    set_seed(task.seed)
    attention.register()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_student(spec, task.student.parent, _attention(spec, device))
    # zero3 gathers a layer's weights when the layer itself is called, which the fused function does not do
    may_fuse = spec.speed.fused and not isinstance(spec, Full) and spec.sharding != "zero3"
    fused = may_fuse and fuse(model) > 0
    speed_up(model, spec, device)

    lengths = [len(row.tokens) for row in train.rows]
    step_rows = spec.batch_size * spec.accumulation * spec.devices
    rank = int(os.environ.get("RANK", "0"))
    order = Order(lengths, step_rows, accumulation, task.seed, rank, _processes())
    steps = _work(Shape.of(model, isinstance(spec, Full)), train.rows, order, spec.epochs)

    def collate(rows: Sequence[Row]) -> dict[str, Any]:
        if spec.speed.packing:
            return packed(rows, spec.speed.answer_logits)
        return padded(rows, tokenizer.pad_token_id, spec.speed.answer_logits)

    arguments = _arguments(spec, task.seed, folder, accumulation, len(steps), fused)
    if _checkpointing(spec, model, train.rows, device, arguments.bf16):
        arguments.activation_checkpointing = True
        arguments.activation_checkpointing_kwargs = {"use_reentrant": False}
    arguments.eval_on_start = not resumed  # the base's own loss, to hold all others against
    evaluations = evaluation_steps(len(steps), spec.evaluations or spec.epochs)
    stopping = stop_callback(stop, journal)
    callbacks = [
        schedule_callback(evaluations, spec.save_steps),
        *([telemetry_callback(folder, device, spec.precision, steps)] if journal else []),
        *([paging_callback()] if spec.optimizer.startswith("paged") and device == "cuda" else []),
        stopping,
    ]
    trainer = make_trainer(
        model, arguments, train.rows, val.rows, collate, order, processing_class=tokenizer, callbacks=callbacks
    )
    trainer.remove_callback(PrinterCallback)  # a line per step would bury the progress; train_log.jsonl holds them all
    if spec.bmuf:
        install(trainer, spec.bmuf, before=stopping)
    if is_first_process():
        print(f"train: {step_sentence(spec, _processes())}", file=sys.stderr)
    return trainer, order, steps


def _attention(spec: AnyMethod, device: str) -> str:
    name = spec.speed.attention
    if name == "auto":
        return attention.best_for(device, spec.speed.packing, spec.precision)
    if name == "varlen" and (device != "cuda" or spec.precision == "fp32"):
        raise InputError(f"speed.attention: varlen on {device} in {spec.precision}, expected a GPU and bf16")
    return {"segments": attention.SEGMENTS, "varlen": attention.VARLEN}.get(name, name)


def _work(shape: Shape, rows: Sequence[Row], order: Order, epochs: int) -> list[Work]:
    def of(step: Sequence[int]) -> Work:
        lengths = [len(rows[i].tokens) for i in step]
        answers = sum(len(rows[i].tokens) - rows[i].prompt for i in step)
        return Work(len(step), sum(lengths), shape.flops(lengths, answers))

    return [of(step) for epoch in range(epochs) for step in order.steps(epoch)]


def _checkpointing(spec: AnyMethod, model: Any, rows: Sequence[Row], device: str, autocast: bool) -> bool:
    """Whether activations are computed twice: as the recipe says, or where the largest batch would not fit.

    `autocast`: fp32 weights are multiplied in bf16. All processes return the same.
    """
    import torch
    from torch import distributed

    if spec.gradient_checkpointing != "auto":
        return spec.gradient_checkpointing
    longest = sorted(rows, key=lambda row: -len(row.tokens))[: spec.batch_size]
    lengths = [len(row.tokens) for row in longest]
    answers = sum(len(row.tokens) - row.prompt for row in longest)
    kept = _attention(spec, device) == attention.SEGMENTS
    needed = Shape.of(model, isinstance(spec, Full)).activation_bytes(lengths, answers, kept)
    if spec.precision == "fp32":
        needed *= 2
    copies = autocast and isinstance(spec, Full)
    free = free_bytes(device) * _USABLE - coming_bytes(model, device, copies, stage_of(spec), _processes())
    twice = needed > free
    if distributed.is_initialized():
        # under zero3 a process that computes twice gathers weights twice, and the others would wait
        any_of_us = torch.tensor([int(twice)], device=device)
        distributed.all_reduce(any_of_us, op=distributed.ReduceOp.MAX)
        twice = bool(any_of_us.item())
    if twice and is_first_process():
        print(
            f"train: gradient checkpointing, because a batch would keep about {needed / 2**30:.1f} GiB and "
            f"{max(0.0, free) / 2**30:.1f} GiB may be used",
            file=sys.stderr,
        )
    return twice


def _arguments(spec: AnyMethod, seed: int, folder: Path, accumulation: int, steps: int, fused: bool) -> Any:
    import torch
    from transformers import TrainingArguments

    on_gpu = torch.cuda.is_available()
    several = _processes() > 1
    optimizer, note = trainer_optimizer(spec.optimizer, "cuda" if on_gpu else "cpu")
    if note and is_first_process():
        print(f"train: {note}", file=sys.stderr)
    if spec.sharding != "none":
        prepare_deepspeed(on_gpu)
    # a fused adapter and its frozen layers are bf16 throughout; all else is cast where it is multiplied
    autocast = spec.precision == "bf16" and not fused
    arguments = TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        use_cpu=not on_gpu,
        ddp_backend="gloo" if several and not on_gpu else None,
        ddp_find_unused_parameters=False if several else None,
        num_train_epochs=spec.epochs,
        per_device_train_batch_size=spec.batch_size,
        per_device_eval_batch_size=spec.batch_size,
        gradient_accumulation_steps=accumulation,
        deepspeed=deepspeed_config(spec),
        optim=optimizer,
        # with BMUF a process trains alone: its loss is the mean over its own tokens
        average_tokens_across_devices=spec.bmuf is None,
        learning_rate=spec.learning_rate,
        # transformers' `constant` reads no warm-up
        lr_scheduler_type="constant_with_warmup" if spec.schedule == "constant" else spec.schedule,
        warmup_steps=round(spec.warmup * steps),
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        bf16=autocast,
        eval_strategy="no",  # when to evaluate and to save is said by a callback
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is no number must be seen
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,  # its own bar would not suit a log
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(arguments._n_gpu, 1)  # a process without torchrun would spread each batch over all it sees
    return arguments


def _hardware() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{_processes()} × {torch.cuda.get_device_name()}"
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = names[0].split(":")[1].strip() if names else "CPU"
    return f"{_processes() * torch.get_num_threads()} cores of {name}"


def _write_lock(folder: Path, student: Path) -> None:
    """Make a folder of a tuned model one that answers as the student does: a lock with all its files."""
    files = [{"name": p.name, "sha256": file_sha256(p), "size": p.stat().st_size} for p in sorted(folder.iterdir())]
    write_json(folder / "lock.json", {**read_lock(student), "files": files})


def _write_run(
    trainer: Any,
    spec: AnyMethod,
    task: Task,
    resolved: dict[str, Any],
    order: Order,
    steps: list[Work],
    train: Rows,
    val: Rows,
) -> None:
    name = "model" if isinstance(spec, Full) else "adapter"
    task.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=task.out, prefix=f".{name}.") as folder:
        trainer.save_model(folder)  # all processes take part where weights are spread over them
        if not is_first_process():
            return
        trainer.processing_class.save_pretrained(folder)
        for extra in ("training_args.bin", "README.md"):  # a pickle that nobody needs; a card without a word in it
            (Path(folder) / extra).unlink(missing_ok=True)
        if isinstance(spec, Full):
            _write_lock(Path(folder), task.student)
        shutil.rmtree(task.out / name, ignore_errors=True)
        Path(folder).chmod(0o755)  # a temporary folder is its owner's alone
        os.replace(folder, task.out / name)
        Path(folder).mkdir()  # TemporaryDirectory wants something to remove
    write_rows(task.out / LOG, log_rows(trainer.state.log_history, steps))
    # of a step that was computed twice, because an attempt was killed, the last time counts
    rows = whole_rows(Path(trainer.args.output_dir) / TELEMETRY)
    seconds = {row["step"]: row["step_seconds"] for row in rows if "step_seconds" in row}
    epochs = range(spec.epochs)
    batches = [[len(train.rows[i].tokens) for i in b] for e in epochs for step in order.batches(e) for b in step]
    padding = 0.0 if spec.speed.packing else round(padding_share(batches), 4)
    write_json(
        task.out / "spec.json",
        {
            **resolved,
            "steps": trainer.state.global_step,
            "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
            "hardware": _hardware(),
            "rows": {"train": len(train.rows), "val": len(val.rows), "too_long": train.dropped + val.dropped},
            "tokens": sum(step.tokens for step in steps),
            "padding_share": padding,
            "train_seconds": round(sum(seconds.values()), 2),
        },
    )
