"""SGD: the optimizer, with momentum

A moving sum of gradients, and a step along it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


class SGD:
    """Stochastic gradient descent, as torch.optim.SGD.

    For each parameter with a gradient g: g + weight_decay * parameter; with momentum, buffer = momentum * buffer + g (the
    first buffer is g itself), and the step is along the buffer, or along g + momentum * buffer with Nesterov's form.
    Then parameter -= lr * step. Gradients stay as they are.

    Attributes:
        lr: Learning rate, which may change between steps.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.momentum, self.nesterov, self.weight_decay = lr, momentum, nesterov, weight_decay
        self.buffers: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Updates every parameter that has a gradient."""
        for parameter in self.parameters:
            if parameter.grad is None:
                continue
            grad = parameter.grad + self.weight_decay * parameter
            if self.momentum:
                buffer = self.buffers[parameter] = self.momentum * self.buffers.get(parameter, 0) + grad
                grad = grad + self.momentum * buffer if self.nesterov else buffer
            parameter -= self.lr * grad

    def zero_grad(self) -> None:
        """Sets every gradient to None."""
        for parameter in self.parameters:
            parameter.grad = None
