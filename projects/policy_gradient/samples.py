"""The transitions that are learned from, and how they are dealt out to the optimizer's steps."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass
class Samples:
    """The transitions of a rollout that count, with all that stays as it is while the networks learn from them."""

    observations: Tensor  # (n, size), scaled
    actions: Tensor  # (n,) int64, or (n, numbers)
    masks: Tensor | None  # (n, actions) bool
    advantages: Tensor  # (n,)
    old_log_probs: Tensor | None  # (n,) of the policy that drew the actions; None where it is the one that learns
    targets: Tensor | None  # (n,) what the value network should have said; None without one

    def __len__(self) -> int:
        return len(self.advantages)

    def __getitem__(self, index: Tensor) -> Samples:
        """The transitions of `index`."""
        parts: list[Any] = [getattr(self, field.name) for field in fields(self)]
        chosen: list[Any] = [None if part is None else part[index] for part in parts]
        return Samples(*chosen)


def deal(
    counted: Tensor, passes: int, minibatches: int, generator: torch.Generator, rank: int = 0, world_size: int = 1
) -> list[Tensor]:
    """Which of this process's transitions each step of the optimizer takes: `passes` times `minibatches` index tensors.

    The order is drawn for the transitions of all processes at once, counted or not, and each process finds its own in it:
    together they step as one process would with all the environments.

    Args:
        counted: (steps, envs) bool, which transitions count; indices number those in their order.
        passes: how often each is taken.
        minibatches: parts of a pass.
        generator: the same in every process.
        rank: which process.
        world_size: how many processes.
    """
    steps, envs = counted.shape
    everywhere = steps * envs * world_size
    part_of_place = torch.arange(everywhere) * minibatches // everywhere
    batches: list[Tensor] = []
    for _ in range(passes):
        part = torch.empty(everywhere, dtype=torch.int64)
        part[torch.randperm(everywhere, generator=generator)] = part_of_place
        mine = part.view(steps, world_size * envs)[:, rank * envs :][:, :envs][counted]  # (n,)
        sizes = torch.bincount(mine, minlength=minibatches).tolist()
        batches += mine.argsort(stable=True).split(sizes)
    return batches
