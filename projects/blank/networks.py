"""Multilayer perceptron (MLP) for regression, with standardized inputs and targets. Needs torch alone."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from common.nn.standardize import has_variance


class MLPRegressor(nn.Module):
    """MLP with GELU activations that maps a row of features to one number.

    Features are standardized and predictions are scaled back inside the network, by statistics of the training data that
    are part of the state dict: a checkpoint is all that a prediction needs.

    Args:
        num_features: Number of input features.
        hidden_dim: Units of each hidden layer.
        num_layers: Number of hidden layers.
    """

    input_mean: Tensor
    input_std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(self, num_features: int, hidden_dim: int, num_layers: int) -> None:
        super().__init__()
        dims = [num_features, *[hidden_dim] * num_layers]
        hidden = [nn.Sequential(nn.Linear(a, b), nn.GELU()) for a, b in pairwise(dims)]
        self.layers = nn.Sequential(*hidden, nn.Linear(dims[-1], 1))
        self.register_buffer("input_mean", torch.zeros(num_features))
        self.register_buffer("input_std", torch.ones(num_features))
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_std", torch.ones(()))

    def init_stats(self, inputs: Tensor, targets: Tensor) -> None:
        """Sets mean and standard deviation from the training data: inputs (rows, features), targets (rows,).

        The standard deviation of a constant column is taken as 1.
        """
        for name, values in [("input", inputs), ("target", targets)]:
            mean, std = values.mean(0), values.std(0)
            self.get_buffer(f"{name}_mean").copy_(mean)
            self.get_buffer(f"{name}_std").copy_(torch.where(has_variance(mean, std), std, 1.0))

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (batch, features) -> predictions (batch,)."""
        standardized = (inputs - self.input_mean) / self.input_std  # (batch, features)
        return self.layers(standardized).squeeze(1) * self.target_std + self.target_mean
