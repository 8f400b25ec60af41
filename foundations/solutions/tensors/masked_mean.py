"""Masked mean: the average of each sequence's own vectors

Sequences of unequal length are padded to one tensor; whatever stands in the padding must not count.
"""

import torch
from torch import Tensor


def masked_mean(x: Tensor, lengths: Tensor) -> Tensor:
    """Mean over each sequence's first `lengths` vectors.

    Args:
        x: (B, T, D) float, padded; the padding may hold anything, NaN too.
        lengths: (B,) int64, from 0 to T.

    Returns:
        (B, D) float; zeros for a sequence of length 0, NaN where one of its own vectors has NaN.

    Example:
        x = [[[1], [3], [9]]] and lengths = [2] give [[2]]
    """
    mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]  # (B, T)
    total = x.masked_fill(~mask[..., None], 0.0).sum(1)
    return total / lengths.clamp(min=1)[:, None]
