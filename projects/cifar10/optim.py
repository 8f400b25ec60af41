"""Muon for the filters with SGD for the rest, as one optimizer; and Lookahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from common.nn.optim import orthogonalize


class MuonSGD(Optimizer):
    """Orthogonalised momentum on convolution filters, Nesterov SGD on everything else.

    A group with `muon=True` holds filters (out, in, height, width). Each is first scaled to the norm sqrt(out), that of a
    matrix with `out` orthonormal rows, and then moves by `lr` times the orthogonalised Nesterov momentum. As filters in
    front of a normalisation have no scale of their own, this keeps the angle of a step independent of the gradient's
    size. Other groups follow `torch.optim.SGD(nesterov=True)` exactly.

    One optimizer instead of two keeps Lightning's automatic optimisation, with its clipping and accumulation.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 0.1,
        momentum: float = 0.85,
        weight_decay: float = 0.0,
        newton_schulz_steps: int = 3,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "muon": False}
        super().__init__(params, {**defaults, "newton_schulz_steps": newton_schulz_steps})

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
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        direction = gradient.add(velocity, alpha=group["momentum"])  # Nesterov: look one step ahead
        if group["muon"]:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
            matrix = direction.reshape(len(direction), -1)  # (out, in * height * width)
            direction = orthogonalize(matrix, group["newton_schulz_steps"]).view_as(direction)
        parameter.add_(direction, alpha=-group["lr"])


def parameter_groups(
    net: nn.Module, filters: dict[str, Any], head: dict[str, Any], biases: dict[str, Any]
) -> list[dict[str, Any]]:
    """Sorts the trainable parameters of `net` into filters (4-dimensional), matrices (the head), and biases and scales.

    The bias of a `Whitening` layer, which is trained for the first epochs only, comes last in a group of its own.
    """
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    whiten = [p for name, p in named if name.startswith("whiten.")]
    groups = [
        {"name": "filters", "params": [p for _, p in named if p.dim() == 4], **filters},
        {"name": "head", "params": [p for _, p in named if p.dim() == 2], **head},
        {
            "name": "biases",
            "params": [p for name, p in named if p.dim() == 1 and not name.startswith("whiten.")],
            **biases,
        },
        {"name": "whiten", "params": whiten, **biases},
    ]
    return [group for group in groups if group["params"]]


class Lookahead:
    """Slow weights that the fast ones return to every few steps (Zhang et al., arXiv 1907.08610).

    Args:
        net: the network whose floating-point state is averaged, running statistics included.
    """

    def __init__(self, net: nn.Module) -> None:
        self.slow = {k: v.detach().clone() for k, v in net.state_dict().items() if v.is_floating_point()}

    @torch.no_grad()
    def update(self, net: nn.Module, decay: float) -> None:
        """Moves the slow weights by 1 - `decay` of the way to those of `net`, and then `net` onto them."""
        state = net.state_dict()
        for key, slow in self.slow.items():
            slow = self.slow[key] = slow.to(state[key])  # a network may move, or change its precision, after it was copied
            slow.lerp_(state[key], 1 - decay)
            state[key].copy_(slow)
