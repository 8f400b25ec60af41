"""Experience: what many environments go through, step by step together, written into tensors made beforehand.

An environment whose episode has ended has to begin a new one, and gymnasium 1.x has two ways to do that. In NEXT_STEP mode
the step after the end resets and ignores its action: the observation before it is the episode's last, and the transition is
none (`valid` is false). In SAME_STEP mode the ending step already returns the new episode's first observation, and the last
one of the old is in `info["final_obs"]`. Either way a rollout knows what was seen last, which a truncated episode needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from projects.policy_gradient.environments import Task

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

# observations (envs, size) float32, and allowed actions (envs, actions) bool or None -> actions (envs, ...)
Policy = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


@dataclass
class Rollout:
    """What `envs` environments went through in `steps` steps of one policy; row t of everything belongs to step t."""

    observations: Tensor  # (steps, envs, size) float32, before the action
    actions: Tensor  # (steps, envs) int64 choices, or (steps, envs, numbers) float32
    rewards: Tensor  # (steps, envs) float32
    terminated: Tensor  # (steps, envs) bool: the episode ended here, and nothing would have come after it
    truncated: Tensor  # (steps, envs) bool: it was cut off here, by a limit of time say
    valid: Tensor  # (steps, envs) bool: the environment took the action; false where it was beginning a new episode
    masks: Tensor | None  # (steps, envs, actions) bool: which actions were allowed; None if all are
    last_observations: Tensor  # (envs, size): after the last step
    ends: Tensor  # (ends, 2) int64: step and environment of each episode's end whose last observation is not in the next row
    end_observations: Tensor  # (ends, size): these observations
    returns: Tensor  # (episodes,) float32: sum of rewards of each episode that ended, also of what came before this rollout
    lengths: Tensor  # (episodes,) int64: their steps

    @property
    def num_samples(self) -> int:
        """Steps of all environments together."""
        return self.rewards.numel()

    @property
    def ended(self) -> Tensor:
        """(steps, envs) bool: whether an episode ended, one way or the other."""
        return self.terminated | self.truncated


class Collector:
    """Steps a vector environment and writes down what happens.

    It goes on where the last rollout stopped. What it has told the environments since `reset` is kept, so that another
    collector can bring its own to the same point: `replay` (environments that follow from their seed and their actions
    repeat themselves exactly, also those whose state cannot be copied).

    Args:
        envs: the vector environment.
        task: what environment it is of.

    Raises:
        UserError: the vector environment leaves resetting to its user.
    """

    def __init__(self, envs: VectorEnv, task: Task) -> None:
        from gymnasium.vector import AutoresetMode

        mode = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise UserError(
                f"--data.source {task.id}: its vector form does not reset by itself; use --data.vectorization sync"
            )
        self.envs, self.task = envs, task
        self.resets_in_next_step = mode == AutoresetMode.NEXT_STEP
        self.told: list[np.ndarray] = []  # actions since the reset, (steps, envs, ...) of each rollout

    def reset(self, seed: int | list[int]) -> None:
        """Begins new episodes everywhere.

        Args:
            seed: of all environments, or of each.
        """
        seen, info = self.envs.reset(seed=cast(Any, seed))
        count = self.envs.num_envs
        self.seen = np.asarray(seen, np.float32).reshape(count, -1)
        self.mask = self._mask_in(info)
        self.ended = np.zeros(count, bool)  # in the last step
        self.running = np.zeros(count), np.zeros(count, np.int64)  # return and length of the episodes under way
        self.told = []

    def collect(self, policy: Policy, steps: int) -> Rollout:
        """The next `steps` steps of every environment, with `policy` for the actions."""
        envs, task, count = self.envs, self.task, self.envs.num_envs
        seen = np.empty((steps + 1, count, task.observation_size), np.float32)
        shape = (steps, count) if task.discrete else (steps, count, task.action_size)
        actions = np.empty(shape, np.int64 if task.discrete else np.float32)
        rewards = np.empty((steps, count), np.float32)
        terminated, truncated = np.empty((steps, count), bool), np.empty((steps, count), bool)
        masks = np.empty((steps, count, task.action_size), bool) if task.masked else None
        ends: list[tuple[int, int]] = []
        end_observations: list[np.ndarray] = []
        seen[0] = self.seen
        for t in range(steps):
            if masks is not None:
                masks[t] = self.mask
            actions[t] = policy(seen[t], None if masks is None else masks[t])
            observation, rewards[t], terminated[t], truncated[t], info = envs.step(task.to_environment(actions[t]))
            seen[t + 1] = observation.reshape(count, -1)
            if masks is not None:
                self.mask = self._mask_in(info)
            if "final_obs" in info:
                for env in np.flatnonzero(info["_final_obs"]):
                    ends.append((t, int(env)))
                    end_observations.append(np.asarray(info["final_obs"][env], np.float32).reshape(-1))
        self.seen = seen[-1]
        self.told.append(actions)
        valid = np.ones((steps, count), bool)
        if self.resets_in_next_step:
            over = terminated | truncated
            valid[0], valid[1:] = ~self.ended, ~over[:-1]
            self.ended = over[-1]
            for array in (rewards, terminated, truncated):
                array *= valid
        returns, lengths, self.running = finished_episodes(rewards, terminated | truncated, valid, *self.running)
        return Rollout(
            observations=torch.from_numpy(seen[:-1]),
            actions=torch.from_numpy(actions),
            rewards=torch.from_numpy(rewards),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            valid=torch.from_numpy(valid),
            masks=None if masks is None else torch.from_numpy(masks),
            last_observations=torch.from_numpy(seen[-1]),
            ends=torch.tensor(ends, dtype=torch.int64).view(-1, 2),
            end_observations=torch.from_numpy(np.array(end_observations, np.float32).reshape(-1, task.observation_size)),
            returns=torch.from_numpy(returns.astype(np.float32)),
            lengths=torch.from_numpy(lengths),
        )

    def history(self) -> dict[str, Tensor]:
        """What `replay` takes: everything told since the reset, and what was seen after it."""
        return {"actions": torch.from_numpy(np.concatenate(self.told)), "seen": torch.from_numpy(self.seen.copy())}

    def replay(self, history: dict[str, Tensor]) -> None:
        """Brings environments that have been reset with the same seed to where those of `history` were.

        Raises:
            UserError: they have not repeated themselves.
        """
        told = iter(history["actions"].numpy())
        self.collect(lambda seen, mask: next(told), len(history["actions"]))
        if not np.array_equal(self.seen, history["seen"].numpy()):
            raise UserError(
                f"--resume: {self.task.id} does not repeat itself from its seed, so its runs can be resumed from the end of "
                "an epoch only: train with --checkpoint_every 0"
            )

    def _mask_in(self, info: dict[str, Any]) -> np.ndarray | None:
        """(envs, actions) bool, which actions the environments' `info` allows; None if it does not say."""
        return np.stack(info["action_mask"]).astype(bool) if self.task.masked else None


def finished_episodes(
    rewards: np.ndarray, ended: np.ndarray, valid: np.ndarray, returns: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return and length of each episode that ended, one environment after the other, and of those still under way.

    Args:
        rewards: (steps, envs), 0 where not `valid`.
        ended: (steps, envs) bool.
        valid: (steps, envs) bool.
        returns: (envs,) of the episodes under way before.
        lengths: (envs,) of the same.

    Returns:
        (episodes,) float64 returns, (episodes,) int64 lengths, and both (envs,) of the episodes under way now.
    """
    env, step = np.nonzero(ended.T)  # by environment, then by time
    first = np.diff(env, prepend=-1) > 0  # an environment's first end in this rollout
    last = np.append(first[1:], True)[: len(env)]
    finished, under_way = [], []
    for each, before in ((rewards.astype(np.float64), returns), (valid.astype(np.int64), lengths)):
        total = before + each.cumsum(0)  # (steps, envs), across ends
        at_end = total[step, env]
        finished.append(at_end - np.where(first, 0, np.roll(at_end, 1)))
        left = total[-1].copy()
        left[env[last]] -= at_end[last]
        under_way.append(left)
    return finished[0], finished[1], (under_way[0], under_way[1])
