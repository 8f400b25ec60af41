"""The network. Needs torch alone."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class Regressor(nn.Module):
    """Hidden layers between standardised inputs and one number, which is scaled back to the target's range.

    Args:
        inputs: numbers in a row.
        width: units of a hidden layer.
        layers: hidden layers.
    """

    input_mean: Tensor
    input_scale: Tensor
    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, inputs: int, width: int, layers: int) -> None:
        super().__init__()
        widths = [inputs, *[width] * layers]
        hidden = [nn.Sequential(nn.Linear(a, b), nn.GELU()) for a, b in pairwise(widths)]
        self.stack = nn.Sequential(*hidden, nn.Linear(widths[-1], 1))
        self.register_buffer("input_mean", torch.zeros(inputs))
        self.register_buffer("input_scale", torch.ones(inputs))
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_scale", torch.ones(()))

    def fit_scales(self, inputs: Tensor, targets: Tensor) -> None:
        """Takes means and standard deviations from rows (rows, inputs) and targets (rows,)."""
        for name, values in [("input", inputs), ("target", targets)]:
            self.get_buffer(f"{name}_mean").copy_(values.mean(0))
            self.get_buffer(f"{name}_scale").copy_(values.std(0).clamp(min=1e-6))

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, inputs) -> predictions (batch,)."""
        scaled = (inputs - self.input_mean) / self.input_scale  # (batch, inputs)
        return self.stack(scaled).squeeze(1) * self.target_scale + self.target_mean
