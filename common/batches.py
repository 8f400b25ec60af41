"""Which samples make up which batch: shuffled by seed and epoch, shared out over processes, resumable anywhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


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
    """Steps in an epoch of `count` samples with `batch_size` samples in each of `world_size` processes."""
    return max(1, math.ceil(count / (batch_size * world_size)))


def rank_share(count: int, rank: int, world_size: int) -> Tensor:
    """The indices that process `rank` evaluates: each of `count` samples belongs to one process, none is repeated."""
    return torch.arange(rank, count, world_size)


def data_position(trainer: Trainer | None) -> tuple[int, int]:
    """(epoch, batches of it already trained on), as the trainer's own counters have it.

    The counters travel in every checkpoint, so a loader that starts here continues a killed run with the right batch.
    From the hooks at an epoch's end on, the position is the start of the next; between the last batch and these hooks
    there is none, so nothing may be saved there.
    """
    if trainer is None:
        return 0, 0
    # `processed` is up before the hooks that save; `completed` only after them
    epoch: int = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    batch = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return (epoch, 0) if batch >= trainer.num_training_batches else (epoch, batch)


def rank_and_world_size(trainer: Trainer | None) -> tuple[int, int]:
    """This process's number and the number of processes; (0, 1) outside of a trainer."""
    return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
