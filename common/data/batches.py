"""Which samples make up which batch: shuffled by seed and epoch, shared out over processes, resumable anywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.errors import UserError

if TYPE_CHECKING:
    pass


def epoch_batches(count: int, batch_size: int, epoch: int, seed: int, rank: int = 0, world_size: int = 1) -> list[Tensor]:
    """The sample indices of every batch that process `rank` trains on in epoch `epoch`.

    Every one of `count` samples is in exactly one batch of one process. The number of batches is the smallest that keeps
    each process at `batch_size` or below; batches then get equal sizes (to within one), so there is no small last batch
    that would weigh its samples more than the rest. A function of its arguments alone: nothing to save, and
    `world_size` processes see together exactly what one process sees with `world_size` times the batch.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return [
        batch.tensor_split(world_size)[rank] for batch in order.tensor_split(count_batches(count, batch_size, world_size))
    ]


def count_batches(count: int, batch_size: int, world_size: int = 1) -> int:
    """Steps in an epoch of `count` samples with `batch_size` samples in each of `world_size` processes.

    There are fewer steps, and one sample more in some, if there would not be a sample for every process in each of them.

    Raises:
        UserError: there are fewer samples than processes.
    """
    _check_enough(count, world_size)
    return min(math.ceil(count / (batch_size * world_size)), count // world_size)


def _check_enough(count: int, world_size: int) -> None:
    if count < world_size:
        raise UserError(f"{count} training samples for {world_size} processes: use fewer --devices")


def pad_sequences(rows: Sequence[Sequence[int]], padding: int, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """`rows` of ids, each of its own length, as (rows, time) int64 filled up with `padding`; and bool, true at ids.

    `time` is the longest row's length, rounded up to a multiple of `multiple`.
    """
    lengths = torch.tensor([len(row) for row in rows])
    time = -(-int(lengths.max()) // multiple) * multiple
    real = torch.arange(time) < lengths[:, None]  # (rows, time)
    padded = torch.full(real.shape, padding)
    padded[real] = torch.tensor(list(chain.from_iterable(rows)))
    return padded, real


def bucketed_batches(
    lengths: Tensor, batch_size: int, pool: int, epoch: int, seed: int, rank: int = 0, world_size: int = 1
) -> list[Tensor]:
    """`epoch_batches` of samples of similar length: next to no padding, and still a random mix from batch to batch.

    The shuffled samples are cut into pools of `pool` batches; within a pool they are sorted by length, those of equal length
    staying in random order. The batches come in random order. A batch is dealt out to the processes sample by sample, so
    that they have equal work. The promises of `epoch_batches` hold.

    Args:
        lengths: (samples,) int64, tokens of each sample.
        batch_size: samples in a batch of each process.
        pool: batches in a pool; 1 is no sorting to speak of.
        epoch: which epoch.
        seed: the run's seed.
        rank: which process.
        world_size: how many processes.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(lengths), generator=generator)
    count = count_batches(len(lengths), batch_size, world_size)
    sizes = [len(part) for part in order.tensor_split(count)]
    pools = order.split([sum(sizes[i : i + pool]) for i in range(0, count, pool)])
    order = torch.cat([part[lengths[part].argsort(stable=True)] for part in pools])
    batches = order.split(sizes)
    return [batches[i][rank::world_size] for i in torch.randperm(count, generator=generator).tolist()]


def token_batches(lengths: Tensor, count: int, epoch: int, seed: int, rank: int = 0, world_size: int = 1) -> list[Tensor]:
    """The sample indices of every batch of process `rank` in `epoch`, with samples of similar length together.

    The samples are cut in two at one length of one side, the side that leaves less padding, then each part again, until
    there are `count` batches of nearly equal tokens (their sums differ by about a sample's length). How many batches each
    part makes is drawn, and samples of equal length are shuffled, so that each epoch has batches of its own.
    They come in random order. A batch is dealt out to the processes sample by sample, so that they too have equal work.

    Every sample is in exactly one batch of one process, and no process has an empty one if `count` is that of
    `count_token_batches`. As with `epoch_batches`, the result follows from the arguments, and `world_size` processes see
    together what one process sees.

    Args:
        lengths: (samples, sides) int64, tokens of each sample on each side: two for pairs, one for single texts. They may
            change from epoch to epoch.
        count: steps in an epoch, see `count_token_batches`; Lightning asks for it once, so it may not change.
        epoch: which epoch.
        seed: the run's seed.
        rank: which process.
        world_size: how many processes.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    shuffled = torch.randperm(len(lengths), generator=generator)
    batches = _cut_by_length(shuffled, lengths, lengths.amax(1), count, world_size, generator)
    order = torch.randperm(count, generator=generator).tolist()
    return [batches[i][rank::world_size] for i in order]


def count_token_batches(lengths: Tensor, max_tokens: int, world_size: int = 1) -> int:
    """Steps in an epoch of samples with `lengths` (samples, sides) and about `max_tokens` in each of `world_size` processes.

    A sample's tokens are those of its longer side, without padding. There are fewer steps if there would not be a sample
    for every process in each of them.

    Raises:
        UserError: there are fewer samples than processes.
    """
    _check_enough(len(lengths), world_size)
    count = math.ceil(int(lengths.amax(1).sum()) / (max_tokens * world_size))
    return max(1, min(count, len(lengths) // world_size))


def _cut_by_length(
    index: Tensor, lengths: Tensor, tokens: Tensor, count: int, smallest: int, generator: torch.Generator
) -> list[Tensor]:
    """The samples `index` as `count` batches of at least `smallest` samples each, equal in their sum of `tokens`."""
    if count == 1:
        return [index]
    first = math.ceil(count / 3)
    first = int(torch.randint(first, count - first + 1, (), generator=generator))  # how many batches the first part makes
    cuts: list[tuple[int, Tensor, Tensor]] = []
    for side in lengths.T:
        ordered = index[side[index].argsort(stable=True)]
        middle = 2 * tokens[ordered].cumsum(0) - tokens[ordered]  # twice the tokens in front of each sample's middle
        size = int((middle * count < 2 * tokens[index].sum() * first).sum())
        size = min(max(size, first * smallest), len(index) - (count - first) * smallest)
        parts = ordered[:size], ordered[size:]
        padded = sum(int(lengths[part].amax(0).sum()) * len(part) for part in parts)
        cuts.append((padded, *parts))
    _, left, right = min(cuts, key=lambda cut: cut[0])
    return [
        *_cut_by_length(left, lengths, tokens, first, smallest, generator),
        *_cut_by_length(right, lengths, tokens, count - first, smallest, generator),
    ]


def shard_indices(count: int, rank: int, world_size: int) -> Tensor:
    """The indices that process `rank` evaluates: each of `count` samples belongs to one process, none is repeated."""
    return torch.arange(rank, count, world_size)
