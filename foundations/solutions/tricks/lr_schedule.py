"""Learning-rate schedule: warm-up, cosine, and how large is too large

A learning rate that is a function of the number of updates alone is the same after a restart.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def lr_factor(step: int, warmup: int, total: int) -> float:
    """Learning rate of an update as a fraction of its peak: linear warm-up, then half a cosine down to zero.

    Args:
        step: Updates done before it, from 0; may be `total` or more.
        warmup: Updates of the warm-up: they get 1 / warmup, 2 / warmup, … 1. From 0 to `total`.
        total: Updates of the whole training. The cosine begins with 1 in step `warmup`, would reach 0 in step `total`, and
            stays there.

    Example:
        With warmup = 2 and total = 6, steps 0 to 7 give 0.5, 1, 1, 0.854, 0.5, 0.146, 0, 0.
    """
    if step < warmup:
        return (step + 1) / warmup
    if step >= total:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


class Schedule:
    """Sets the learning rate of every parameter group to its peak times `lr_factor`.

    Args:
        optimizer: Optimizer whose `param_groups` are dicts with an "lr", which is the peak when the schedule is made.
        warmup: Updates of the warm-up.
        total: Updates of the whole training.
    """

    def __init__(self, optimizer: Any, warmup: int, total: int) -> None:
        self.optimizer, self.warmup, self.total = optimizer, warmup, total
        self.peaks, self.count = [group["lr"] for group in optimizer.param_groups], 0
        self._set()

    def _set(self) -> None:
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * lr_factor(self.count, self.warmup, self.total)

    def step(self) -> None:
        """An update is done: sets the learning rates of the next one."""
        self.count += 1
        self._set()

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs, as it is now: later steps do not change it."""
        return {"count": self.count, "peaks": list(self.peaks)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state` as if never interrupted, and sets the learning rates of the next update.

        The optimizer may be a new one, or may have loaded its own state before this schedule was made: its "lr" is then not
        the peak.
        """
        self.count, self.peaks = state["count"], list(state["peaks"])
        self._set()


def train_epoch(loss_fn: Callable[[Any], Tensor], batches: Iterable[Any], optimizer: Any, schedule: Schedule) -> None:
    """One epoch: an update for each batch, each with its own learning rate.

    Args:
        loss_fn: Loss () of a batch.
        batches: Batches.
        optimizer: Optimizer with zero_grad() and step().
        schedule: Its schedule, which counts updates on through all epochs.
    """
    for batch in batches:
        optimizer.zero_grad()
        loss_fn(batch).backward()
        optimizer.step()
        schedule.step()


def largest_stable_lr(hessian: Tensor) -> float:
    """Learning rate above which gradient descent on f(x) = x · H x / 2 diverges.

    Args:
        hessian: H (D, D), symmetric, without negative eigenvalues.

    Returns:
        The limit; inf if H is zero.

    Example:
        H = [[4]]: a step takes x to (1 - 4 lr) x, which grows for lr > 0.5.
    """
    curvature = torch.linalg.eigvalsh(hessian).max().item()
    return 2 / curvature if curvature > 0 else math.inf
