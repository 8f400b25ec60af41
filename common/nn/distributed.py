"""Collective operations: all-gather of objects, all-reduce of tensors and gradients to their means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def all_gather_objects(value: T, world_size: int) -> list[T]:
    """All-gather: each process's `value`, in the order of their ranks."""
    if world_size == 1:
        return [value]
    values: list[Any] = [None] * world_size
    dist.all_gather_object(values, value)
    return values


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
