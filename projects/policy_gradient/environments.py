"""Environments: gymnasium environments by id, with their spaces; vector ones to train in, single ones to evaluate in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Env, spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from common.errors import UserError

DEFAULT_ENV = "CartPole-v1"  # comes with gymnasium


@dataclass(frozen=True)
class EnvInfo:
    """Spaces of an environment, as a policy needs them.

    Observations are flattened to vectors of `obs_dim` features. An action is one of `action_dim` discrete ones, or a vector
    of `action_dim` features, in which -1 to 1 is the range of a bounded action space.
    """

    label: str  # the environment in error messages
    id: str
    kwargs: dict[str, Any]
    obs_dim: int
    flatten: bool  # whether the observation space is something else than a box of vectors
    has_vector_form: bool  # whether it comes with a vector environment of its own
    discrete: bool
    action_dim: int
    has_action_masks: bool  # whether `info` holds the valid actions of each observation
    reward_threshold: float | None  # mean return at which gymnasium's registry calls the environment solved
    low: np.ndarray = field(repr=False)  # bounds of an action, in the environment's own unit and shape
    high: np.ndarray = field(repr=False)

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions (envs, ...) as the environment takes them: counted from its first one, or rescaled and clipped."""
        if self.discrete:
            return actions + self.low if self.low else actions
        center, half = self.rescaling
        return np.clip(center + half * actions.reshape(-1, *self.low.shape), self.low, self.high)

    @property
    def rescaling(self) -> tuple[np.ndarray, np.ndarray]:
        """Center and half range of a continuous action; 0 and 1 where it is unbounded, also by its type's largest number."""
        largest = min(np.finfo(self.low.dtype).max, np.finfo(np.float32).max)
        bounded = np.maximum(np.abs(self.low), np.abs(self.high)) < largest
        low, high = (np.where(bounded, bound, end).astype(float) for bound, end in ((self.low, -1), (self.high, 1)))
        return ((low + high) / 2).astype(self.low.dtype), ((high - low) / 2).astype(self.low.dtype)


def inspect_env(id: str, kwargs: dict[str, Any] | None = None, origin: str = "--data.source") -> EnvInfo:
    """Spaces of an environment, which is made once for that; `origin` is where error messages say that its id is from.

    Raises:
        UserError: the environment or a package that it needs is missing; its observations cannot be flattened; its actions
            are neither discrete nor continuous.
    """
    kwargs, label = kwargs or {}, f"{origin} {id}"
    with env_errors(label):
        env = gym.make(id, **kwargs)
        _, info = env.reset(seed=0)
        obs_space, action_space, spec = env.observation_space, env.action_space, env.spec
        env.close()
    is_vector = isinstance(obs_space, spaces.Box) and len(obs_space.shape) == 1
    if not is_vector and not obs_space.is_np_flattenable:
        raise UserError(f"{label}: observations of kind {type(obs_space).__name__} cannot be flattened")
    discrete = isinstance(action_space, spaces.Discrete)
    if isinstance(action_space, spaces.Discrete):
        action_dim, low = int(action_space.n), np.asarray(action_space.start)
        high = low + action_dim - 1
    elif isinstance(action_space, spaces.Box) and np.issubdtype(action_space.dtype, np.floating):
        action_dim, low, high = math.prod(action_space.shape), action_space.low, action_space.high
    else:
        kind = "a Box of integers" if isinstance(action_space, spaces.Box) else f"kind {type(action_space).__name__}"
        raise UserError(f"{label}: actions of {kind}; use discrete (Discrete) or continuous ones (Box of a float type)")
    return EnvInfo(
        label=label,
        id=id,
        kwargs=kwargs,
        obs_dim=spaces.flatdim(obs_space),
        flatten=not is_vector,
        has_vector_form=spec is not None and spec.vector_entry_point is not None,
        discrete=discrete,
        action_dim=action_dim,
        has_action_masks=discrete and "action_mask" in info,
        reward_threshold=None if spec is None or spec.reward_threshold is None else float(spec.reward_threshold),
        low=low,
        high=high,
    )


def make_vec_env(env_info: EnvInfo, num_envs: int, autoreset: str = "next_step") -> VectorEnv:
    """Vector environment: the environment's own vector form if it has one, else environments that step one by one.

    Args:
        autoreset: Autoreset mode, `next_step` or `same_step`, see `rollout.py`; own vector forms have the first.

    Raises:
        UserError: it cannot be made.
    """
    with env_errors(env_info.label):
        if env_info.has_vector_form and not (env_info.flatten or env_info.has_action_masks) and autoreset == "next_step":
            return gym.make_vec(env_info.id, num_envs, vectorization_mode="vector_entry_point", **env_info.kwargs)
        return gym.make_vec(
            env_info.id,
            num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode[autoreset.upper()]},
            wrappers=[gym.wrappers.FlattenObservation],  # also to copy: some environments reuse their observation's array
            **env_info.kwargs,
        )


def make_env(env_info: EnvInfo, **kwargs: Any) -> Env:
    """Single environment with further keyword arguments, such as `render_mode`. Raises UserError if it cannot be made."""
    with env_errors(env_info.label):
        env = gym.make(env_info.id, **{**env_info.kwargs, **kwargs})
        return gym.wrappers.FlattenObservation(env) if env_info.flatten else env


def read_action_mask(info: dict[str, Any], env_info: EnvInfo) -> np.ndarray | None:
    """Action mask (action_dim,) bool of a single environment, which goes on; None if all actions are always valid.

    Raises:
        UserError: `info` has a mask after a step but not after a reset, or the other way round.
    """
    if env_info.discrete and ("action_mask" in info) != env_info.has_action_masks:
        raise missing_mask(env_info)
    return np.asarray(info["action_mask"], bool) if env_info.has_action_masks else None


def missing_mask(env_info: EnvInfo) -> UserError:
    """Error for an environment whose `info` has an `action_mask` at times."""
    return UserError(
        f"{env_info.label}: its `info` has an `action_mask` only at times; it has to have one after every reset "
        "and every step, except for the step that ends an episode"
    )


def check_finite(env_info: EnvInfo, rewards: np.ndarray, observations: np.ndarray) -> None:
    """Raises UserError for a reward or an observation that is NaN or infinite: the networks would become so too."""
    for name, values in (("a reward", rewards), ("an observation", observations)):
        if not (finite := np.isfinite(values)).all():
            raise UserError(f"{env_info.label}: {name} of the environment is {values[~finite][0]}; mend it there")


@contextmanager
def env_errors(label: str) -> Iterator[None]:
    """Turns an error of the environment `label`, or the lack of a package that it needs, into a one-line UserError."""
    try:
        yield
    except (gym.error.Error, ImportError, TypeError, ValueError, AttributeError) as error:
        if "Box2D is not installed" in str(error):
            raise UserError(f'{label}: run `pip install "lightning-capstones[box2d]"`') from error
        raise UserError(f"{label}: {' '.join(str(error).split())[:240]}") from error
