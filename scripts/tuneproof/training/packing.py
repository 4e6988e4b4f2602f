"""Rows put together as a batch: one behind the other without padding, or side by side, padded on the left.

Both forms hold the same answers: `shift_labels` are the tokens to be learned, each at the place of the logits that
predict it (-100: not learned), and `logits_to_keep` says of which places logits are computed at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuneproof.training.rows import Row

IGNORED = -100


def packed(rows: Sequence[Row], answer_logits: bool) -> dict[str, Any]:
    """Return rows as one row of all their tokens, each with positions of its own; 1 × tokens.

    The attention functions of `attention` and flash attention find the rows' borders in `cu_seq_lens_*`, sdpa and
    eager in positions that begin anew.
    """
    import torch

    tokens = [t for row in rows for t in row.tokens]
    borders = [0]
    targets = []
    for row in rows:
        borders.append(borders[-1] + len(row.tokens))
        # the logits at a place predict the next one: the prompt's last predicts the answer's first
        targets += [IGNORED] * (row.prompt - 1) + row.tokens[row.prompt :] + [IGNORED]
    labels = torch.tensor([targets])
    limits = torch.tensor(borders, dtype=torch.int32)
    longest = max(len(row.tokens) for row in rows)
    batch: dict[str, Any] = {
        "input_ids": torch.tensor([tokens]),
        "position_ids": torch.tensor([[p for row in rows for p in range(len(row.tokens))]]),
        "cu_seq_lens_q": limits,
        "cu_seq_lens_k": limits,
        "max_length_q": longest,
        "max_length_k": longest,
        "shift_labels": labels,
    }
    if answer_logits:
        places = (labels[0] != IGNORED).nonzero()[:, 0]
        batch |= {"logits_to_keep": places, "shift_labels": labels[:, places]}
    return batch


def padded(rows: Sequence[Row], pad: int, answer_logits: bool) -> dict[str, Any]:
    """Return rows side by side, padded on the left with `pad`, so that the answers end together; rows × longest."""
    import torch

    longest = max(len(row.tokens) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED)
    for i, row in enumerate(rows):
        start = longest - len(row.tokens)
        ids[i, start:] = torch.tensor(row.tokens)
        mask[i, start:] = 1
        labels[i, start + row.prompt - 1 : -1] = torch.tensor(row.tokens[row.prompt :])
    positions = (mask.cumsum(1) - 1).clamp_(min=0)
    batch: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "shift_labels": labels,
    }
    if answer_logits:
        kept = max(len(row.tokens) - row.prompt for row in rows) + 1
        batch |= {"logits_to_keep": kept, "shift_labels": labels[:, -kept:]}
    return batch


def padding_share(batches: Sequence[Sequence[int]]) -> float:
    """Return the share of padding where batches of rows of these lengths are padded to their longest."""
    computed = sum(max(lengths) * len(lengths) for lengths in batches if lengths)
    return 1 - sum(map(sum, batches)) / computed
