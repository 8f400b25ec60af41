"""Actor: the policy's forward pass in NumPy, to choose actions for a few environments.

For so small a batch the arithmetic is nothing and the number of calls is everything: NumPy's cost less than torch's.
The weights are the module's own memory (on a CPU; copies elsewhere), so an `Actor` is never behind.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from projects.policy_gradient.networks import MAX_NORMALIZED_OBS, GaussianHead, PolicyNetwork, RunningMeanStd


class Actor:
    """Greedy (deterministic) actions (envs, ...) of observations (envs, obs_dim) and masks (envs, action_dim) or None."""

    def __init__(self, policy: PolicyNetwork, obs_rms: RunningMeanStd | None) -> None:
        linear = [layer for layer in policy.mlp if isinstance(layer, nn.Linear)]
        tensors = [part for layer in linear for part in (layer.weight, layer.bias)]
        tensors += [] if obs_rms is None else [obs_rms.mean, obs_rms.std]
        tensors += [policy.head.log_std.exp()] if isinstance(policy.head, GaussianHead) else []
        arrays = iter(to_numpy(tensors))
        self.layers = [(next(arrays).T, next(arrays)) for _ in linear]
        self.normalization = None if obs_rms is None else (next(arrays), next(arrays))
        self.std = next(arrays, None)

    def outputs(self, observations: np.ndarray) -> np.ndarray:
        """Logits or means, (envs, action_dim)."""
        x = observations
        if self.normalization is not None:
            x = ((x - self.normalization[0]) / self.normalization[1]).clip(-MAX_NORMALIZED_OBS, MAX_NORMALIZED_OBS)
        for weight, bias in self.layers[:-1]:
            x = np.tanh(x @ weight + bias)
        weight, bias = self.layers[-1]
        return x @ weight + bias

    def __call__(self, observations: np.ndarray, action_masks: np.ndarray | None) -> np.ndarray:
        return choose_actions(self.outputs(observations), action_masks, self.std is None)


class StochasticActor:
    """Actions sampled from the policy; called like `Actor`, once for each row of `noise`.

    Gumbel-max trick: the argmax of logits plus independent Gumbel noise is a sample from their softmax (Gumbel, 1954), so
    the noise of a whole rollout can be sampled beforehand.
    """

    def __init__(self, actor: Actor, noise: Tensor) -> None:
        self.actor = actor
        self.noise = iter(noise.numpy())

    def __call__(self, observations: np.ndarray, action_masks: np.ndarray | None) -> np.ndarray:
        noise, std = next(self.noise), self.actor.std
        noise = noise if std is None else noise * std
        return choose_actions(self.actor.outputs(observations) + noise, action_masks, std is None)


def choose_actions(outputs: np.ndarray, action_masks: np.ndarray | None, discrete: bool) -> np.ndarray:
    """Argmax of outputs (envs, action_dim) over the valid discrete actions, or the outputs as continuous actions."""
    if not discrete:
        return outputs
    return (outputs if action_masks is None else np.where(action_masks, outputs, -np.inf)).argmax(1)


def sample_noise(steps: int, envs: int, action_dim: int, discrete: bool, generator: torch.Generator) -> Tensor:
    """Noise (steps, envs, action_dim) float32: standard Gumbel for discrete actions, standard normal for continuous ones."""
    if not discrete:
        return torch.randn(steps, envs, action_dim, generator=generator)
    # minus the logarithm of an exponential variable is Gumbel; it is above 0, so there is no infinity
    return -torch.empty(steps, envs, action_dim).exponential_(generator=generator).log()


@torch.no_grad()
def to_numpy(tensors: list[Tensor]) -> list[np.ndarray]:
    """Values of tensors as arrays, in the tensors' own memory on a CPU; from a device in one copy."""
    if tensors[0].device.type != "cpu":
        parts = torch.cat([tensor.flatten() for tensor in tensors]).cpu().split([tensor.numel() for tensor in tensors])
        tensors = [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
    return [tensor.detach().numpy() for tensor in tensors]
