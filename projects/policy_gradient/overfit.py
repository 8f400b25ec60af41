"""Behavior cloning of one rollout: what `--debug overfit` fits, as a policy gradient loss has no minimum."""

from __future__ import annotations

import torch
from torch import Tensor

from projects.policy_gradient.minibatches import Transitions
from projects.policy_gradient.networks import CategoricalHead, PolicyNetwork, ValueNetwork

NUM_TRANSITIONS = 16


def behavior_cloning_loss(batch: Transitions, policy: PolicyNetwork, value: ValueNetwork | None) -> Tensor:
    """Mean error of a few transitions: of the policy against the actions, of the value network against normalized returns.

    The transitions are evenly spaced: neighbors are too much alike to be memorized apart.
    """
    batch = batch[torch.linspace(0, len(batch) - 1, min(len(batch), NUM_TRANSITIONS)).long()]
    if isinstance(policy.head, CategoricalHead):
        loss = -policy(batch.observations, batch.actions, batch.action_masks)[0]
    else:
        loss = (policy.mlp(batch.observations) - batch.actions).square().mean(-1)
    if value is not None and batch.returns is not None:
        targets = (batch.returns - batch.returns.mean()) / (batch.returns.std() + 1e-8)
        loss = loss + (value(batch.observations) - targets).square()
    return loss.mean()
