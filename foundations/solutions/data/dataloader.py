"""DataLoader: batches of a dataset, written by hand

An order of indices, cut into batches, each read and collated: that is all. The order is a function of seed and epoch, so
that a run can be repeated, whatever else draws random numbers.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


def stack_samples(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Collate function: a batch of samples of equal shape.

    Args:
        samples: B pairs of input (...) and label.

    Returns:
        Inputs (B, ...), and labels (B,) int64.

    Example:
        [([1.0, 2.0], 0), ([3.0, 4.0], 1)] becomes ([[1, 2], [3, 4]], [0, 1])
    """
    return torch.stack([x for x, _ in samples]), torch.tensor([int(label) for _, label in samples])


def dataloader(
    dataset: Any,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = True,
    sampler: Iterable[int] | None = None,
    collate: Callable[[list[Any]], Any] = stack_samples,
) -> Iterator[Any]:
    """Generator of the batches of one epoch.

    Each sample comes once; the last batch may be short. A sample is read only when its batch is asked for.

    Args:
        dataset: Object with `len(dataset)` and `dataset[i]`.
        batch_size: Samples in a batch.
        seed: With `epoch`, decides the order: equal seeds and epochs give equal orders, others give others. torch's and
            Python's global random states are neither used nor changed.
        epoch: Number of the epoch.
        shuffle: Whether the samples are shuffled, all of them; else they come in the dataset's order.
        sampler: Indices to be read, in this order, in place of all others: it may leave some out or repeat some, and may
            have no length.
        collate: Makes a batch of a list of samples.

    Yields:
        What `collate` returns.

    Example:
        Of 5 samples, batch_size=2 and shuffle=False read samples 0 1, then 2 3, then 4.
    """
    if sampler is None:
        sampler = list(range(len(dataset)))
        if shuffle:
            random.Random(f"{seed} {epoch}").shuffle(sampler)  # a text as seed: no two pairs of numbers are equal
    samples = []
    for index in sampler:
        samples.append(dataset[index])
        if len(samples) == batch_size:
            yield collate(samples)
            samples = []
    if samples:
        yield collate(samples)
