"""Linear: the layer that most of a network is made of

A module owns parameters; what it does stands in forward.
"""

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """Affine layer y = x W^T + b, as torch.nn.Linear: their state dicts fit each other.

    Attributes:
        weight: Parameter (out_features, in_features), uniform in [-1/sqrt(in_features), 1/sqrt(in_features)] at the start.
        bias: Parameter (out_features,), of the same distribution, or None.

    Example:
        Linear(64, 10) takes (..., 64) to (..., 10), and its weight has the shape (10, 64).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        bound = in_features**-0.5
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer to the last dimension.

        Args:
            x: (..., in_features), with any number of dimensions before.

        Returns:
            (..., out_features).
        """
        y = x @ self.weight.t()
        return y if self.bias is None else y + self.bias
