"""BERTScore (Zhang et al. 2020) by the bert_score package, with an encoder of the study's own.

A figure says nothing without its encoder and layer: roberta-large's lie above 0.8 for any two sentences, others' far
lower. So each row carries `settings`, the package's hash with the model's name and the digest of its weights.
Neither idf weights nor rescaling, which are the package's defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuneproof.errors import InputError
from tuneproof.fetch.weights import read_lock
from tuneproof.progress import progress

BERTSCORE = tuple(f"bertscore{best}{part}" for best in ("", "_best") for part in ("", "_p", "_r"))
_BATCH = 64


class BertScore:
    """An encoder, read once, whose hidden states of one layer are matched."""

    def __init__(self, lock: Path, layer: int) -> None:
        from bert_score import BERTScorer
        from bert_score.utils import get_hash

        model = read_lock(lock)
        layers = _layers(lock.parent)
        if not 1 <= layer <= layers:
            raise InputError(f"bertscore.layer: {layer!r}, expected one of the {layers} layers of {model['model']}")
        self._scorer = BERTScorer(model_type=str(lock.parent), num_layers=layer)
        # where a tokenizer does not know its model's longest sequence, a longer text ends the job
        tokenizer = self._scorer._tokenizer
        tokenizer.model_max_length = min(tokenizer.model_max_length, model["context"])
        weights = max(model["files"], key=lambda file: file["size"])["sha256"]
        self.settings: str = get_hash(f"{model['model']}@{weights[:12]}", layer, False, False, False, False)

    def score(self, texts: list[str], references: list[list[str]]) -> list[dict[str, float]]:
        """Return F (no suffix), P and R of each text, about 0 to 1, against the first of its references.

        `_best`: the highest over its references, F, P and R each for itself, as the package does with several. An
        empty text has 0; the package means to say the same, and ends in an error with transformers 5.
        """
        pairs = [
            (i, text, reference)
            for i, (text, known) in enumerate(zip(texts, references, strict=True))
            for reference in known
            if text.strip() and reference.strip()
        ]
        # those of like length together, so that little is padded
        pairs.sort(key=lambda pair: (-len(pair[1]) - len(pair[2]), pair[0]))
        found: dict[tuple[int, str], tuple[float, float, float]] = {}
        with progress(len(pairs), "pair", "BERTScore") as bar:
            for start in range(0, len(pairs), _BATCH):
                some = pairs[start : start + _BATCH]
                p, r, f = self._scorer.score([t for _, t, _ in some], [reference for _, _, reference in some])
                numbers = zip(f.tolist(), p.tolist(), r.tolist(), strict=True)
                found.update({(i, reference): n for (i, _, reference), n in zip(some, numbers, strict=True)})
                bar.update(len(some))
        rows = []
        for i, known in enumerate(references):
            of_each = [found.get((i, reference), (0.0, 0.0, 0.0)) for reference in known]
            best = [max(column) for column in zip(*of_each, strict=True)]
            rows.append(dict(zip(BERTSCORE, (*of_each[0], *best), strict=True)))
        return rows


def _layers(folder: Path) -> int:
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(folder)
    return int(config.num_hidden_layers)
