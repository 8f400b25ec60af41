"""Two optimizers in one step: what both need that Lightning's automatic loop would do for one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from common.nn.optim import all_reduce_mean


def without_autocast_cache(device: torch.device) -> AbstractContextManager[Any]:
    """Within it autocast rounds a weight each time that it is used.

    It keeps the rounded copy for as long as a training step lasts, as weights do not change within one. Here they do.
    """
    return torch.autocast(device.type, enabled=torch.is_autocast_enabled(device.type), cache_enabled=False)


def set_gradients(optimizer: Any, loss: Tensor, backward: Callable[..., Any]) -> None:
    """Makes the gradients of `loss` those of the optimizer's player, and computes no others.

    A generator's gradient passes through the discriminator, whose weights need none then.

    Args:
        optimizer: one player's.
        loss: a scalar.
        backward: `Tensor.backward`, or what stands for it; called with the loss and `inputs`.
    """
    own = optimizer.param_groups[0]["params"]
    for parameter in own:
        parameter.grad = None
    backward(loss, inputs=own)


def average_player(player: nn.Module, world_size: int) -> None:
    """Replaces gradients and running statistics by their means over the processes.

    Weights, and what batch norm knows of them, are then the same everywhere at all times.
    """
    if world_size == 1:
        return
    tensors = [p.grad for p in player.parameters() if p.grad is not None]
    tensors += [buffer for buffer in player.buffers() if buffer.is_floating_point()]
    all_reduce_mean(tensors, world_size)


@torch.no_grad()
def follow(averaged: AveragedModel, net: nn.Module, decay: float) -> None:
    """What `averaged.update_parameters(net)` does for an exponential average on one device, in a third of its time.

    Args:
        averaged: of `net`; after the first call equal to it.
        net: the network that it follows.
        decay: weight of the old.
    """
    if averaged.n_averaged.item() == 0:
        averaged.update_parameters(net)
        return
    torch._foreach_lerp_(list(averaged.module.parameters()), list(net.parameters()), 1 - decay)
    for old, new in zip(averaged.module.buffers(), net.buffers(), strict=True):
        old.copy_(new)
    averaged.n_averaged.add_(1)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The 2-norm of all gradients together, a scalar."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def adam(
    parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], steps: int, schedule: str
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Adam with a rate that is constant, or after a quarter of `steps` falls linearly to zero.

    Args:
        parameters: one player's.
        lr: its rate.
        betas: Adam's.
        steps: of this player in the whole training.
        schedule: `constant` or `linear`.
    """

    def rate(step: int) -> float:
        return 1.0 if schedule == "constant" else max(0.0, min(1.0, (1 - step / steps) / 0.75))

    optimizer = torch.optim.Adam(parameters, lr, betas, fused=True)
    return optimizer, LambdaLR(optimizer, rate)
