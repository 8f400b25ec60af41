"""Gradients by hand: the mean squared error of a linear layer

Autograd applies the chain rule. Once one has done it oneself, its results stop being magic.
"""

from torch import Tensor


def mse_gradients(x: Tensor, w: Tensor, b: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of mean((x w + b - y) ** 2), the mean over all N * K entries.

    Args:
        x: Inputs (N, D).
        w: Weights (D, K).
        b: Biases (K,).
        y: Targets (N, K).

    Returns:
        Gradients with respect to w (D, K), b (K,) and x (N, D).

    Example:
        x = [[2]], w = [[3]], b = [1], y = [[4]]: the error is 3, the gradients are [[12]], [6] and [[18]].
    """
    grad_out = 2 * (x @ w + b - y) / y.numel()  # (N, K): what reaches the layer's output
    return x.t() @ grad_out, grad_out.sum(0), grad_out @ w.t()
