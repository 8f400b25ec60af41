"""Environments: gymnasium environments by id, with their spaces; vector ones to train in, single ones to evaluate in."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Env, spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from common.errors import UserError, one_line
from common.io.ranks import print_rank_zero

DEFAULT_ENV = "CartPole-v1"  # comes with gymnasium


API = (
    "in gymnasium's API `reset` returns (observation, info), and `step` returns "
    "(observation, reward, terminated, truncated, info)"
)


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
    obs_space: spaces.Space = field(repr=False)  # what of the observation space can be flattened
    action_space: spaces.Space = field(repr=False)

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions (envs, ...) as the environment takes them: counted from its first one, or rescaled and clipped."""
        if self.discrete:
            return actions + self.low if self.low else actions
        center, half = self.rescaling
        rescaled = np.clip(center + half * actions.reshape(-1, *self.low.shape), self.low, self.high)
        return rescaled.astype(self.low.dtype)

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
    kwargs, label = dict(kwargs or {}), f"{origin} {id}"
    if kwargs.get("render_mode") == "human":
        del kwargs["render_mode"]
        print_rank_zero("NOTE: --data.env_kwargs render_mode human: left out, a training opens no windows")
    with env_errors(label):
        env = gym.make(id, **kwargs)
        try:
            _, info = reset_env(env, seed=0)
            full_obs_space, action_space, spec = env.observation_space, env.action_space, env.spec
        finally:
            env.close()
    obs_space = flattenable_space(full_obs_space, label)
    if not (obs_dim := spaces.flatdim(obs_space)):
        raise UserError(f"{label}: observations have no features: their space is {full_obs_space}")
    discrete = isinstance(action_space, spaces.Discrete)
    if isinstance(action_space, spaces.Discrete):
        action_dim, low = int(action_space.n), np.asarray(action_space.start)
        high = low + action_dim - 1
    elif isinstance(action_space, spaces.Box) and np.issubdtype(action_space.dtype, np.floating):
        action_dim, low, high = math.prod(action_space.shape), action_space.low, action_space.high
    else:
        kind = "a Box of integers" if isinstance(action_space, spaces.Box) else f"kind {type(action_space).__name__}"
        raise UserError(f"{label}: actions of {kind}; use discrete (Discrete) or continuous ones (Box of a float type)")
    if not action_dim:
        raise UserError(f"{label}: actions have no features: their space is {action_space}")
    return EnvInfo(
        label=label,
        id=id,
        kwargs=kwargs,
        obs_dim=obs_dim,
        flatten=not (isinstance(obs_space, spaces.Box) and len(obs_space.shape) == 1),
        has_vector_form=spec is not None and spec.vector_entry_point is not None,
        discrete=discrete,
        action_dim=action_dim,
        has_action_masks=discrete and "action_mask" in info,
        reward_threshold=None if spec is None or spec.reward_threshold is None else float(spec.reward_threshold),
        low=low,
        high=high,
        obs_space=obs_space,
        action_space=action_space,
    )


def reset_env(env: Env, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Observation and `info` of an environment's `reset`, which is checked to return them."""
    observation, info = env.reset(**kwargs)
    if not isinstance(info, dict):
        raise TypeError(f"`info` is of type {type(info).__name__}; {API}")
    return observation, info


def flattenable_space(space: spaces.Space, label: str) -> spaces.Space:
    """Observation space without those entries of a Dict that cannot be flattened, which a line names.

    Raises:
        UserError: nothing of it can be flattened.
    """
    left_out: list[str] = []

    def flattenable(part: spaces.Space, name: str) -> spaces.Space | None:
        if isinstance(part, spaces.Dict):
            entries = {key: flattenable(entry, f"{name}.{key}") for key, entry in part.items()}
            kept = {key: entry for key, entry in entries.items() if entry is not None}
            return part if not left_out else spaces.Dict(kept) if kept else None
        try:
            if part.is_np_flattenable and spaces.flatdim(part) >= 0:
                return part
        except NotImplementedError:  # a class of one's own
            pass
        left_out.append(f"{f'`{name[1:]}`' if name else 'observations'} of kind {type(part).__name__}")
        return None

    kept = flattenable(space, "")
    if kept is None:
        raise UserError(f"{label}: {', '.join(left_out)} cannot be flattened")
    if left_out:
        print_rank_zero(f"NOTE: {label}: left out of the observations, as it cannot be flattened: {', '.join(left_out)}")
    return kept


class CheckedEnv(gym.Wrapper):
    """Environment whose observations are float32 vectors (obs_dim,), each an array of its own, and whose rewards are floats.

    Raises UserError where it returns something else than gymnasium's API and its own spaces say.
    """

    def __init__(self, env: Env, env_info: EnvInfo) -> None:
        super().__init__(env)
        self.env_info = env_info
        self.observation_space = spaces.Box(-np.inf, np.inf, (env_info.obs_dim,), np.float32)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        with env_errors(self.env_info.label):
            observation, info = reset_env(self.env, **kwargs)
        return self.to_vector(observation), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
        except Exception as error:
            report_step_error(error, self.env_info.label)
            raise
        try:
            reward = float(np.asarray(reward).item())  # also of shape (1,)
        except (TypeError, ValueError):
            raise UserError(f"{self.env_info.label}: a reward of the environment is no number: {reward!r}") from None
        return self.to_vector(observation), reward, bool(terminated), bool(truncated), info

    def to_vector(self, observation: Any) -> np.ndarray:
        """Flattened copy (some environments reuse their observation's array)."""
        env_info = self.env_info
        try:
            flat = spaces.flatten(env_info.obs_space, observation) if env_info.flatten else observation
            vector = np.array(flat, np.float32)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise UserError(f"{env_info.label}: an observation is not of its space: {describe_error(error)}") from error
        if vector.shape != (env_info.obs_dim,):
            shape = np.shape(observation) if isinstance(env_info.obs_space, spaces.Box) else vector.shape
            raise UserError(
                f"{env_info.label}: an observation of the environment has shape {shape}, and its space {env_info.obs_space}"
            )
        return vector


def make_vec_env(env_info: EnvInfo, num_envs: int, autoreset: str = "next_step") -> VectorEnv:
    """Vector environment: the environment's own vector form if it has one, else environments that step one by one.

    Args:
        autoreset: Autoreset mode, `next_step` or `same_step`, see `rollout.py`; own vector forms have the first.

    Raises:
        UserError: it cannot be made.
    """
    if env_info.has_vector_form and not (env_info.flatten or env_info.has_action_masks) and autoreset == "next_step":
        try:
            own = gym.make_vec(env_info.id, num_envs, vectorization_mode="vector_entry_point", **env_info.kwargs)
            if (reason := vector_form_difference(own, env_info)) is None:
                return own
            own.close()
        except Exception as error:
            reason = describe_error(error)
        print_rank_zero(f"NOTE: {env_info.label}: single environments instead of its own vector form: {reason}")
    envs, failure = make_envs(env_info, num_envs)
    if failure is not None:
        for env in envs:
            env.close()
        hint = f"; there can be {len(envs)}: --data.num_envs {len(envs)}" if envs else ""
        raise UserError(f"{failure}{hint}") from failure
    singles = iter(envs)
    return SyncVectorEnv([lambda: next(singles)] * num_envs, autoreset_mode=AutoresetMode[autoreset.upper()])


def vector_form_difference(envs: VectorEnv, env_info: EnvInfo) -> str | None:
    """What an environment's own vector form lacks of the single environment, or of autoreset; None for nothing."""
    if envs.single_observation_space.shape != (env_info.obs_dim,) or envs.single_action_space != env_info.action_space:
        return "it has other spaces"
    has_autoreset = envs.metadata.get("autoreset_mode") != AutoresetMode.DISABLED
    return None if has_autoreset else "it does not reset by itself"


def make_envs(env_info: EnvInfo, num_envs: int) -> tuple[list[CheckedEnv], UserError | None]:
    """At most `num_envs` single environments, and the error that prevents more: some simulators allow few instances."""
    envs: list[CheckedEnv] = []
    try:
        while len(envs) < num_envs:
            envs.append(make_env(env_info))
    except UserError as error:
        return envs, error
    return envs, None


def make_env(env_info: EnvInfo, **kwargs: Any) -> CheckedEnv:
    """Single environment with further keyword arguments, such as `render_mode`. Raises UserError if it cannot be made."""
    with env_errors(env_info.label):
        return CheckedEnv(gym.make(env_info.id, **{**env_info.kwargs, **kwargs}), env_info)


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
    except UserError:
        raise
    except Exception as error:
        if "Box2D is not installed" in str(error):
            raise UserError(f'{label}: run `pip install "lightning-capstones[box2d]"`') from error
        raise UserError(f"{label}: {describe_error(error)}") from error


def describe_error(error: Exception) -> str:
    """Error of an environment in one line: its type, message and place in the code; of gymnasium the message alone."""
    text = one_line(error, 240)
    if isinstance(error, (gym.error.Error, ImportError)):
        return text
    if "to unpack" in text:
        text += f"; {API}"
    *_, frame = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}, line {frame.lineno})"


def report_step_error(error: Exception, label: str) -> None:
    """Adds to an exception from inside of an environment's `step` that it is the environment's own.

    Raises:
        UserError: the exception is another: what `step` has returned is not gymnasium's API.
    """
    if isinstance(error, UserError) or hasattr(error, "__notes__"):
        return
    for frame, _ in traceback.walk_tb(error.__traceback__):
        env = frame.f_locals.get("self")
        module = type(env).__module__
        is_wrapper = module.startswith(("gymnasium.wrappers.", "gymnasium.vector.", __name__))
        if isinstance(env, (Env, VectorEnv)) and not is_wrapper:
            error.add_note(f"{label}: raised by `step` of the environment itself ({module}.{type(env).__name__})")
            return
    raise UserError(f"{label}: {describe_error(error)}") from error
