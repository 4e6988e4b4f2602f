"""The trainer: transformers' own, with batches that are not padded, logits of answers only, and losses by token.

All that survives a kill (optimiser, schedule, random state, step) is transformers' to save; which rows come next is
`order`'s to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

from tuneproof.training.interruption import Diverged, best_step
from tuneproof.training.order import Order
from tuneproof.training.rows import Row

Collate = Callable[[Sequence[Row]], dict[str, Any]]


def make_trainer(
    model: Any, arguments: Any, train: Sequence[Row], val: Sequence[Row], collate: Collate, order: Order, **more: Any
) -> Any:
    """Return the trainer. `collate` makes a batch of rows; `more` (callbacks, tokenizer) goes to transformers."""
    import torch
    from torch import distributed
    from torch.utils.data import DataLoader, Dataset
    from transformers import Trainer
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    class Loader(DataLoader):  # type: ignore[type-arg]
        def set_epoch(self, epoch: int) -> None:
            order.set_epoch(epoch)

    class StepTrainer(Trainer):
        """A step's loss is the mean over its answers' tokens, however they are spread over batches and processes."""

        def get_train_dataloader(self) -> Any:
            return Loader(
                cast(Dataset[Row], train), batch_sampler=order, collate_fn=self._batch, generator=torch.Generator()
            )

        def _batch(self, rows: Sequence[Row]) -> dict[str, Any]:
            # a process without a row in a step computes one, of which nothing is learned: all have to take part
            batch = collate(rows or train[:1])
            if not rows:
                batch["shift_labels"].fill_(-100)
            # transformers counts a step's answers where there are `labels`
            return {**batch, "labels": batch["shift_labels"], "row_ids": [row.id for row in rows]}

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            ids = inputs.pop("row_ids")
            # over processes DDP takes the mean, so what is shared is multiplied back
            share = self.args.world_size if self.args.average_tokens_across_devices else 1
            # a process that trains alone (BMUF) may have no row in an epoch's last step
            loss = self._sum(model, inputs) / max(num_items_in_batch, 1) * share
            value = float(loss.detach())
            if not math.isfinite(value):
                step = self.state.global_step + 1
                raise Diverged(
                    f"step {step}: the loss is {value}; the last checkpoint is kept. Its rows are {', '.join(ids)}: "
                    "look at them, or lower learning_rate",
                    step,
                )
            return loss

        def _sum(self, model: Any, inputs: Any) -> Any:
            labels = inputs.pop("shift_labels")
            del inputs["labels"]
            logits = model(**inputs, use_cache=False).logits
            flat = logits.reshape(-1, logits.shape[-1]).float()
            return torch.nn.functional.cross_entropy(flat, labels.reshape(-1), reduction="sum")

        def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
            norm = super()._get_grad_norm(model, grad_norm)
            if norm is not None and not math.isfinite(float(norm)):
                step = self.state.global_step + 1
                raise Diverged(
                    f"step {step}: the gradient's norm is {float(norm)}; the last checkpoint is kept. Lower "
                    "learning_rate",
                    step,
                )
            return norm

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            # below zero3 every process has all weights; DeepSpeed would have each copy the frozen ones to save none
            if self.is_deepspeed_enabled and not is_deepspeed_zero3_enabled() and hasattr(self.model, "peft_config"):
                if self.args.should_save:
                    self._save(output_dir)
            else:
                super().save_model(output_dir, _internal_call)

        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
            """Return the mean loss of all validation answers' tokens; each process computes a part of the rows."""
            model: Any = self.model_wrapped if self.is_deepspeed_enabled else self.model
            model.eval()
            size = self.args.per_device_eval_batch_size
            ordered = sorted(val, key=lambda row: -len(row.tokens))
            batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
            total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
            rank, processes = self.args.process_index, self.args.world_size
            for first in range(0, len(batches), processes):
                batch = self._prepare_inputs(self._batch(batches[first + rank] if first + rank < len(batches) else []))
                batch.pop("row_ids")
                learned = batch["labels"].ne(-100).sum()
                with torch.no_grad(), self.compute_loss_context_manager():
                    loss = self._sum(model, batch)
                total += torch.stack([loss.double(), learned.double()]).to(total)
            if processes > 1:
                distributed.all_reduce(total)
            metrics = {"eval_loss": float(total[0] / total[1])}
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

    return StepTrainer(model, arguments, train_dataset=train, eval_dataset=val, **more)


def evaluation_steps(steps: int, evaluations: int) -> list[int]:
    """Return the steps after which the validation loss is measured: evenly spread, the last one included."""
    return sorted({max(1, round(steps * i / evaluations)) for i in range(1, evaluations + 1)})


def schedule_callback(evaluations: Sequence[int], save_steps: int) -> Any:
    """Return the callback that says when to evaluate and to save: at every `save_steps`, and where the loss is best."""
    from transformers import TrainerCallback

    class Schedule(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_evaluate = state.global_step in evaluations
            control.should_save = state.global_step % save_steps == 0 or state.global_step == state.max_steps

        def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if best_step(state.log_history) == state.global_step:
                control.should_save = True

    return Schedule()
