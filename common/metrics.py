"""Weighted mean of a loss over an evaluation, without a host sync."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanLoss(Metric):
    """Weighted mean of losses, over all processes.

    As `torchmetrics.MeanMetric`, which looks for NaN in every update and so has the host wait for the device; and drops it,
    where here the mean is NaN and `GradientMonitor` stops the run.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: Tensor | int) -> None:
        """Adds a mean loss, a scalar, of so many samples or tokens."""
        self.total += value * weight
        self.weight += weight

    def compute(self) -> Tensor:
        return self.total / self.weight
