"""Linear regression: the first training loop, with tensors alone

No module, no optimizer: a prediction, a loss, its gradient, a step.
"""

import torch
from torch import Tensor


def fit_line(x: Tensor, y: Tensor, lr: float = 0.1, steps: int = 500) -> tuple[Tensor, Tensor]:
    """Weights and bias that minimize the mean squared error, by gradient descent from zeros.

    Args:
        x: Inputs (N, D), of about unit variance.
        y: Targets (N,).
        lr: Learning rate.
        steps: Steps of gradient descent, each over all samples.

    Returns:
        Weights (D,) and bias (), without a graph.

    Example:
        x = [[0], [1], [2]] and y = [1, 3, 5] give weights near [2] and a bias near 1.
    """
    w, b = torch.zeros(x.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    for _ in range(steps):
        loss = (x @ w + b - y).square().mean()
        loss.backward()
        with torch.no_grad():
            for parameter in (w, b):
                parameter -= lr * parameter.grad
                parameter.grad = None
    return w.detach(), b.detach()
