"""Tune a student with LoRA (TRL and PEFT): loss on the answer only, resumed where an earlier attempt ended.

The folder of checkpoints is keyed by a hash of everything that shapes the run, so that another recipe never continues
from them. The same code runs as one process, or as several under torchrun.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tuneproof.errors import InputError
from tuneproof.fetch.weights import read_lock, weights_sha256
from tuneproof.progress import progress
from tuneproof.records import Example, content_id, file_sha256, read_rows, write_json, write_rows
from tuneproof.study import LoRA
from tuneproof.training.interruption import (
    Interrupted,
    Journal,
    Stop,
    full_disk,
    last_checkpoint,
    remove_incomplete,
    step_of,
    stop_callback,
)

_LOGGED = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm")


def run_spec(spec: LoRA, student: Path, train: Path, val: Path, seed: int) -> dict[str, Any]:
    """Return everything that shapes a run: recipe, seed, and the digests of model and data."""
    return {
        "method": spec.model_dump(),
        "seed": seed,
        "model_sha256": weights_sha256(read_lock(student)),
        "train_sha256": file_sha256(train),
        "val_sha256": file_sha256(val),
    }


def train(
    spec: LoRA, student: Path, train_file: Path, val_file: Path, seed: int, checkpoints: Path, out: Path, stop: Stop
) -> None:
    """Train and write `out`/adapter, `out`/train_log.jsonl and `out`/spec.json.

    Raises InputError for a module that does not exist, an example that is too long, an empty data set, or a batch
    that cannot be shared by the processes, all of them before the first step; and Interrupted, with a checkpoint
    saved, where `stop` says so.
    """
    resolved = run_spec(spec, student, train_file, val_file, seed)
    # how often a checkpoint is saved does not shape the run: whoever mends it goes on from the ones there are
    shaping = {**resolved, "method": spec.model_dump(exclude={"save_steps"})}
    folder = checkpoints.with_name(f"{checkpoints.name}.{content_id(json.dumps(shaping, sort_keys=True))}")
    last = last_checkpoint(folder)
    journal = Journal(folder, os.environ.get("TUNEPROOF_RUN")) if is_first_process() else None
    if journal:
        journal.begin(step_of(last))
        remove_incomplete(folder)
        if last:
            print(f"train: resuming from {last}", file=sys.stderr, flush=True)
    callbacks = [*([_progress_callback()] if journal else []), stop_callback(stop, journal)]
    try:
        trainer = _trainer(spec, student, train_file, val_file, seed, folder, callbacks)
    except InputError:
        if journal:
            journal.withdraw()
        raise
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    except Interrupted as interrupted:
        if journal:
            journal.add(interrupted.reason, interrupted.step)
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        if not full_disk(folder):
            raise
        raise InputError(
            f"{folder}: no space left on the disk for a checkpoint ({error}); the one before it is kept, "
            f"{last_checkpoint(folder) or 'none yet'}: make room and run again"
        ) from None
    if journal:
        journal.add("done", trainer.state.global_step)
        _write_run(trainer, resolved, out)
        shutil.copy(journal.file, out / journal.file.name)
        shutil.rmtree(folder, ignore_errors=True)


def is_first_process() -> bool:
    """Whether this is the only process of the training, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def batches_per_step(spec: LoRA, processes: int) -> int:
    """Return the batches that each process accumulates, so that a step sees as many examples as the recipe says."""
    batches = spec.accumulation * spec.devices
    if batches % processes:
        raise InputError(
            f"{processes} processes cannot share a step of {batches * spec.batch_size} examples (batch_size "
            f"{spec.batch_size} × accumulation {spec.accumulation} × devices {spec.devices}); expected a divisor of "
            f"{batches}"
        )
    return batches // processes


def _trainer(
    spec: LoRA, student: Path, train_file: Path, val_file: Path, seed: int, folder: Path, callbacks: list[Any]
) -> Any:
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, set_seed
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(student.parent)
    train_rows, val_rows = (_dataset(path, tokenizer, spec.max_tokens) for path in (train_file, val_file))
    dtype = torch.bfloat16 if spec.precision == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(student.parent, dtype=dtype)
    _check_targets(model, spec)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    accumulation = batches_per_step(spec, processes)
    steps_per_epoch = -(-len(train_rows) // (spec.batch_size * spec.accumulation * spec.devices))
    on_gpu = torch.cuda.is_available()
    config = SFTConfig(
        output_dir=str(folder),
        seed=seed,
        use_cpu=not on_gpu,
        ddp_backend="gloo" if processes > 1 and not on_gpu else None,
        ddp_find_unused_parameters=False if processes > 1 else None,
        num_train_epochs=spec.epochs,
        per_device_train_batch_size=spec.batch_size,
        per_device_eval_batch_size=spec.batch_size,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=spec.gradient_checkpointing,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.schedule,
        warmup_steps=round(spec.warmup * spec.epochs * steps_per_epoch),
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        bf16=spec.precision == "bf16",
        max_length=None,  # checked above: a row that is too long is an error, never cut
        completion_only_loss=True,
        # by steps, not by epoch: a checkpoint at the end of an epoch then holds that epoch's evaluation as well
        eval_strategy="steps",
        eval_steps=steps_per_epoch,
        save_strategy="steps",
        save_steps=spec.save_steps,
        save_total_limit=2,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,  # its own bar would not suit a log
        dataloader_pin_memory=False,
    )
    lora = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=spec.targets,
        task_type="CAUSAL_LM",
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=train_rows,
        eval_dataset=val_rows,
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # a line per step would bury the progress; train_log.jsonl holds them all
    return trainer


def _progress_callback() -> Any:
    """Steps with rate and time left, and the last loss: a bar on a terminal, a line every ten seconds in a log."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar = progress(state.max_steps, "step", "train", initial=state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.update()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            self.bar.set_postfix({k: logs[k] for k in ("loss", "eval_loss") if k in logs}, refresh=False)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.close()

    return Progress()


def _dataset(path: Path, tokenizer: Any, max_tokens: int) -> Any:
    from datasets import Dataset

    examples = read_rows(path, Example)
    if not examples:
        raise InputError(f"{path}: no rows, expected at least one example")
    too_long = []
    for example in examples:
        length = len(tokenizer.apply_chat_template(example.messages, return_dict=False))
        if length > max_tokens:
            too_long.append((length, example.id))
    if too_long:
        length, identity = max(too_long)
        raise InputError(
            f"{path}: {len(too_long)} of {len(examples)} rows are longer than max_tokens {max_tokens}; "
            f"the longest, {identity}, has {length}"
        )
    return Dataset.from_list([{"prompt": e.messages[:-1], "completion": e.messages[-1:]} for e in examples])


def _check_targets(model: Any, spec: LoRA) -> None:
    import torch

    if spec.targets == "all-linear":
        return
    known = sorted({n.split(".")[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
    if unknown := [target for target in spec.targets if target not in known]:
        raise InputError(f"targets: the model has no module {unknown[0]!r}, expected some of {', '.join(known)}")


def _write_run(trainer: Any, resolved: dict[str, Any], out: Path) -> None:
    rows = [{key: row[key] for key in _LOGGED if key in row} for row in trainer.state.log_history]
    write_rows(out / "train_log.jsonl", [row for row in rows if "loss" in row or "eval_loss" in row])
    write_json(out / "spec.json", {**resolved, "steps": trainer.state.global_step})
    adapter = out / "adapter"
    with tempfile.TemporaryDirectory(dir=out, prefix=".adapter.") as folder:
        trainer.model.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)
        shutil.rmtree(adapter, ignore_errors=True)
        os.replace(folder, adapter)
        Path(folder).mkdir()  # TemporaryDirectory wants something to remove
