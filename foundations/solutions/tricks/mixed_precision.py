"""Mixed precision: loss scaling, and sums that need float32

float16 has no numbers below 6e-8, and small gradients become 0. Multiply the loss, and all gradients are multiplied; divide
them again before anything looks at them.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from tricks.clip_grad_norm import clip_grad_norm


class LossScaler:
    """Dynamic loss scaling, as torch.amp.GradScaler.

    Args:
        scale: Factor of the loss at the beginning.
        growth_interval: Number of updates in a row, none of them left out, after which the scale doubles.

    Attributes:
        scale: Factor of the loss now.
    """

    def __init__(self, scale: float = 2.0**16, growth_interval: int = 2000) -> None:
        self.scale, self.growth_interval, self.in_a_row = scale, growth_interval, 0

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of the scaled loss to each parameter's `.grad`."""
        (loss * self.scale).backward()

    def step(self, parameters: Iterable[Tensor], optimizer: Any, max_norm: float | None = None) -> bool:
        """One update by the true gradients; `backward` was called before.

        If an entry of a gradient is inf or NaN, the update is left out (the optimizer does not learn of it) and the scale
        is halved.

        Args:
            parameters: The optimizer's parameters in float32; those without a gradient do not count.
            optimizer: Optimizer with step(): one of torch.optim, or your own.
            max_norm: Largest total norm of the true gradients; None for no clipping.

        Returns:
            Whether there was an update.

        Example:
            The loss 3 w with scale = 8 leaves 24 in w.grad after backward, and the optimizer sees 3.
        """
        parameters = [w for w in parameters if w.grad is not None]
        for w in parameters:
            w.grad /= self.scale
        if not all(w.grad.isfinite().all() for w in parameters):
            self.scale, self.in_a_row = self.scale / 2, 0
            return False
        if max_norm is not None:
            clip_grad_norm(parameters, max_norm)
        optimizer.step()
        self.in_a_row += 1
        if self.in_a_row == self.growth_interval:
            self.scale, self.in_a_row = self.scale * 2, 0
        return True


def mean_loss(losses: Iterable[Tensor]) -> Tensor:
    """Mean of an epoch's losses, exact to float32, whatever they were computed in.

    Args:
        losses: Losses (), at least one, in float16, bfloat16 or float32.

    Returns:
        (), float32, without a graph.

    Example:
        300 losses of 1 in bfloat16 have the mean 1, although 256 + 1 = 256 in bfloat16.
    """
    total, count = torch.zeros(()), 0
    for loss in losses:
        total += loss.detach().float()
        count += 1
    return total / count
