"""Scatter-add: sums by index

How often each token occurs, what all samples of a class weigh: many values go to few places, and some meet.
"""

import torch
from torch import Tensor


def sum_by_index(index: Tensor, weights: Tensor, size: int) -> Tensor:
    """Sum of the weights of each index.

    Args:
        index: (N,) int64, from 0 to size - 1, with repetitions, in any order.
        weights: (N,) float.
        size: Number of sums, K.

    Returns:
        (K,) of the weights' dtype; 0 where an index does not occur.

    Example:
        index [1, 1, 3], weights [2, 3, 4] and size 4 give [0, 5, 0, 4].
    """
    sums = torch.zeros(size, dtype=weights.dtype, device=weights.device)
    return sums.scatter_add(0, index, weights)
