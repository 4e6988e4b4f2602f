"""Work in several processes, results in order, a bounded number of items in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import chain, islice
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_BATCH = 64  # items that travel together: what a process takes to start is some hundred documents' worth


def in_order(function: Callable[[Item], Result], items: Iterable[Item], processes: int) -> Iterator[Result]:
    """Yield function(item) for each item, in order. What fits one batch, or one process, is done in this process.

    `function` must be importable by name (or a partial of such a one). At most two batches a process are under way,
    so that memory does not grow with the number of items.
    """
    batches = _batches(items)
    first = list(islice(batches, 2))
    if processes == 1 or len(first) < 2:
        for batch in chain(first, batches):
            yield from map(function, batch)
        return
    # not forked: this process has threads (numpy's, tqdm's), and a fork copies their locks
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        under_way: deque[Future[list[Result]]] = deque()
        for batch in chain(first, batches):
            under_way.append(pool.submit(partial(_map, function), batch))
            if len(under_way) == 2 * processes:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _map(function: Callable[[Item], Result], batch: list[Item]) -> list[Result]:
    return [function(item) for item in batch]
