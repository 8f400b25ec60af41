"""Numerical gradient: a check of autograd that trusts nothing but the function

Move one entry a little up and a little down, and look how the value changes.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def numerical_gradient(f: Callable[[Tensor], Tensor], x: Tensor, eps: float = 1e-5) -> Tensor:
    """Gradient of a scalar function by central differences.

    Args:
        f: Function of a tensor of the shape of `x` that gives a tensor of one entry.
        x: Where the gradient is taken: float32 or float64, of any shape and memory layout; it stays as it is.
        eps: Step up and down, in float64.

    Returns:
        Gradient of the shape of `x`, float64, exact to about eps ** 2.

    Example:
        f(x) = (x ** 2).sum() at [1, 3] has the gradient [2, 6].
    """
    point = x.detach().double().contiguous().clone()  # differences of float32 are mostly rounding
    flat, gradient = point.view(-1), torch.zeros(x.numel(), dtype=torch.float64)
    for i in range(len(flat)):
        value = flat[i].item()
        flat[i] = value + eps
        up = f(point).item()
        flat[i] = value - eps
        down = f(point).item()
        flat[i] = value
        gradient[i] = (up - down) / (2 * eps)
    return gradient.view(x.shape)


def gradients_agree(f: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether autograd's gradient of `f` at `x`, taken in float64, agrees with the numerical one.

    Args:
        f: Function of a tensor that gives a tensor of one entry.
        x: Where the gradients are taken.

    Returns:
        True if no entry differs by more than 1e-4 + 1e-4 times its size.
    """
    leaf = x.detach().double().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(leaf), leaf)
    return torch.allclose(gradient, numerical_gradient(f, x), rtol=1e-4, atol=1e-4)
