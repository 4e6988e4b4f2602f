"""The classifier: a BERT with two outputs, fine-tuned on annotated questions.

It reads the question alone. The loop is short and plain so that the same seed gives the same weights on a machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuneproof.arithmetic import fast_precision
from tuneproof.progress import progress
from tuneproof.records import Annotation, Pair, TypedPair
from tuneproof.study import Types
from tuneproof.types.annotate import TYPES

# Tokens of a question that are read. The longest of 347 written questions has 50, one in 100 of the people's more.
MAX_TOKENS = 64
_WARMUP = 0.1  # share of the steps in which the rate rises, as in BERT's paper
_LABELLED_TOGETHER = 32


def train(encoder: Path, questions: Sequence[str], types: Sequence[str], spec: Types) -> Classifier:
    """Return a classifier trained on questions and their types; `encoder` is the folder of a BERT.

    Both types weigh the same in the loss, however often they come: balanced sets are what it is for.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(spec.seed)
    names = dict(enumerate(TYPES))
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=len(TYPES), id2label=names, label2id={t: i for i, t in names.items()}
    )
    classifier = Classifier(model, AutoTokenizer.from_pretrained(encoder))
    labels = torch.tensor([TYPES.index(t) for t in types])
    weights = len(labels) / (2 * torch.bincount(labels, minlength=2).clamp(min=1))
    steps = spec.epochs * -(-len(labels) // spec.batch_size)
    optimiser = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min((s + 1) / max(1, _WARMUP * steps), (steps - s) / max(1, (1 - _WARMUP) * steps))
    )
    model.train()
    with progress(steps, "step", "train types") as bar:
        for _ in range(spec.epochs):
            for rows in torch.randperm(len(labels)).split(spec.batch_size):
                logits = model(**classifier.tokens([questions[i] for i in rows])).logits
                torch.nn.functional.cross_entropy(logits, labels[rows], weight=weights).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                optimiser.zero_grad()
                rate.step()
                bar.update()
    model.eval()
    return classifier


def load(folder: Path) -> Classifier:
    """Return a classifier from the folder that `Classifier.save` has written."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return Classifier(model.eval(), AutoTokenizer.from_pretrained(folder))


class Classifier:
    """A model and its tokenizer; transformers opens the saved folder as a text-classification pipeline."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._tokenizer = tokenizer

    def tokens(self, questions: Sequence[str]) -> Any:
        """Return questions as one padded batch."""
        return self._tokenizer(
            list(questions), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )

    def probabilities(self, questions: Sequence[str]) -> Any:
        """Return the probability that each question is factual: float64, shape (questions,).

        Questions of like length share a batch, so that little is padded; arithmetic is bf16 where the CPU has it,
        which was 2.8 times as fast.
        """
        import numpy as np
        import torch

        order = sorted(range(len(questions)), key=lambda i: (-len(questions[i]), i))
        result = np.zeros(len(questions))
        half = torch.autocast("cpu", torch.bfloat16, enabled=fast_precision() == "bf16")
        with torch.inference_mode(), half, progress(len(questions), "question", "label types") as bar:
            for start in range(0, len(order), _LABELLED_TOGETHER):
                rows = order[start : start + _LABELLED_TOGETHER]
                logits = self._model(**self.tokens([questions[i] for i in rows])).logits.float()
                result[rows] = logits.softmax(1)[:, TYPES.index("factual")].numpy()
                bar.update(len(rows))
        return result

    def save(self, folder: Path) -> None:
        """Write safetensors, configuration and tokenizer."""
        self._model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)


def typed(pairs: list[Pair], annotated: dict[str, Annotation], classifier: Classifier) -> list[TypedPair]:
    """Return each pair's type: the LLM's where it has annotated the pair, else the classifier's."""
    rest = [pair for pair in pairs if pair.id not in annotated]
    factual = dict(zip((p.id for p in rest), classifier.probabilities([p.question for p in rest]), strict=True))
    rows = []
    for pair in pairs:
        if row := annotated.get(pair.id):
            rows.append(TypedPair(pair.id, row.type, row.distribution[row.type], "llm"))
        else:
            p = float(factual[pair.id])
            rows.append(TypedPair(pair.id, "factual" if p >= 0.5 else "conceptual", max(p, 1 - p), "classifier"))
    return rows
