"""Batch sampling: shuffled by seed and epoch, bucketed by length or by tokens, sharded over processes, resumable anywhere.

A batch is a tensor of sample indices. Each function returns the batches of process `rank` in an epoch (from 0), as a
function of its arguments alone: there is no state to save, and `world_size` processes train together on exactly the
batches that one process has with `world_size` times the batch size. No sample is in two batches of an epoch.

A run that resumes with another number of processes goes on with the batches that it had: they are formed for the former
number, `formed_for`, and dealt out to the processes that there are now.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Generator, Tensor

from common.io.ranks import error_of_all, print_rank_zero


def epoch_batches(
    count: int, batch_size: int, epoch: int, seed: int, rank: int = 0, world_size: int = 1, formed_for: int | None = None
) -> list[Tensor]:
    """Shuffled batches of `count` samples, all of the size that `batch_shape` gives.

    A GPU compiles and times its kernels for each size anew, and a small last batch would weigh its samples more than the
    rest. The few samples that remain are left out, other ones in each epoch.
    """
    order = torch.randperm(count, generator=epoch_generator(epoch, seed))
    steps, size = batch_shape(count, batch_size, formed_for or world_size)
    _check_shards(size, world_size)
    return [batch.tensor_split(world_size)[rank] for batch in order[: steps * size].split(size)]


def batch_shape(count: int, batch_size: int, world_size: int = 1) -> tuple[int, int]:
    """Steps in an epoch of `count` samples, and samples in each of its batches, of all processes together.

    Each of `world_size` processes has at most `batch_size` of a batch, and at least one. Batches are either as large as they
    may be, or as few and of an equal size: whichever leaves out fewer samples.

    Raises:
        UserError: There are fewer samples than processes.
    """
    _check_count(count, world_size)
    largest = batch_size * world_size
    shapes = [(steps, min(largest, count // steps)) for steps in (math.ceil(count / largest), max(1, count // largest))]
    return max((shape for shape in shapes if shape[1] >= world_size), key=lambda shape: shape[0] * shape[1])


def report_left_out(count: int, steps: int, size: int) -> None:
    """Says how many of `count` samples are in no batch of an epoch, if any."""
    if left_out := count - steps * size:
        print_rank_zero(f"training: {steps} batches of {size} in an epoch; {left_out} of {count} samples are left out of it")


def epoch_generator(epoch: int, seed: int) -> Generator:
    """Random number generator of an epoch, the same in all processes."""
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def count_batches(count: int, batch_size: int, world_size: int = 1) -> int:
    """Steps in an epoch of `count` samples with `batch_size` samples in each of `world_size` processes.

    There are fewer steps, and one sample more in some, if there would not be a sample for every process in each of them.

    Raises:
        UserError: There are fewer samples than processes.
    """
    _check_count(count, world_size)
    return min(math.ceil(count / (batch_size * world_size)), count // world_size)


def _check_count(count: int, world_size: int) -> None:
    if count < world_size:
        raise error_of_all(f"{count} training samples for {world_size} processes: use fewer --devices")


def _check_shards(smallest: int, world_size: int) -> None:
    if smallest < world_size:
        raise error_of_all(f"{world_size} processes for batches of {smallest} samples: resume with fewer --devices")


def shard_indices(count: int, rank: int, world_size: int) -> Tensor:
    """Shard of process `rank` for evaluation: each of `count` samples belongs to one process, none is repeated.

    Raises:
        UserError: There are fewer samples than processes: those without one would wait for ever, or be waited for.
    """
    if count < world_size:
        raise error_of_all(f"{count} samples to evaluate for {world_size} processes: use fewer --devices")
    return torch.arange(rank, count, world_size)


def pad_sequences(rows: Sequence[Sequence[int]], padding: int, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Padding of sequences of token ids: ids (rows, time) int64 and mask (rows, time) bool, true at tokens.

    Args:
        rows: Token ids of each sequence.
        padding: Id of the padding token.
        multiple: `time` is the longest sequence's length, rounded up to a multiple of this.
    """
    lengths = torch.tensor([len(row) for row in rows])
    time = -(-int(lengths.max()) // multiple) * multiple
    mask = torch.arange(time) < lengths[:, None]  # (rows, time)
    padded = torch.full(mask.shape, padding)
    padded[mask] = torch.tensor(list(chain.from_iterable(rows)))
    return padded, mask


def bucketed_batches(
    lengths: Tensor,
    batch_size: int,
    bucket_batches: int,
    epoch: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    formed_for: int | None = None,
) -> list[Tensor]:
    """Length bucketing: batches of samples of similar length, with next to no padding.

    Batches are of equal sizes to within one, as their lengths vary anyway, and every sample is in one of them.
    The shuffled samples are cut into buckets. Within a bucket they are sorted by length, those of equal length staying in
    random order. The batches come in random order. A batch is dealt out to the processes sample by sample, so that they have
    equal work.

    Args:
        lengths: Tokens of each sample, (samples,) int64.
        batch_size: Samples in a batch of each process.
        bucket_batches: Batches in a bucket; 1 is no sorting to speak of.
    """
    generator = epoch_generator(epoch, seed)
    order = torch.randperm(len(lengths), generator=generator)
    count = count_batches(len(lengths), batch_size, formed_for or world_size)
    sizes = [len(batch) for batch in order.tensor_split(count)]
    _check_shards(min(sizes), world_size)
    buckets = order.split([sum(sizes[i : i + bucket_batches]) for i in range(0, count, bucket_batches)])
    batches = torch.cat([bucket[lengths[bucket].argsort(stable=True)] for bucket in buckets]).split(sizes)
    return [batches[i][rank::world_size] for i in torch.randperm(count, generator=generator).tolist()]


def token_batches(
    lengths: Tensor, count: int, epoch: int, seed: int, rank: int = 0, world_size: int = 1, formed_for: int | None = None
) -> list[Tensor]:
    """Batches of equal numbers of tokens, made of samples of similar length.

    The samples are split at a length of one side, the side that leaves less padding, then each part again, until there are
    `count` batches of nearly equal tokens (their sums differ by about a sample's length). How many batches each part gets is
    random, and samples of equal length are shuffled, so that each epoch has batches of its own. They come in random order.
    A batch is dealt out to the processes sample by sample, so that they have equal work.

    No process has an empty batch if `count` is that of `count_token_batches`.

    Args:
        lengths: Tokens of each sample on each side, (samples, sides) int64: two sides for pairs, one for single texts.
            They may change from epoch to epoch.
        count: Steps in an epoch, see `count_token_batches`; Lightning asks for it once, so it may not change.
    """
    generator = epoch_generator(epoch, seed)
    shuffled = torch.randperm(len(lengths), generator=generator)
    batches = _split_by_length(shuffled, lengths, lengths.amax(1), count, formed_for or world_size, generator)
    _check_shards(min(map(len, batches)), world_size)
    order = torch.randperm(count, generator=generator).tolist()
    return [batches[i][rank::world_size] for i in order]


def count_token_batches(lengths: Tensor, max_tokens: int, world_size: int = 1) -> int:
    """Steps in an epoch of samples with `lengths` (samples, sides) and about `max_tokens` in each of `world_size` processes.

    A sample's tokens are those of its longer side, without padding. There are fewer steps if there would not be a sample
    for every process in each of them.

    Raises:
        UserError: There are fewer samples than processes.
    """
    _check_count(len(lengths), world_size)
    count = math.ceil(int(lengths.amax(1).sum()) / (max_tokens * world_size))
    return max(1, min(count, len(lengths) // world_size))


def _split_by_length(
    index: Tensor, lengths: Tensor, tokens: Tensor, count: int, min_size: int, generator: Generator
) -> list[Tensor]:
    """Recursive bisection of the samples `index` into `count` batches of at least `min_size`, equal in their `tokens`."""
    if count == 1:
        return [index]
    third = math.ceil(count / 3)
    left_count = int(torch.randint(third, count - third + 1, (), generator=generator))  # batches of the left part
    splits: list[tuple[int, Tensor, Tensor]] = []
    for side in lengths.T:
        ordered = index[side[index].argsort(stable=True)]
        middle = 2 * tokens[ordered].cumsum(0) - tokens[ordered]  # twice the tokens in front of each sample's middle
        size = int((middle * count < 2 * tokens[index].sum() * left_count).sum())
        size = min(max(size, left_count * min_size), len(index) - (count - left_count) * min_size)
        parts = ordered[:size], ordered[size:]
        padded = sum(int(lengths[part].amax(0).sum()) * len(part) for part in parts)
        splits.append((padded, *parts))
    _, left, right = min(splits, key=lambda split: split[0])
    return [
        *_split_by_length(left, lengths, tokens, left_count, min_size, generator),
        *_split_by_length(right, lengths, tokens, count - left_count, min_size, generator),
    ]
