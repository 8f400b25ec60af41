"""A policy at work: its network's forward pass without autograd, on arrays.

In a step of a few environments the arithmetic is nothing and the calls are everything; NumPy's
cost less than torch's. The weights are the module's own memory (on a CPU; copies elsewhere), so an `Actor` is
never behind.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from projects.policy_gradient.networks import GaussianHead, PolicyNetwork, RunningScale


class Actor:
    """Chooses the likeliest action in every state: (envs, size) and masks (envs, actions) or None -> (envs, ...).

    Args:
        net: the policy.
        scale: what its observations go through, if anything.
    """

    def __init__(self, net: PolicyNetwork, scale: RunningScale | None) -> None:
        self.layers = [(array(p.weight).T, array(p.bias)) for p in net.stack if isinstance(p, nn.Linear)]
        self.shift = None if scale is None else (array(scale.mean), array(scale.deviation))
        self.deviation = array(net.head.log_std.exp()) if isinstance(net.head, GaussianHead) else None

    def outputs(self, observations: np.ndarray) -> np.ndarray:
        """What the network's head is given: logits or means, (envs, actions)."""
        x = observations
        if self.shift is not None:
            x = (x - self.shift[0]) / self.shift[1]
        for weight, bias in self.layers[:-1]:
            x = np.tanh(x @ weight + bias)
        weight, bias = self.layers[-1]
        return x @ weight + bias

    def choose(self, outputs: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        """The action of the highest output that is allowed, or the outputs themselves where actions are numbers."""
        if self.deviation is not None:
            return outputs
        return (outputs if masks is None else np.where(masks, outputs, -np.inf)).argmax(1)

    def __call__(self, observations: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        return self.choose(self.outputs(observations), masks)


class Sampler:
    """Draws an action from the policy's distribution in every state; like `Actor`, once for each row of `noise`.

    The likeliest action after independent Gumbel noise is added to the logits is a draw from their softmax, so all the
    chance of a rollout can be drawn beforehand (Gumbel, 1954).

    Args:
        actor: the policy.
        noise: (steps, envs, actions), see `draw_noise`.
    """

    def __init__(self, actor: Actor, noise: Tensor) -> None:
        self.actor = actor
        self.noise = iter(noise.numpy())

    def __call__(self, observations: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        noise = next(self.noise)
        if self.actor.deviation is not None:
            noise = noise * self.actor.deviation
        return self.actor.choose(self.actor.outputs(observations) + noise, masks)


def draw_noise(steps: int, envs: int, actions: int, discrete: bool, generator: torch.Generator) -> Tensor:
    """(steps, envs, actions) float32: standard Gumbel numbers for choices, standard normal ones for numbers."""
    if not discrete:
        return torch.randn(steps, envs, actions, generator=generator)
    # the inverse of the distribution function; exponential numbers are above 0, so there is no infinity
    return -torch.empty(steps, envs, actions).exponential_(generator=generator).log()


def array(tensor: Tensor) -> np.ndarray:
    """A tensor's values as an array, in its own memory where that is possible."""
    return tensor.detach().cpu().numpy()
