"""Fast loader: batches of tensors in memory by one index

A data set that fits into memory needs no items and no workers: a batch is one index of a tensor, many times faster than a
loop over its samples. And an order that is a function of seed and epoch can be entered anywhere.
"""

import random
from collections.abc import Iterator

import torch
from torch import Tensor


class FastLoader:
    """Shuffled batches of two tensors, which are never changed.

    Args:
        x: (N, ...), any dtype.
        y: (N, ...), any dtype.
        batch_size: Samples in a batch; the last one may be short.
        seed: Random seed. The global random states are neither used nor changed.

    Example:
        loader = FastLoader(x, y, batch_size=32); for inputs, targets in loader.batches(epoch=0): ...
    """

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, seed: int = 0) -> None:
        self.x, self.y, self.batch_size, self.seed = x, y, batch_size, seed

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return -(-len(self.x) // self.batch_size)

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of an epoch: each sample once, in an order that depends on seed and epoch alone.

        Args:
            epoch: Number of the epoch.
            start: First batch: those of the whole epoch follow from there on, as if the epoch had not been interrupted.

        Yields:
            Inputs (B, ...) and targets (B, ...), copies that may be changed.

        Example:
            batches(3, start=2) gives the third batch of epoch 3, then the fourth, and so on.
        """
        rng = torch.Generator().manual_seed(random.Random(f"{self.seed} {epoch}").getrandbits(63))
        order = torch.randperm(len(self.x), generator=rng)
        for batch in order.split(self.batch_size)[start:]:
            if len(batch):  # split gives one empty piece of an empty tensor
                yield self.x[batch], self.y[batch]
