"""Optimization of two networks in one step: updates of one alone, averages over processes, batch-norm statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.nn.distributed import all_reduce_mean
from common.nn.optim import lr_factor
from projects.gan.augment import ANNEALING_FRACTION, annealing


def update(
    optimizer: Any, network: nn.Module, loss: Tensor, world_size: int, backward: Callable[..., Any] = Tensor.backward
) -> None:
    """Gradient step of one network: gradients of `loss` in its parameters alone, averaged over processes, then the step.

    A generator's gradient passes through the discriminator, whose own parameters need none then. `backward` is called with
    the loss and `inputs`.
    """
    parameters = list(network.parameters())
    for parameter in parameters:
        parameter.grad = None
    backward(loss, inputs=parameters)
    average_over_processes(network, world_size)
    optimizer.step()


def average_over_processes(network: nn.Module, world_size: int) -> None:
    """All-reduce mean of gradients and of batch-norm running statistics: every process then holds the same network."""
    if world_size == 1:
        return
    tensors = [p.grad for p in network.parameters() if p.grad is not None]
    tensors += [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    all_reduce_mean(tensors, world_size)


def autocast_without_cache(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast that casts a weight each time it is used.

    By default it keeps the cast copy for a whole training step, as weights do not change within one. Here they do.
    """
    return torch.autocast(device.type, enabled=torch.is_autocast_enabled(device.type), cache_enabled=False)


def adam(
    parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], iterations: int, schedule: str
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Adam and its learning-rate schedule.

    Args:
        parameters: The network's parameters.
        lr: Learning rate at the start.
        betas: Adam's betas.
        iterations: Iterations of the training.
        schedule: `constant`; `linear`: constant for a quarter, then linearly to zero; `annealed`: like `annealing` to the
            power of 1.5, and linearly to zero in the last 40 %.
    """

    def factor(step: int) -> float:
        if schedule == "annealed":
            progress = min(1.0, step / iterations)
            return annealing(progress) ** 1.5 * min(1.0, (1 - progress) / (1 - ANNEALING_FRACTION))
        return lr_factor(step, iterations, schedule, constant_fraction=0.25)

    optimizer = torch.optim.Adam(parameters, lr, betas, fused=True)
    return optimizer, LambdaLR(optimizer, factor)


@torch.no_grad()
def update_ema(ema: AveragedModel, network: nn.Module, decay: float, is_first: bool) -> None:
    """EMA update of the averaged weights; buffers, and in the first update the weights, are copied.

    As `AveragedModel.update_parameters`, which reads on the host, from the device, how many updates there have been.
    """
    averaged: list[Tensor] = list(ema.module.parameters())
    current: list[Tensor] = list(network.parameters())
    if is_first:
        torch._foreach_copy_(averaged, current)
    else:
        get_ema_multi_avg_fn(decay)(averaged, current, ema.n_averaged)
    for buffer, source in zip(ema.module.buffers(), network.buffers(), strict=True):
        buffer.copy_(source)
    ema.n_averaged += 1


@torch.no_grad()
def update_bn(generator: nn.Module, z: Tensor, labels: Tensor, batch_size: int) -> None:
    """Batch-norm statistics of the current weights, as `torch.optim.swa_utils.update_bn`, for a network that takes labels.

    Averaged weights have no running statistics of their own: those at hand belong to the trained weights ("standing
    statistics": Brock et al., arXiv 1809.11096, appendix C). The new ones are means over forward passes of latent
    vectors z (count, latent_dim) and labels (count,).
    """
    norms = [layer for layer in generator.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average: all passes weigh the same
        norm.train()
    for part, part_labels in zip(z.split(batch_size), labels.split(batch_size), strict=True):
        generator(part, part_labels)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
