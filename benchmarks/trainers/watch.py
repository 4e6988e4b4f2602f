"""What a runner of benchmarks/train.py shares with the others: its job, and an eye on the batches that are trained on.

Runs in the contenders' environments: torch and transformers are all that it may import.
"""

import argparse
import collections
import importlib.metadata
import json
import time
from pathlib import Path
from typing import Any

import transformers


def job() -> dict[str, Any]:
    """The job that the benchmark has written: model, files, recipe, options, out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    return json.loads(parser.parse_args().job.read_text())


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


class Watch(transformers.TrainerCallback):
    """Times the training loop and looks at every batch that reaches transformers' training step.

    All three contenders are built on transformers' Trainer, so one patch sees what each of them really trains on:
    after its own template, collator and sampler.
    """

    def __init__(self) -> None:
        self.seen: collections.Counter[tuple[Any, ...]] = collections.Counter()
        self.real = self.positions = self.answers = 0
        self.losses: list[float] = []
        step = transformers.Trainer.training_step

        def watched(trainer: Any, model: Any, inputs: dict[str, Any], *more: Any, **named: Any) -> Any:
            self._look(inputs)
            return step(trainer, model, inputs, *more, **named)

        transformers.Trainer.training_step = watched

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.began = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ended = time.perf_counter()
        self.losses = [entry["loss"] for entry in state.log_history if "loss" in entry]

    def _look(self, inputs: dict[str, Any]) -> None:
        self.positions += inputs["input_ids"].numel()
        for ids, mask, labels in zip(inputs["input_ids"], inputs["attention_mask"], inputs["labels"], strict=True):
            real = mask.bool()
            learned = int((labels != -100).sum())
            self.real += int(real.sum())
            self.answers += learned
            self.seen[(learned, *ids[real].tolist())] += 1

    def report(self, wanted: list[dict[str, Any]], packages: tuple[str, ...]) -> None:
        """Print what was measured as the last line; raise where other tokens were trained on than those wanted."""
        expected = collections.Counter((len(row["ids"]) - row["prompt"], *row["ids"]) for row in wanted)
        if self.seen != expected:
            one = next(iter(self.seen - expected), None)
            raise SystemExit(
                f"trained on other tokens than the benchmark's: {(self.seen - expected).total()} rows of "
                f"{expected.total()}, such as one of {one and len(one) - 1} tokens, {one and one[0]} learned: {one}"
            )
        measured = {
            "train_s": self.ended - self.began,
            "tokens": self.real,
            "answer_tokens": self.answers,
            "padding_share": 1 - self.real / self.positions,
            "losses": self.losses,
            "versions": {name: importlib.metadata.version(name) for name in packages},
        }
        print("\n" + json.dumps(measured), flush=True)
