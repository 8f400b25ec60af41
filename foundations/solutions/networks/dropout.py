"""Dropout: units that are absent, at random, in training

Inverted dropout scales in training, so that evaluation does nothing at all.
"""

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Inverted dropout: in training each entry is 0 with probability p, and the others are divided by 1 - p.

    In evaluation the input is returned as it is. With p = 1 the result is zeros.

    Args:
        p: Probability that an entry is dropped, from 0 to 1.

    Example:
        Dropout(0.5) in training makes of ones a mixture of 0 and 2.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Applies dropout, to each entry on its own.

        Args:
            x: Any shape.

        Returns:
            The shape of `x`.
        """
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return x * 0
        keep = torch.rand_like(x) >= self.p
        return x * keep / (1 - self.p)
