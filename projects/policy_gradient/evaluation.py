"""How good a policy is: whole episodes, each in an environment and from a seed of its own, each counted once.

The first hundred episodes that end in a vector environment would be the shortest ones; here every episode is played to its
end, and its result does not depend on which others are played beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from projects.policy_gradient.environments import Task
from projects.policy_gradient.rollout import Policy

if TYPE_CHECKING:
    from gymnasium import Env

LONGEST = 50_000  # steps; an episode without an end of its own ends here


@dataclass
class Episodes:
    """Results of whole episodes."""

    returns: Tensor  # (episodes,) float32, the sums of their rewards
    lengths: Tensor  # (episodes,) int64, their steps

    def __len__(self) -> int:
        return len(self.returns)


def play_episodes(envs: Sequence[Env], task: Task, policy: Policy, seeds: Sequence[int]) -> Episodes:
    """Plays an episode for each of `seeds`, all at the same time, with one call of the policy for a step of all.

    Args:
        envs: at least as many as seeds.
        task: what environment they are of.
        policy: the same action for the same observation, or it is no fair comparison.
        seeds: what the episodes begin from.
    """
    count = len(seeds)
    returns, lengths = np.zeros(count), np.zeros(count, np.int64)
    seen = np.zeros((count, task.observation_size), np.float32)
    masks = np.ones((count, task.action_size), bool) if task.masked else None
    for i, seed in enumerate(seeds):
        seen[i], info = envs[i].reset(seed=seed)
        if masks is not None:
            masks[i] = info["action_mask"]
    playing = np.arange(count)
    while len(playing):
        actions = task.to_environment(policy(seen[playing], None if masks is None else masks[playing]))
        over = np.zeros(len(playing), bool)
        for j, i in enumerate(playing.tolist()):
            seen[i], reward, terminated, truncated, info = envs[i].step(actions[j])
            returns[i] += reward
            lengths[i] += 1
            over[j] = terminated or truncated or lengths[i] == LONGEST
            if masks is not None:
                masks[i] = info["action_mask"]
        playing = playing[~over]
    return Episodes(torch.from_numpy(returns.astype(np.float32)), torch.from_numpy(lengths))
