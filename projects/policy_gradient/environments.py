"""Gymnasium environments by id: what a policy must know of them, many at once to learn in, single ones to be judged in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import UserError

if TYPE_CHECKING:
    from gymnasium import Env
    from gymnasium.vector import VectorEnv

SAMPLE = "CartPole-v1"  # gymnasium embeds it
VECTORIZATIONS = ("auto", "sync", "async")
AUTORESETS = ("next_step", "same_step")


@dataclass(frozen=True)
class Task:
    """An environment, and what a policy must know of it.

    Observations are flattened: `observation_size` numbers each. An action is one of `action_size` choices, or
    `action_size` numbers that a policy gives in units in which the allowed range, if it has two ends, is -1 to 1.
    """

    id: str
    kwargs: dict[str, Any]
    observation_size: int
    flatten: bool  # whether its observations are something else than vectors of numbers
    discrete: bool
    action_size: int
    masked: bool  # whether its `info` says with each observation which actions are allowed
    solved: float | None  # the mean return at which its makers call it solved
    lowest: np.ndarray = field(repr=False)  # of an action, in the environment's own unit and shape; for choices the first
    highest: np.ndarray = field(repr=False)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """What the environments are told: (envs,) choices counted from their first one, or (envs, ...) numbers in range."""
        if self.discrete:
            return actions + self.lowest if self.lowest else actions
        center, half = self.range
        return np.clip(center + half * actions.reshape(-1, *self.lowest.shape), self.lowest, self.highest)

    @property
    def range(self) -> tuple[np.ndarray, np.ndarray]:
        """The middle of an action's range and half its length; 0 and 1 where it has no end."""
        bounded = np.isfinite(self.lowest) & np.isfinite(self.highest)
        low, high = np.where(bounded, self.lowest, -1), np.where(bounded, self.highest, 1)
        return ((low + high) / 2).astype(self.lowest.dtype), ((high - low) / 2).astype(self.lowest.dtype)


def inspect(id: str, kwargs: dict[str, Any] | None = None) -> Task:
    """Makes the environment once and looks at it.

    Raises:
        UserError: gymnasium, the environment, or what it needs is missing; its observations cannot be made vectors; its
            actions are neither choices nor numbers.
    """
    kwargs = kwargs or {}
    with one_line(id):
        import gymnasium as gym
        from gymnasium import spaces

        env = gym.make(id, **kwargs)
        _, info = env.reset(seed=0)
        seen, acted, spec = env.observation_space, env.action_space, env.spec
        env.close()
    flat = isinstance(seen, spaces.Box) and len(seen.shape) == 1
    if not flat and not seen.is_np_flattenable:
        raise UserError(f"--data.source {id}: observations of kind {type(seen).__name__} cannot be made vectors of numbers")
    if isinstance(acted, spaces.Discrete):
        size, lowest = int(acted.n), np.asarray(acted.start)
        highest = lowest + size - 1
    elif isinstance(acted, spaces.Box) and np.issubdtype(acted.dtype, np.floating):
        size, lowest, highest = math.prod(acted.shape), acted.low, acted.high
    else:
        raise UserError(
            f"--data.source {id}: actions of kind {type(acted).__name__}; a policy chooses (Discrete) or gives numbers (Box)"
        )
    return Task(
        id=id,
        kwargs=kwargs,
        observation_size=spaces.flatdim(seen),
        flatten=not flat,
        discrete=isinstance(acted, spaces.Discrete),
        action_size=size,
        masked=isinstance(acted, spaces.Discrete) and "action_mask" in info,
        solved=None if spec is None or spec.reward_threshold is None else float(spec.reward_threshold),
        lowest=lowest,
        highest=highest,
    )


def make_vector(task: Task, envs: int, vectorization: str = "auto", autoreset: str = "next_step") -> VectorEnv:
    """`envs` environments that step together.

    Args:
        task: what environment.
        envs: how many.
        vectorization: `auto` (the environment's own vector form if it has one, else `sync`), `sync` (one after another) or
            `async` (a process each).
        autoreset: when an environment whose episode has ended begins a new one: in its `next_step`, whose action is then
            ignored, or in the `same_step`, whose last observation is then found in `info`.

    Raises:
        UserError: it cannot be made.
    """
    with one_line(task.id):
        import gymnasium as gym

        own = gym.spec(task.id).vector_entry_point is not None
        if vectorization == "auto" and own and not task.flatten and not task.masked and autoreset == "next_step":
            return gym.make_vec(task.id, envs, vectorization_mode="vector_entry_point", **task.kwargs)
        return gym.make_vec(
            task.id,
            envs,
            vectorization_mode="sync" if vectorization == "auto" else vectorization,
            vector_kwargs={"autoreset_mode": gym.vector.AutoresetMode[autoreset.upper()]},
            wrappers=[gym.wrappers.FlattenObservation] if task.flatten else [],
            **task.kwargs,
        )


def make_single(task: Task, **kwargs: Any) -> Env:
    """One environment; further `kwargs` are for it alone, such as `render_mode`. Raises UserError if it cannot be made."""
    with one_line(task.id):
        import gymnasium as gym

        env = gym.make(task.id, **{**task.kwargs, **kwargs})
        return gym.wrappers.FlattenObservation(env) if task.flatten else env


@contextmanager
def one_line(id: str) -> Iterator[None]:
    """Turns what goes wrong with the environment `id` into a UserError that says what to do."""
    try:
        import gymnasium as gym
    except ImportError as error:
        raise UserError('gymnasium is not installed; run `pip install "lightning-capstones[rl]"`') from error
    try:
        yield
    except gym.error.DependencyNotInstalled as error:
        extra = "box2d" if "box2d" in str(error).lower() else "rl" if "pygame" in str(error) else ""
        what = f'run `pip install "lightning-capstones[{extra}]"`' if extra else first_line(error)
        raise UserError(f"--data.source {id}: needs a package that is not installed; {what}") from error
    except gym.error.UnregisteredEnv as error:
        raise UserError(f"--data.source {id}: gymnasium knows no such environment: {first_line(error)}") from error
    except (gym.error.Error, ImportError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"--data.source {id}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The beginning of what an error says, in one line."""
    return " ".join(str(error).split())[:240]
