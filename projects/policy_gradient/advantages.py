"""Advantage estimation: returns (rewards-to-go) and generalized advantage estimation, GAE(lambda).

Functions of (steps, envs) tensors. A transition counts if it is `valid`; sums stop at the end of its episode. A terminated
episode has no value beyond its end. In GAE a truncated one, and one that goes on beyond the last row, is bootstrapped: the
value network estimates the rest. Rewards-to-go have no value network, and treat a truncated episode as terminated.
"""

from __future__ import annotations

import torch
from torch import Tensor


def discounted_cumsum(terms: Tensor, factors: Tensor) -> Tensor:
    """Discounted cumulative sum y[t] = terms[t] + factors[t] * y[t + 1] along dimension 0; y is 0 beyond the last row.

    A parallel scan in log2(steps) passes over whole tensors: once a row holds its own term and those of the n - 1 rows after
    it, and `reach` the product of the n factors that lead beyond them, adding the sums of the row n further on doubles n
    (Hillis and Steele, "Data parallel algorithms", 1986).
    """
    sums, reach, distance = terms.clone(), factors.clone(), 1
    while distance < len(terms):
        sums[:-distance] += reach[:-distance] * sums[distance:]  # the right side is computed before any of it is written
        reach[:-distance] *= reach[distance:].clone()  # rows whose reach leaves the tensor are not read again
        distance *= 2
    return sums


def rewards_to_go(rewards: Tensor, done: Tensor, valid: Tensor, gamma: float) -> Tensor:
    """Return of each step: discounted sum of the rewards from it to its episode's end; 0 where not valid.

    Rewards before an action are left out, as it cannot have caused them (Williams, 1992; Sutton et al., 2000). The sum stops
    at the last row; `is_complete` tells where it is the return of the episode as it was played. Of a truncated episode that
    is less than what would have come without the cut: only a value network can tell how much.
    """
    return discounted_cumsum(rewards * valid, gamma * (valid & ~done).to(rewards.dtype))


def is_complete(done: Tensor, valid: Tensor) -> Tensor:
    """Mask (steps, envs) of valid transitions whose episode ends within the rows, also by truncation."""
    ends_left = done.flip(0).cumsum(0).flip(0)  # now or later; the first of them is its own episode's
    return valid & (ends_left > 0)


def generalized_advantage_estimate(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalized advantage estimation, GAE(gamma, lambda) (Schulman et al., arXiv 1506.02438, eq. 16); 0 where not valid.

    The sum of the TD errors of a step and of those after it in its episode, each weighted by gamma * lambda once more.
    lambda 1 is the return minus V (high variance); lambda 0 the one-step TD error (high bias).

    Args:
        rewards: Reward of each step.
        values: V of the observation before the step.
        next_values: V of the observation after it; at the end of an episode, of its final observation.
        terminated: Termination: nothing comes after the step.
        truncated: Truncation: the episode was cut off after the step.
        valid: Whether the step is a transition at all.
        gamma: Discount factor.
        gae_lambda: lambda of the paper.
    """
    td_error = valid * (rewards + gamma * next_values * ~terminated - values)
    not_done = valid & ~(terminated | truncated)
    return discounted_cumsum(td_error, gamma * gae_lambda * not_done.to(rewards.dtype))


def next_values(values: Tensor, last_values: Tensor, final_obs_index: Tensor, final_values: Tensor) -> Tensor:
    """Values (steps, envs) of the observation after each step.

    Args:
        values: (steps, envs), V of the observation before each step.
        last_values: (envs,), V of the observation after the last step.
        final_obs_index: (ends, 2) int64, see `Rollout`.
        final_values: (ends,), V of the final observations at these steps.
    """
    following = torch.cat([values[1:], last_values[None]])
    following[final_obs_index[:, 0], final_obs_index[:, 1]] = final_values
    return following
