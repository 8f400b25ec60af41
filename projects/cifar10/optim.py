"""Muon for convolution filters with SGD for the rest, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from common.nn.optim import orthogonalize

NEWTON_SCHULZ_STEPS = 3


class MuonSGD(Optimizer):
    """Muon (Jordan et al., 2024) on convolution filters, SGD with Nesterov momentum on everything else.

    A group with `muon=True` holds filters (out, in, height, width). Each is first scaled to the norm sqrt(out), that of a
    matrix with `out` orthonormal rows, and then moves by `lr` times the orthogonalized Nesterov momentum. As filters in
    front of a normalization have no scale of their own, this keeps the angle of a step independent of the gradient's
    norm. Other groups follow `torch.optim.SGD(nesterov=True)` exactly.

    One optimizer instead of two keeps Lightning's automatic optimization, with its clipping and accumulation.
    """

    def __init__(
        self, params: Iterable[dict[str, Any]], lr: float = 0.1, momentum: float = 0.85, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "muon": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        direction = gradient.add(momentum, alpha=group["momentum"])  # Nesterov: look one step ahead
        if group["muon"]:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
            matrix = direction.reshape(len(direction), -1)  # (out, in * height * width)
            direction = orthogonalize(matrix, NEWTON_SCHULZ_STEPS).view_as(direction)
        parameter.add_(direction, alpha=-group["lr"])


def parameter_groups(
    net: nn.Module, filters: dict[str, Any], head: dict[str, Any], biases: dict[str, Any]
) -> list[dict[str, Any]]:
    """Parameter groups of the trainable parameters: filters (4-dimensional), the head's matrix, biases and scales.

    The bias of a `Whitening` layer, which is trained for the first epochs only, comes last in a group of its own.
    """
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    whiten = [p for name, p in named if name.startswith("whiten.")]
    rest = [p for name, p in named if not name.startswith("whiten.")]
    groups = [
        {"name": "filters", "params": [p for p in rest if p.dim() == 4], **filters},
        {"name": "head", "params": [p for p in rest if p.dim() == 2], **head},
        {"name": "biases", "params": [p for p in rest if p.dim() == 1], **biases},
        {"name": "whiten", "params": whiten, **biases},
    ]
    return [group for group in groups if group["params"]]
