"""Lookahead: slow weights that the fast ones return to every few steps (Zhang et al., arXiv 1907.08610)."""

from __future__ import annotations

import torch
from torch import nn

SYNC_PERIOD = 5  # optimizer steps between two updates of the slow weights


class Lookahead:
    """Slow weights of a network, with the decay schedule of the 96 % record.

    Args:
        net: The network whose floating-point state is averaged, running statistics included.
    """

    def __init__(self, net: nn.Module) -> None:
        self.slow = {k: v.detach().clone() for k, v in net.state_dict().items() if v.is_floating_point()}

    def to(self, net: nn.Module) -> None:
        """Moves the slow weights to where `net` is, and to its precision."""
        state = net.state_dict()
        self.slow = {key: slow.to(state[key]) for key, slow in self.slow.items()}

    def step(self, net: nn.Module, step: int, total_steps: int) -> None:
        """Call after optimizer step `step`, counted from 1: slow weights weigh more as training goes on, and end it."""
        progress = step / total_steps
        if step % SYNC_PERIOD == 0:
            self.update(net, 0.95**SYNC_PERIOD * min(1.0, progress) ** 3)
        if progress >= 1:
            self.update(net, 1.0)

    @torch.no_grad()
    def update(self, net: nn.Module, decay: float) -> None:
        """Moves the slow weights by 1 - `decay` of the way to those of `net`, and then `net` onto them."""
        state = net.state_dict()
        for key, slow in self.slow.items():
            slow.lerp_(state[key], 1 - decay)
            state[key].copy_(slow)
