"""Evaluation episodes: return and length of whole episodes, each in its own environment and from its own seed.

The first hundred episodes that end in a vector environment would be the shortest ones; here every episode is played to its
end, and its result does not depend on which others are played beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import Env
from torch import Tensor

from projects.policy_gradient.environments import EnvInfo, check_finite, read_action_mask
from projects.policy_gradient.rollout import Policy

MAX_EPISODE_STEPS = 50_000  # an episode without an end of its own ends here


@dataclass
class EpisodeStats:
    """Returns and lengths of evaluation episodes."""

    returns: Tensor  # (episodes,) float32
    lengths: Tensor  # (episodes,) int64

    def __len__(self) -> int:
        return len(self.returns)


def episode_metrics(returns: Tensor, lengths: Tensor) -> dict[str, float]:
    """Mean, standard deviation (population) and minimum of the returns (episodes,), and mean length."""
    returns = returns.cpu().double()
    return {
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std(correction=0)),
        "return_min": float(returns.min()),
        "episode_length": float(lengths.float().mean()),
    }


def evaluate_policy(
    envs: Sequence[Env],
    env_info: EnvInfo,
    policy: Policy,
    seeds: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> EpisodeStats:
    """Evaluates a policy on one episode for each seed, as many at a time as there are `envs`.

    One call of the policy is for a step of all. `progress` is called after every step of all, with the numbers of episodes
    that have ended and of steps so far.
    """
    count, num_cut, num_ended = len(seeds), 0, 0
    returns, lengths = np.zeros(count), np.zeros(count, np.int64)
    obs = np.zeros((count, env_info.obs_dim), np.float32)
    masks = np.ones((count, env_info.action_dim), bool) if env_info.has_action_masks else None
    for first in range(0, count, len(envs)):
        playing = np.arange(first, min(first + len(envs), count))
        for i in playing.tolist():
            obs[i], info = envs[i - first].reset(seed=seeds[i])
            mask = read_action_mask(info, env_info)
            if masks is not None:
                masks[i] = mask
        while len(playing):
            actions = env_info.to_env(policy(obs[playing], None if masks is None else masks[playing]))
            done = np.zeros(len(playing), bool)
            for j, i in enumerate(playing.tolist()):
                obs[i], reward, terminated, truncated, info = envs[i - first].step(actions[j])
                returns[i] += reward
                lengths[i] += 1
                cut = lengths[i] == MAX_EPISODE_STEPS and not (terminated or truncated)
                num_cut += cut
                done[j] = terminated or truncated or cut
                mask = None if done[j] else read_action_mask(info, env_info)
                if masks is not None and mask is not None:
                    masks[i] = mask
            check_finite(env_info, returns, obs)
            num_ended += int(done.sum())
            playing = playing[~done]
            if progress is not None:
                progress(num_ended, int(lengths.sum()))
    if num_cut:
        print(
            f"NOTE: {num_cut} of {count} evaluation episodes had no end in {MAX_EPISODE_STEPS:,} steps, and count with the "
            "return so far; set a time limit, --data.max_episode_steps",
            flush=True,
        )
    return EpisodeStats(torch.from_numpy(returns.astype(np.float32)), torch.from_numpy(lengths))
