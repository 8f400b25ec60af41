"""A policy and a value network for vectors of numbers, and the running scale of what they see; needs torch alone.

A policy maps observations (batch, size) to what its head makes a distribution of: logits (batch, actions) of choices, or
means (batch, numbers) of independent normal distributions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def mlp(inputs: int, hidden: Sequence[int], outputs: int, gain: float) -> nn.Sequential:
    """Hidden layers with tanh, and a last layer without; weights orthogonal times sqrt(2), the last one's times `gain`.

    A policy starts with a small `gain`, so that all its actions are equally likely (Andrychowicz et al., arXiv 2006.05990,
    section 3.2).
    """
    layers: list[nn.Module] = []
    for a, b in pairwise([inputs, *hidden]):
        layers += [scaled(nn.Linear(a, b), math.sqrt(2)), nn.Tanh()]
    return nn.Sequential(*layers, scaled(nn.Linear(([inputs, *hidden])[-1], outputs), gain))


def scaled(layer: nn.Linear, gain: float) -> nn.Linear:
    """The layer with orthogonal weights times `gain` and zero biases."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class CategoricalHead(nn.Module):
    """A choice among actions by their logits (batch, actions)."""

    def forward(self, logits: Tensor, actions: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-probability (batch,) of each of `actions` (batch,) int64, and entropy (batch,), in nats.

        Where `masks` (batch, actions) is false the action is not allowed: its probability is 0, and no gradient reaches its
        logit (Huang and Ontañón, arXiv 2006.14171).
        """
        if masks is not None:
            logits = logits.masked_fill(~masks, torch.finfo(logits.dtype).min)
        log_probabilities = logits.log_softmax(-1)
        entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
        return log_probabilities.gather(-1, actions[:, None]).squeeze(-1), entropy


class GaussianHead(nn.Module):
    """Independent normal distributions around means (batch, numbers), as wide in every state.

    Args:
        size: numbers in an action.
        log_std: the logarithm of their standard deviation at the start.
    """

    def __init__(self, size: int, log_std: float = 0.0) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.full((size,), log_std))

    def forward(self, means: Tensor, actions: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-density (batch,) of `actions` (batch, numbers) and entropy (batch,), in nats; numbers know no masks."""
        scaled_squares = ((actions - means) * (-self.log_std).exp()).square()
        log_density = -(0.5 * scaled_squares + self.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)
        entropy = (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum()
        return log_density, entropy.expand(len(means))


class PolicyNetwork(nn.Module):
    """What to do: an MLP and the head that its outputs are for.

    Args:
        size: numbers in an observation.
        hidden: units of each hidden layer.
        actions: choices, or numbers in an action.
        discrete: whether they are choices.
        log_std: of numbers, at the start.
    """

    def __init__(self, size: int, hidden: Sequence[int], actions: int, discrete: bool, log_std: float = 0.0) -> None:
        super().__init__()
        self.stack = mlp(size, hidden, actions, gain=0.01)
        self.head: CategoricalHead | GaussianHead = CategoricalHead() if discrete else GaussianHead(actions, log_std)

    def forward(self, observations: Tensor, actions: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-probability of each action in its state, and the distribution's entropy there, both (batch,)."""
        return self.head(self.stack(observations), actions, masks)


class ValueNetwork(nn.Module):
    """What is still to come: an MLP to one number.

    Args:
        size: numbers in an observation.
        hidden: units of each hidden layer.
    """

    def __init__(self, size: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.stack = mlp(size, hidden, 1, gain=1.0)

    def forward(self, observations: Tensor) -> Tensor:
        """(..., size) -> (...)."""
        return self.stack(observations).squeeze(-1)


class RunningScale(nn.Module):
    """Brings each number of an observation to mean 0 and variance 1, by all observations so far. Kept in the checkpoint.

    Args:
        size: numbers in an observation.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.count: Tensor
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))

    def forward(self, observations: Tensor) -> Tensor:
        """(..., size) -> (..., size)."""
        return (observations - self.mean) / self.deviation

    @property
    def deviation(self) -> Tensor:
        """(size,), what observations are divided by; above 0 for a number that never changes, too."""
        return (self.variance + 1e-8).sqrt()

    def take_in(self, count: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Adds `count` observations of `mean` and `variance`, as if all had been seen at once (Chan et al., 1983)."""
        before, old_mean, old_variance = (buffer.cpu().double() for buffer in (self.count, self.mean, self.variance))
        total, shift = before + count, mean - old_mean
        squares = old_variance * before + variance * count + shift.square() * (before * count / total)
        self.mean.copy_(old_mean + shift * (count / total))
        self.variance.copy_(squares / total)
        self.count.copy_(total)


def moments(observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean (size,) and variance (size,) of observations (n, size), for `RunningScale.take_in`.

    In float64, and so on the CPU: not every device has it.
    """
    wide = observations.cpu().double()
    return wide.new_tensor(len(wide)), wide.mean(0), wide.var(0, correction=0)
