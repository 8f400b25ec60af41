"""Manual update: a step of gradient descent that autograd does not see

What optimizer.step() does for plain SGD, and why it is done under torch.no_grad().
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def sgd_step(parameters: Iterable[Tensor], lr: float) -> None:
    """Subtracts `lr` times its gradient from each parameter, in place, and clears the gradient.

    The parameters stay leaves that require a gradient. Parameters without a gradient stay as they are. A graph that was
    built before the step must notice that its tensors have changed.

    Args:
        parameters: Leaf tensors that require a gradient.
        lr: Learning rate.

    Example:
        A parameter 1.0 with the gradient 0.5 becomes 0.95 with lr = 0.1.
    """
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                parameter -= lr * parameter.grad
                parameter.grad = None
