"""Gather: the score of each row's label

The value that a loss or a policy needs: of each row of scores the one entry that its label names.
"""

import torch
from torch import Tensor


def gather_scores(scores: Tensor, labels: Tensor) -> Tensor:
    """Score of each row's label.

    Args:
        scores: (N, C) float.
        labels: (N,) int64, from 0 to C - 1.

    Returns:
        (N,) float; also for N = 1 and N = 0.

    Example:
        gather_scores([[1, 2, 3], [4, 5, 6]], [2, 0]) is [3, 4]
    """
    return scores[torch.arange(len(labels)), labels]
