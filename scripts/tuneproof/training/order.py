"""Which rows a step sees, in which batches: a function of seed and epoch alone.

No state has to come back for a resumed run to see the rows it would have seen, and a step sees the same rows whatever
the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence


class Order:
    """The batches of one process, as a sampler: for each step of an epoch as many as are accumulated.

    A step's rows are dealt out by length, so that all batches of a step take about as long. A batch of the last step
    may be empty.
    """

    def __init__(
        self, lengths: Sequence[int], step_rows: int, accumulation: int, seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        self._lengths = lengths
        self._step_rows = step_rows
        self._accumulation = accumulation
        self._seed = seed
        self._rank, self._processes = rank, processes
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch's batches are to come."""
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-len(self._lengths) // self._step_rows) * self._accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for batches in self.batches(self._epoch):
            yield from batches[self._rank :: self._processes]

    def batches(self, epoch: int) -> list[list[list[int]]]:
        """Return the batches of each step of an epoch, those of all processes."""
        count = self._accumulation * self._processes
        return [_dealt(rows, self._lengths, count) for rows in self.steps(epoch)]

    def steps(self, epoch: int) -> list[list[int]]:
        """Return the rows of each step of an epoch, over all processes."""
        import torch

        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        return [order[i : i + self._step_rows] for i in range(0, len(order), self._step_rows)]


def _dealt(rows: Sequence[int], lengths: Sequence[int], batches: int) -> list[list[int]]:
    """Deal rows out to batches, longest first, forth and back: equal numbers, nearly equal tokens."""
    ordered = sorted(rows, key=lambda row: -lengths[row])
    dealt: list[list[int]] = [[] for _ in range(batches)]
    for i, row in enumerate(ordered):
        turn, place = divmod(i, batches)
        dealt[place if turn % 2 == 0 else batches - 1 - place].append(row)
    return dealt
