"""The policy gradient: REINFORCE with rewards-to-go and a baseline

An action has no label. It becomes more likely by as much as what followed was better than expected.
"""

import torch
from torch import Tensor


def rewards_to_go(rewards: Tensor, done: Tensor, gamma: float) -> Tensor:
    """Discounted sum of the rewards from each step to the end of its episode, or to the last row.

    Args:
        rewards: (T, N) float: T steps of N environments side by side.
        done: (T, N) bool: this step is the last of its episode; the next row of that environment begins another.
        gamma: Discount factor: a reward one step later counts gamma times.

    Returns:
        (T, N) float.

    Example:
        The rewards 1, 1, 1 of one environment with gamma = 0.5 and an end at the second step give 1.5, 1, 1.
    """
    returns = torch.zeros_like(rewards)
    following = 0.0  # nothing comes after the last row
    for t in reversed(range(len(rewards))):
        following = rewards[t] + gamma * following * ~done[t]
        returns[t] = following
    return returns


def policy_gradient_loss(
    logits: Tensor, actions: Tensor, rewards: Tensor, done: Tensor, values: Tensor, gamma: float
) -> Tensor:
    """REINFORCE loss: minus the mean, over all steps, of log pi(action) times (reward-to-go - value).

    Its gradient reaches the policy alone: how good a step was is a number that the policy is weighed with.

    Args:
        logits: (T, N, A) of the policy pi at each step; may be large.
        actions: (T, N) int64: the actions that were sampled, and taken.
        rewards: (T, N) float.
        done: (T, N) bool.
        values: (T, N) baseline: what a network expected at each step.
        gamma: Discount factor.

    Returns:
        The loss, a tensor of shape ().

    Example:
        Two equally likely actions, one step, reward 1, value 0: -log(1/2) = 0.693.
    """
    log_probs = torch.log_softmax(logits, -1).gather(-1, actions[..., None])[..., 0]
    advantages = rewards_to_go(rewards, done, gamma) - values.detach()
    return -(log_probs * advantages).mean()
