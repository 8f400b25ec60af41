"""Multilayer perceptron: one hidden layer, four parameters

A line cannot part two half moons. A hidden layer with a nonlinearity bends it.
"""

import torch
from torch import Tensor


def relu(x: Tensor) -> Tensor:
    """The larger of each entry and 0.

    Args:
        x: Any shape.

    Returns:
        The shape of `x`; the gradient is 1 where `x` is positive and 0 where it is negative.
    """
    return x.clamp(min=0)


def init_mlp(in_dim: int, hidden_dim: int, out_dim: int, rng: torch.Generator) -> list[Tensor]:
    """Four leaves that require a gradient: w1 (in_dim, hidden_dim), b1 (hidden_dim,), w2 (hidden_dim, out_dim), b2.

    The weights are random, of a standard deviation that keeps the activations' size; the biases are zeros.

    Args:
        in_dim: Features of an input.
        hidden_dim: Hidden units.
        out_dim: Outputs.
        rng: Random numbers come from it alone.
    """
    w1 = torch.randn(in_dim, hidden_dim, generator=rng) * (2 / in_dim) ** 0.5
    w2 = torch.randn(hidden_dim, out_dim, generator=rng) * (1 / hidden_dim) ** 0.5
    parameters = [w1, torch.zeros(hidden_dim), w2, torch.zeros(out_dim)]
    return [parameter.requires_grad_() for parameter in parameters]


def mlp(x: Tensor, parameters: list[Tensor]) -> Tensor:
    """Outputs of the network: linear, relu, linear.

    Args:
        x: Inputs (N, in_dim).
        parameters: Those of `init_mlp`.

    Returns:
        (N, out_dim), of any sign.
    """
    w1, b1, w2, b2 = parameters
    return relu(x @ w1 + b1) @ w2 + b2


def train_mlp(
    x: Tensor, y: Tensor, hidden_dim: int, rng: torch.Generator, lr: float = 0.5, steps: int = 400
) -> list[Tensor]:
    """Parameters of a classifier of two classes, trained by gradient descent over all samples.

    The loss is the binary cross-entropy of the logit mlp(x)[:, 0], which may use
    torch.nn.functional.binary_cross_entropy_with_logits.

    Args:
        x: Inputs (N, in_dim).
        y: Classes (N,), 0.0 or 1.0.
        hidden_dim: Hidden units.
        rng: For the initialization.
        lr: Learning rate.
        steps: Steps.
    """
    parameters = init_mlp(x.shape[1], hidden_dim, 1, rng)
    for _ in range(steps):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(mlp(x, parameters)[:, 0], y)
        loss.backward()
        with torch.no_grad():
            for parameter in parameters:
                parameter -= lr * parameter.grad
                parameter.grad = None
    return parameters
