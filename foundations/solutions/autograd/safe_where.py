"""Safe where: functions that are fine, with gradients that are not

torch.where picks values, but the gradient of the branch that it did not pick is still computed, and 0 * inf is nan.
"""

import torch
from torch import Tensor


def entropy_term(x: Tensor) -> Tensor:
    """x * log(x), and 0 at 0.

    Args:
        x: Any shape, 0 or positive, down to 1e-30.

    Returns:
        The shape of `x`. The gradient is log(x) + 1 where x is positive, and 0 at 0.

    Example:
        [0, 1, e] gives [0, 0, e].
    """
    positive = x > 0
    safe = torch.where(positive, x, 1.0)  # the logarithm never sees a zero
    return torch.where(positive, x * safe.log(), 0.0)


def row_norms(x: Tensor) -> Tensor:
    """Euclidean norm of each row.

    Args:
        x: (N, D).

    Returns:
        (N,). The gradient is the row over its norm, and 0 for a row of zeros.

    Example:
        [[3, 4], [0, 0]] gives [5, 0].
    """
    squared = x.square().sum(1)
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)
