"""Data parallelism: many processes, each with a shard, and the gradient of the whole batch

The ranks are pretended here: each is a call. What they must agree on is the same.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def shard_indices(count: int, rank: int, world_size: int, epoch: int, seed: int) -> Tensor:
    """Samples of one rank in one epoch, shuffled anew in each epoch.

    In an epoch each of the `count` samples belongs to exactly one of the ranks, and their numbers differ by at most one.
    Every rank finds its own without asking the others: same arguments, same answer. Torch's global generator is left alone.

    Args:
        count: Samples in the data set; may be less than `world_size`.
        rank: From 0 to world_size - 1.
        world_size: Number of ranks.
        epoch: From 0.
        seed: Of the shuffling, the same on all ranks.

    Returns:
        (n,) int64.

    Example:
        5 samples and 2 ranks: such as [3, 0, 4] and [1, 2].
    """
    rng = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    return torch.randperm(count, generator=rng)[rank::world_size]


def rank_gradients(
    model: nn.Module, loss_fn: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor
) -> list[Tensor]:
    """What one rank computes: the gradient of the mean loss over its shard, for each parameter.

    Args:
        model: Network, the same on all ranks. The parameters' `.grad` stay as they are.
        loss_fn: Of outputs and targets, the mean over samples.
        inputs: (n, ...), n at least 1.
        targets: (n, ...).

    Returns:
        One tensor for each of `model.parameters()`; zeros where the loss does not depend on it.
    """
    parameters = list(model.parameters())
    loss = loss_fn(model(inputs), targets)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]


def all_reduce(gradients: Sequence[list[Tensor]], counts: Sequence[int]) -> list[Tensor]:
    """What every rank has after communication: the gradient of the mean loss over the samples of all ranks.

    Args:
        gradients: Of each rank, those of `rank_gradients`.
        counts: Samples of each rank. Gradients of a rank with 0 samples may hold anything, NaN too.

    Returns:
        One tensor for each parameter.

    Example:
        Gradients 1 and 5 of ranks with 3 samples and 1 sample give 2.
    """
    total = sum(counts)
    parts = [(rank, count / total) for rank, count in zip(gradients, counts, strict=True) if count]
    return [torch.stack([rank[i] * weight for rank, weight in parts]).sum(0) for i in range(len(gradients[0]))]
