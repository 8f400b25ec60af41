"""Minibatches: the transitions that the networks learn from, and which of them each optimizer step takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass
class Transitions:
    """Transitions of a rollout with their learning targets, which stay fixed while the networks learn from them."""

    observations: Tensor  # (n, obs_dim), normalized
    actions: Tensor  # (n,) int64, or (n, action_dim) float
    action_masks: Tensor | None  # (n, action_dim) bool
    advantages: Tensor  # (n,)
    old_log_probs: Tensor | None  # (n,) under the policy that sampled the actions; None for the plain policy gradient
    returns: Tensor | None  # (n,) targets of the value network; None without one

    def __len__(self) -> int:
        return len(self.advantages)

    def __getitem__(self, index: Tensor) -> Transitions:
        parts: list[Any] = [getattr(self, field.name) for field in fields(self)]
        selected: list[Any] = [None if part is None else part[index] for part in parts]
        return Transitions(*selected)


def minibatch_indices(
    valid: Tensor, num_minibatches: int, generator: torch.Generator, rank: int = 0
) -> Iterator[tuple[Tensor, int]]:
    """Random minibatches of one epoch over a rollout: (indices of this process's transitions, size over all processes).

    The order is sampled for the environments of all processes at once, invalid steps included, and each process takes its
    own part of it: together they step as one process would with all the environments.

    Args:
        valid: (world_size, steps, envs) bool: the transitions that count. Indices number those of a process in their order.
        num_minibatches: Minibatches in the epoch.
        generator: In the same state in every process.
        rank: This process.
    """
    world_size, steps, envs = valid.shape
    everywhere = world_size * steps * envs
    minibatch_of_slot = torch.arange(everywhere) * num_minibatches // everywhere
    minibatch = torch.empty(everywhere, dtype=torch.int64)
    minibatch[torch.randperm(everywhere, generator=generator)] = minibatch_of_slot
    minibatch = minibatch.view(steps, world_size, envs).transpose(0, 1)  # (world_size, steps, envs)
    sizes = torch.bincount(minibatch[valid], minlength=num_minibatches).tolist()
    own = minibatch[rank][valid[rank]]  # (n,)
    own_sizes = torch.bincount(own, minlength=num_minibatches).tolist()
    yield from zip(own.argsort(stable=True).split(own_sizes), sizes, strict=True)
