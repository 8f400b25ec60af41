"""Gradient clipping: one limit for the length of the whole gradient

One bad batch can throw a network far away. Clipping shortens the gradient and keeps its direction; its length before that
tells whether something explodes.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scales all gradients by one factor so that their total norm is at most `max_norm`; shorter ones stay as they are.

    The total norm is that of all gradients laid end to end as a single vector.

    Args:
        parameters: Parameters, such as `model.parameters()`; those without a gradient do not count.
        max_norm: Largest total norm allowed.

    Returns:
        The total norm before clipping, (); 0 if there is no gradient. It may be inf or NaN; the gradients are then lost.

    Example:
        Gradients [3, 0] and [4] with max_norm = 1 become [0.6, 0] and [0.8], and 5 is returned.
    """
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not grads:
        return torch.tensor(0.0)
    total = torch.stack([grad.norm() for grad in grads]).norm()
    for grad in grads:
        grad *= (max_norm / (total + 1e-6)).clamp(max=1.0)
    return total


def clipped_step(loss: Tensor, parameters: Iterable[Tensor], optimizer: Any, max_norm: float) -> Tensor:
    """One update by the clipped gradient of `loss`.

    Gradients from before do not count. If the total norm is inf or NaN, the update is left out.

    Args:
        loss: Loss ().
        parameters: The optimizer's parameters.
        optimizer: Optimizer with zero_grad() and step(): one of torch.optim, or your own.
        max_norm: Largest total norm allowed.

    Returns:
        The total norm before clipping, ().
    """
    optimizer.zero_grad()
    loss.backward()
    norm = clip_grad_norm(parameters, max_norm)
    if norm.isfinite():
        optimizer.step()
    return norm


def is_exploding(norms: Sequence[float], factor: float = 10.0) -> bool:
    """Whether the last gradient norm is not finite, or more than `factor` times the median of those before it.

    Args:
        norms: Total norms of all steps so far, the last one last; at least one.
        factor: Ratio above which a norm counts as exploding.

    Example:
        is_exploding([1.0, 2.0, 1.5, 40.0]) is True; a single finite norm never explodes.
    """
    *before, last = norms
    if not math.isfinite(last):
        return True
    return len(before) > 0 and last > factor * statistics.median(before)
