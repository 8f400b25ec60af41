"""Policy network, value network, and running observation normalization. Needs torch alone.

The policy network maps observations (batch, obs_dim) to the parameters of an action distribution: logits (batch, action_dim)
of a categorical one for discrete actions, means (batch, action_dim) of a Gaussian one for continuous actions.

The heads write out what `torch.distributions` computes, as its objects cost more than the arithmetic of such small batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from common.nn.standardize import has_variance

MAX_NORMALIZED_OBS = 10.0  # normalized observations are clipped there, as in stable-baselines3 and CleanRL


def mlp(in_dim: int, hidden_dims: Sequence[int], out_dim: int, out_gain: float) -> nn.Sequential:
    """MLP with tanh activations and orthogonal weights: gain sqrt(2) in hidden layers, `out_gain` in the last one.

    A policy starts with a small `out_gain`, so that all actions are equally likely (Andrychowicz et al., arXiv 2006.05990,
    section 3.2).
    """
    dims = [in_dim, *hidden_dims]
    layers: list[nn.Module] = []
    for a, b in pairwise(dims):
        layers += [layer_init(nn.Linear(a, b), math.sqrt(2)), nn.Tanh()]
    return nn.Sequential(*layers, layer_init(nn.Linear(dims[-1], out_dim), out_gain))


def layer_init(layer: nn.Linear, gain: float) -> nn.Linear:
    """Orthogonal initialization of the weights with `gain`; biases are 0."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class CategoricalHead(nn.Module):
    """Categorical distribution over discrete actions, from logits (batch, action_dim)."""

    def forward(self, logits: Tensor, actions: Tensor, action_masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-probability of `actions` (batch,) int64 and entropy, both (batch,), in nats.

        Invalid action masking: where `action_masks` (batch, action_dim) is false the probability is 0, and no gradient
        reaches the logit (Huang and Ontañón, arXiv 2006.14171).
        """
        if action_masks is not None:
            logits = logits.masked_fill(~action_masks, torch.finfo(logits.dtype).min)
        log_probs = logits.log_softmax(-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        return log_probs.gather(-1, actions[:, None]).squeeze(-1), entropy


class GaussianHead(nn.Module):
    """Diagonal Gaussian distribution over continuous actions; its standard deviation does not depend on the state."""

    def __init__(self, action_dim: int, log_std_init: float = 0.0) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.full((action_dim,), log_std_init))

    def forward(self, means: Tensor, actions: Tensor, action_masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-density of `actions` (batch, action_dim) and entropy, both (batch,), in nats; there are no masks here."""
        squares = ((actions - means) * (-self.log_std).exp()).square()
        log_probs = -(0.5 * squares + self.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)
        entropy = (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum()
        return log_probs, entropy.expand(len(means))


class PolicyNetwork(nn.Module):
    """Policy pi(a|s) (actor): an MLP and the head of its action distribution."""

    def __init__(
        self, obs_dim: int, hidden_dims: Sequence[int], action_dim: int, discrete: bool, log_std_init: float = 0.0
    ) -> None:
        super().__init__()
        self.mlp = mlp(obs_dim, hidden_dims, action_dim, out_gain=0.01)
        self.head: CategoricalHead | GaussianHead
        self.head = CategoricalHead() if discrete else GaussianHead(action_dim, log_std_init)

    def forward(self, observations: Tensor, actions: Tensor, action_masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-probability of each action in its state, and the policy's entropy there, both (batch,)."""
        return self.head(self.mlp(observations), actions, action_masks)


class ActionNetwork(nn.Module):
    """Policy from raw observations to action probabilities, or to the mean of continuous actions, for other programs.

    Args:
        policy: The policy.
        obs_rms: Observation normalization; None for none.
        bounds: Center, half range, lowest and highest value of continuous actions, in the environment's unit and shape.
    """

    def __init__(
        self, policy: PolicyNetwork, obs_rms: RunningMeanStd | None, bounds: Sequence[Tensor] | None = None
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(*([] if obs_rms is None else [obs_rms]), policy.mlp)
        self.bounds = bounds

    def forward(self, observations: Tensor, action_masks: Tensor | None = None) -> Tensor:
        """Observations (batch, obs_dim), masks (batch, action_dim) bool -> probabilities (batch, action_dim), or actions."""
        outputs = self.layers(observations)
        if self.bounds is None:
            return (outputs if action_masks is None else outputs.masked_fill(~action_masks, -math.inf)).softmax(1)
        center, half, low, high = self.bounds
        return (center + half * outputs.view(-1, *low.shape)).clamp(low, high).to(low.dtype)


class ValueNetwork(nn.Module):
    """State value V(s) (critic): an MLP with one output."""

    def __init__(self, obs_dim: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.mlp = mlp(obs_dim, hidden_dims, 1, out_gain=1.0)

    def forward(self, observations: Tensor) -> Tensor:
        """Observations (..., obs_dim) -> values (...)."""
        return self.mlp(observations).squeeze(-1)


class RunningMeanStd(nn.Module):
    """Running mean and standard deviation of all observations so far, by which it normalizes; kept in the checkpoint.

    Normalized observations are clipped: a rare event would else be as many standard deviations as it is rare.
    """

    def __init__(self, obs_dim: int) -> None:
        super().__init__()
        self.count: Tensor
        self.mean: Tensor
        self.var: Tensor
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(obs_dim))
        self.register_buffer("var", torch.ones(obs_dim))

    def forward(self, observations: Tensor) -> Tensor:
        """Observations (..., obs_dim) -> normalized observations (..., obs_dim)."""
        return ((observations - self.mean) / self.std).clamp(-MAX_NORMALIZED_OBS, MAX_NORMALIZED_OBS)

    @property
    def std(self) -> Tensor:
        """Standard deviation (obs_dim,); 1 for a feature that has not changed yet."""
        return torch.where(has_variance(self.mean, self.var.sqrt()), (self.var + 1e-8).sqrt(), 1.0)

    def update(self, count: Tensor, mean: Tensor, var: Tensor) -> None:
        """Merges the moments of `count` observations, in float64, as if all had come at once (Chan et al., 1983)."""
        old_count, old_mean, old_var = (to_float64(buffer) for buffer in (self.count, self.mean, self.var))
        count, mean, var = (moment.to(old_count.device, non_blocking=True) for moment in (count, mean, var))
        total, delta = old_count + count, mean - old_mean
        squares = old_var * old_count + var * count + delta.square() * (old_count * count / total)
        self.mean.copy_(old_mean + delta * (count / total))
        self.var.copy_(squares / total)
        self.count.copy_(total)


def to_float64(tensor: Tensor) -> Tensor:
    """float64, on the CPU if its device has none (Apple's)."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def moments(observations: Tensor) -> Tensor:
    """Moments for `RunningMeanStd.update`: count, means and variances of observations (n, obs_dim), as (1 + 2 obs_dim,)."""
    wide = to_float64(observations)
    return torch.cat([wide.new_full((1,), len(wide)), wide.mean(0), wide.var(0, correction=0)])
