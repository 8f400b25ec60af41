"""Parallel inference on a CPU: one batch per core."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def parallel_map(work: Callable[[Iterable[T]], None], items: Sequence[T], device: torch.device) -> None:
    """Calls `work` with all `items`; on a CPU in one thread per core, each of which takes the next item when it is free.

    For inference in batches: a core that computes a batch alone waits for no other, while cores that split each operation
    wait for each other at the end of each. Autocast and inference mode are local to a thread, so `work` enters them itself.
    """
    threads = torch.get_num_threads()
    cores = min(threads, len(items)) if device.type == "cpu" else 1
    if cores < 2:
        work(items)
        return
    queue = deque(items)

    def take_items() -> Iterator[T]:
        while True:
            try:
                item = queue.popleft()
            except IndexError:  # a check beforehand would race with the other threads
                return
            yield item

    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            list(pool.map(work, [take_items() for _ in range(cores)]))
        finally:
            queue.clear()  # after an error, or Ctrl-C, no further item is begun
            torch.set_num_threads(threads)
