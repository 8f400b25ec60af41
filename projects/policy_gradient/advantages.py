"""How much better than expected each action turned out, from the rewards that followed it; as functions of tensors.

All tensors are (steps, envs). A transition counts if it is `valid`; the chain of what follows it breaks where its episode
ended. What lies beyond the last row, or beyond a truncation, is unknown and stands for what a value network says of it; a
terminated episode has nothing beyond its end.
"""

from __future__ import annotations

import torch
from torch import Tensor


def discounted_sums(terms: Tensor, factors: Tensor) -> Tensor:
    """y with y[t] = terms[t] + factors[t] * y[t + 1] along dimension 0, where y is 0 beyond the last row.

    In log2(steps) passes over whole tensors instead of a loop over the steps: once a row holds its own term and those of
    the n - 1 rows after it, and `reach` the product of the n factors that lead beyond them, adding the sums of the row n
    further on doubles n (Hillis and Steele, "Data parallel algorithms", 1986).
    """
    sums, reach, distance = terms.clone(), factors.clone(), 1
    while distance < len(terms):
        sums[:-distance] += reach[:-distance] * sums[distance:]  # the right side is computed before any of it is written
        reach[:-distance] *= reach[distance:].clone()  # of what leads beyond the last row nobody asks
        distance *= 2
    return sums


def rewards_to_go(rewards: Tensor, ended: Tensor, valid: Tensor, discount: float) -> Tensor:
    """The discounted sum of the rewards from each step to its episode's end, as far as the rows go; 0 where not valid.

    The return without the rewards that came before the action, which it cannot have caused (Williams, 1992; Sutton et al.,
    2000). See `is_complete` for where it is all there is to know.
    """
    return discounted_sums(rewards * valid, discount * (valid & ~ended).to(rewards.dtype))


def is_complete(ended: Tensor, valid: Tensor) -> Tensor:
    """(steps, envs) bool: whether a valid transition's episode ends within the rows, so that its reward-to-go is known."""
    ends_left = ended.flip(0).cumsum(0).flip(0)  # now or later; the first of them is its own episode's
    return valid & (ends_left > 0)


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    discount: float,
    trace: float,
) -> Tensor:
    """Generalised advantage estimates (Schulman et al., arXiv 1506.02438, eq. 16); 0 where not valid.

    The temporal difference r + discount * V(next) - V of a step, plus those of the steps after it in its episode, each
    weighed by `discount * trace` once more. `trace` 1 gives the reward-to-go, with what the value network says of the rest,
    minus V; 0 the temporal difference alone.

    Args:
        rewards: of each step.
        values: of the observation before it.
        next_values: of the observation after it: at an episode's end of its last one.
        terminated: whether nothing comes after it.
        truncated: whether the episode was cut off there.
        valid: whether it was a step at all.
        discount: what a reward one step later is worth.
        trace: lambda of the paper.
    """
    surprise = valid * (rewards + discount * next_values * ~terminated - values)
    goes_on = valid & ~(terminated | truncated)
    return discounted_sums(surprise, discount * trace * goes_on.to(rewards.dtype))


def following_values(values: Tensor, last_values: Tensor, ends: Tensor, end_values: Tensor) -> Tensor:
    """(steps, envs): the value of what was seen after each step.

    Args:
        values: (steps, envs) of what was seen before it.
        last_values: (envs,) of what was seen after the last step.
        ends: (ends, 2) int64, step and environment of ends whose last observation is in no row; see `Rollout`.
        end_values: (ends,) of these observations.
    """
    following = torch.cat([values[1:], last_values[None]])
    following[ends[:, 0], ends[:, 1]] = end_values
    return following
