"""Adam: a step for each parameter, scaled by how large its gradients have been

Two moving averages and a correction for their beginning at zero.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


class Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980), as torch.optim.Adam; with `decoupled`, AdamW (arXiv 1711.05101).

    For each parameter with a gradient g, t its own number of updates:
    m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2,
    parameter -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps).

    Weight decay is added to g as weight_decay * parameter; decoupled, the parameter is first multiplied by
    1 - lr * weight_decay instead.

    Attributes:
        lr: Learning rate, which may change between steps.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.betas, self.eps = lr, betas, eps
        self.weight_decay, self.decoupled = weight_decay, decoupled
        self.state: dict[Tensor, tuple[int, Tensor, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Updates every parameter that has a gradient."""
        beta1, beta2 = self.betas
        for parameter in self.parameters:
            if parameter.grad is None:
                continue
            grad = parameter.grad
            if self.decoupled:
                parameter *= 1 - self.lr * self.weight_decay
            else:
                grad = grad + self.weight_decay * parameter
            count, m, v = self.state.get(parameter, (0, torch.zeros_like(parameter), torch.zeros_like(parameter)))
            count, m, v = count + 1, beta1 * m + (1 - beta1) * grad, beta2 * v + (1 - beta2) * grad.square()
            self.state[parameter] = count, m, v
            scale = (v / (1 - beta2**count)).sqrt() + self.eps
            parameter -= self.lr * m / (1 - beta1**count) / scale

    def zero_grad(self) -> None:
        """Sets every gradient to None."""
        for parameter in self.parameters:
            parameter.grad = None
