"""Rollouts: experience of a vector environment, collected step by step into tensors.

An environment whose episode has ended is reset automatically, and gymnasium 1.x has two autoreset modes. In NEXT_STEP mode
the step after the end resets and ignores its action: the observation before it is the episode's final one, and it is no
transition (`valid` is false). In SAME_STEP mode the last step already returns the new episode's first observation, and the
final one of the old is in `info["final_obs"]`. Either way a rollout holds the final observation, which a truncated episode
is bootstrapped from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from common.errors import UserError
from projects.policy_gradient.environments import EnvInfo, check_finite, env_errors, missing_mask, report_step_error

MAX_REPLAY_STEPS = 2_000_000  # environment steps: a longer action history is not kept, as its replay would take minutes

# observations (envs, obs_dim) float32, and action masks (envs, action_dim) bool or None -> actions (envs, ...)
Policy = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


@dataclass
class Rollout:
    """Experience of `envs` environments over `steps` steps with one policy; row t of everything belongs to step t."""

    observations: Tensor  # (steps, envs, obs_dim) float32, before the action
    actions: Tensor  # (steps, envs) int64 discrete, or (steps, envs, action_dim) float32 continuous
    rewards: Tensor  # (steps, envs) float32
    terminated: Tensor  # (steps, envs) bool: termination, nothing comes after this step
    truncated: Tensor  # (steps, envs) bool: truncation, the episode was cut off here, by a time limit say
    valid: Tensor  # (steps, envs) bool: the environment took the action; false where it was reset instead
    action_masks: Tensor | None  # (steps, envs, action_dim) bool: valid actions; None if all are
    next_obs: Tensor  # (envs, obs_dim): after the last step
    final_obs_index: Tensor  # (ends, 2) int64: step and environment of ends whose final observation is not in the next row
    final_obs: Tensor  # (ends, obs_dim): these observations
    episode_returns: Tensor  # (episodes,) float32: of episodes that ended here, with rewards from before this rollout
    episode_lengths: Tensor  # (episodes,) int64: steps of the same
    host: Rollout | None = None  # of a copy on a device: the rollout as it was collected

    @property
    def on_host(self) -> Rollout:
        """The same on the host, where it was collected: what is read from there waits for no device."""
        return self if self.host is None else self.host

    @property
    def num_samples(self) -> int:
        """Transitions: steps of all environments together, without those that reset."""
        return int(self.on_host.valid.sum())

    @property
    def done(self) -> Tensor:
        """(steps, envs) bool: the episode ended, by termination or truncation."""
        return self.terminated | self.truncated


class Collector:
    """Collects rollouts from a vector environment; each goes on where the last one stopped.

    The actions since `reset` are kept, so that another collector can bring its environments to the same state by `replay`:
    environments that are deterministic given seed and actions reach it exactly, also those whose state cannot be
    copied.
    """

    def __init__(self, envs: VectorEnv, env_info: EnvInfo) -> None:
        self.envs, self.env_info = envs, env_info
        self.resets_in_next_step = envs.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP
        self.is_started = False
        self.action_history: list[np.ndarray] = []  # since the reset, (steps, envs, ...) of each rollout

    def reset(self, seed: int | list[int]) -> None:
        """Starts new episodes in all environments, from one seed for all of them or one for each."""
        self.is_started, self.seed = True, seed
        with env_errors(self.env_info.label):
            observations, info = self.envs.reset(seed=cast(Any, seed))
        num_envs = self.envs.num_envs
        self.obs = np.asarray(observations, np.float32).reshape(num_envs, -1)
        self.action_mask = self._action_mask(info)
        self.done = np.zeros(num_envs, bool)  # in the last step
        self.unfinished = np.zeros((num_envs, 2))  # return and length of the episodes so far
        self.action_history, self.num_steps = [], 0

    def collect(self, policy: Policy, steps: int) -> Rollout:
        """Rollout of the next `steps` steps of every environment."""
        env_info, num_envs = self.env_info, self.envs.num_envs
        obs = np.empty((steps + 1, num_envs, env_info.obs_dim), np.float32)
        shape = (steps, num_envs) if env_info.discrete else (steps, num_envs, env_info.action_dim)
        actions = np.empty(shape, np.int64 if env_info.discrete else np.float32)
        rewards = np.empty((steps, num_envs), np.float32)
        terminated, truncated = np.empty((steps, num_envs), bool), np.empty((steps, num_envs), bool)
        masks = np.empty((steps, num_envs, env_info.action_dim), bool) if env_info.has_action_masks else None
        final_obs: dict[tuple[int, int], np.ndarray] = {}
        obs[0] = self.obs
        for t in range(steps):
            if masks is not None:
                masks[t] = self.action_mask
            actions[t] = policy(obs[t], None if masks is None else masks[t])
            observations, rewards[t], terminated[t], truncated[t], info = self._step(actions[t])
            obs[t + 1] = observations.reshape(num_envs, -1)
            ended = terminated[t] | truncated[t]
            self.action_mask = self._action_mask(info, ended & self.resets_in_next_step)
            if not self.resets_in_next_step:
                for env in np.flatnonzero(ended):
                    final_obs[t, int(env)] = self._final_obs(info, int(env), bool(terminated[t, env]))
        self.obs = obs[-1]
        self.num_steps += steps * num_envs
        if self.num_steps <= MAX_REPLAY_STEPS:
            self.action_history.append(actions)
        else:
            self.action_history.clear()
        valid = np.ones((steps, num_envs), bool)
        if self.resets_in_next_step:
            done = terminated | truncated
            valid[0], valid[1:] = ~self.done, ~done[:-1]
            self.done = done[-1]
            for array in (rewards, terminated, truncated):
                array[~valid] = 0
        final_values = np.array(list(final_obs.values()), np.float32).reshape(-1, env_info.obs_dim)
        check_finite(env_info, rewards, obs)
        check_finite(env_info, rewards, final_values)
        finished = torch.from_numpy(self._finish_episodes(rewards, terminated | truncated, valid))  # (episodes, 2)
        return Rollout(
            observations=torch.from_numpy(obs[:-1]),
            actions=torch.from_numpy(actions),
            rewards=torch.from_numpy(rewards),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            valid=torch.from_numpy(valid),
            action_masks=None if masks is None else torch.from_numpy(masks),
            next_obs=torch.from_numpy(obs[-1]),
            final_obs_index=torch.tensor(list(final_obs), dtype=torch.int64).view(-1, 2),
            final_obs=torch.from_numpy(final_values),
            episode_returns=finished[:, 0].float(),
            episode_lengths=finished[:, 1].long(),
        )

    def _step(self, actions: np.ndarray) -> Any:
        """Step of all environments."""
        try:
            return self.envs.step(self.env_info.to_env(actions))
        except Exception as error:
            report_step_error(error, self.env_info.label)
            raise

    def _finish_episodes(self, rewards: np.ndarray, done: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Return and length of each episode that ended, (episodes, 2); those of the others so far stay in `unfinished`.

        gymnasium's `RecordEpisodeStatistics` would hide a vector environment's `env_fns`: see `reset` of the data.
        """
        finished = []
        for env, so_far in enumerate(self.unfinished):
            start = 0
            for end in [*np.flatnonzero(done[:, env]), None]:
                steps = slice(start, None if end is None else end + 1)
                so_far += rewards[steps, env].sum(dtype=float), valid[steps, env].sum()
                if end is not None:
                    finished.append(so_far.copy())
                    so_far[:], start = 0, end + 1
        return np.array(finished).reshape(-1, 2)

    def state_dict(self) -> dict[str, Any] | None:
        """Seed and actions since the reset, and the observations after them, for `replay`; None for too long a history."""
        if not self.action_history:
            return None
        actions = np.concatenate(self.action_history)
        actions = actions.astype(np.int32) if self.env_info.discrete else actions
        return {"seed": self.seed, "actions": torch.from_numpy(actions), "obs": torch.from_numpy(self.obs.copy())}

    def replay(self, state: dict[str, Any]) -> bool:
        """Brings the environments to the state of another collector's `state_dict`; False if they are not deterministic."""
        self.reset(state["seed"])
        actions = iter(state["actions"].numpy())
        self.collect(lambda obs, mask: next(actions), len(state["actions"]))
        return np.array_equal(self.obs, state["obs"].numpy())

    def _final_obs(self, info: dict[str, Any], env: int, terminated: bool) -> np.ndarray:
        """Final observation (obs_dim,) of an episode that ended in this step, in SAME_STEP mode; 0 if it is not needed."""
        final_obs = info["final_obs"][env] if "final_obs" in info else None
        if final_obs is not None:
            return np.array(final_obs, np.float32).reshape(-1)  # a copy
        if not terminated:
            raise UserError(
                f"{self.env_info.label}: its vector form has no `final_obs` in the `info` of a truncated "
                "episode; use --data.autoreset same_step"
            )
        return np.zeros(self.env_info.obs_dim, np.float32)

    def _action_mask(self, info: dict[str, Any], ended: np.ndarray | bool = False) -> np.ndarray | None:
        """(envs, action_dim) bool from the environments' `info`; None if all actions are always valid.

        Where an episode has `ended` and the next step resets, the action is ignored, and needs no mask.
        """
        env_info, num_envs = self.env_info, self.envs.num_envs
        if env_info.discrete and not env_info.has_action_masks and "action_mask" in info:
            raise missing_mask(env_info)
        if not env_info.has_action_masks:
            return None
        present = info.get("_action_mask", np.zeros(num_envs, bool))
        if not (present | ended).all():
            raise missing_mask(env_info)
        masks = np.ones((num_envs, env_info.action_dim), bool)
        if present.any():
            masks[present] = np.stack(list(info["action_mask"][present]))
        return masks
