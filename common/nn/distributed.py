"""Collective operations: all-gather of objects, all-reduce of tensors and gradients to their means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import OtherProcessFailed, UserError

T = TypeVar("T")


def all_gather_objects(value: T, world_size: int) -> list[T]:
    """All-gather: each process's `value`, in the order of their ranks."""
    if world_size == 1:
        return [value]
    values: list[Any] = [None] * world_size
    dist.all_gather_object(values, value)
    return values


def broadcast_from_rank_zero(read: Callable[[], T]) -> T:
    """What `read` returns on rank zero, in all processes; what it raises there is raised in all, and printed by rank zero.

    Nodes may have disks of their own: files of the run are on rank zero's alone.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return read()
    outcome: list[Any] = [None, None]  # value, error
    if dist.get_rank() == 0:
        try:
            outcome[0] = read()
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise OtherProcessFailed(str(outcome[1])) if dist.get_rank() and isinstance(outcome[1], UserError) else outcome[1]
    return outcome[0]


def average_gradients(parameters: Iterable[Tensor], world_size: int) -> None:
    """Gradient averaging: all-reduces the gradients of `parameters` to their means over all processes, in place."""
    all_reduce_mean([p.grad for p in parameters if p.grad is not None], world_size)


@torch.no_grad()
def all_reduce_mean(tensors: Sequence[Tensor], world_size: int) -> None:
    """All-reduces `tensors` to their means over all processes, in place, in one message."""
    if world_size == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
