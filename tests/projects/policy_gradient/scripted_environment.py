"""Scripted environments for tests: short episodes that end in every way; and environments of odd spaces and habits."""

from __future__ import annotations

import builtins
import os
import signal

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Scripted(gym.Env):
    """Episodes of 1 to 6 steps that are terminated, truncated, or both; observations and rewards depend on the actions.

    Args:
        masked: Whether `info` holds action masks, always of two of the three actions; `running`: but not in the last step
            of an episode; `steps`: but not after a reset; `resets`: only there.
        continuous: Actions from [1, 3]^2 instead of discrete ones from 5 to 7.
        seeded: Whether it is reproducible from its seed.
    """

    metadata = {"render_modes": []}

    def __init__(self, masked: bool | str = False, continuous: bool = False, seeded: bool = True) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = spaces.Box(1.0, 3.0, (2,), np.float32) if continuous else spaces.Discrete(3, start=5)
        self.masked, self.seeded = masked, seeded

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.rng = self.np_random if self.seeded else np.random.default_rng()
        self.length = int(self.rng.integers(1, 7))
        self.kind = int(self.rng.integers(3))
        self.t, self.last_action = 0, 0.0
        return self.observe()

    def observe(self):
        observation = np.array([self.rng.random(), self.t, self.last_action], np.float32)
        hidden = {"running": self.t == self.length, "steps": self.t == 0, "resets": self.t > 0}
        if not self.masked:
            return observation, {}
        forbidden = int(self.rng.integers(3))
        if hidden.get(self.masked):
            return observation, {}
        return observation, {"action_mask": (np.arange(3) != forbidden).astype(np.int8)}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        self.last_action = float(np.sum(action))
        done = self.t == self.length
        reward = float(self.rng.normal()) + self.last_action
        observation, info = self.observe()
        return observation, reward, done and self.kind != 1, done and self.kind != 0, info


class Odd(gym.Env):
    """An environment of the given spaces whose episodes have one step."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return self.observation_space.sample(), 1.0, True, False, {}


class Faulty(Odd):
    """An environment with one fault.

    Args:
        fault: `make`, `reset` or `step` raises this `error`; or what `step` returns, see there; `render` raises.
        error: Name of the exception that is raised.
    """

    metadata = {"render_modes": ["rgb_array", "human"]}

    def __init__(self, fault: str = "", error: str = "KeyError", render_mode: str | None = None) -> None:
        super().__init__(box(), spaces.Discrete(2))
        self.fault, self.error, self.render_mode = fault, getattr(builtins, error), render_mode
        self.fail("make")

    def fail(self, where: str) -> None:
        if self.fault == where:
            raise self.error(f"no port\nfor {where}")

    def reset(self, *, seed=None, options=None):
        self.fail("reset")
        observation, info = super().reset(seed=seed)
        return observation if self.fault == "old reset" else (observation, info)

    def step(self, action):
        self.fail("step")
        observation, reward, *_, info = super().step(action)
        reward = {"array reward": np.array([reward]), "no reward": None, "infinite reward": np.inf}.get(self.fault, reward)
        if self.fault == "wrong shape":
            observation = np.zeros(3, np.float32)
        return (observation, reward, True, info) if self.fault == "old step" else (observation, reward, True, False, info)

    def render(self):
        self.fail("render")
        return None if self.fault == "no image" else np.zeros((20, 30, 3), np.uint8)


class Endless(gym.Env):
    """Episodes that never end; in the step `sigterm_at` of one the process gets a SIGTERM."""

    def __init__(self, sigterm_at: int | None = None) -> None:
        self.observation_space, self.action_space, self.sigterm_at = box(), spaces.Discrete(2), sigterm_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        if self.t == self.sigterm_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return np.zeros(2, np.float32), 1.0, False, False, {}


class Simulator(Endless):
    """Allows `limit` instances at a time; episodes have three steps, and the fourth `step` raises if it is `broken`."""

    metadata = {"render_modes": ["rgb_array"]}
    alive = most = 0

    def __init__(self, limit: int = 100, broken: bool = False, render_mode: str | None = None) -> None:
        super().__init__()
        if Simulator.alive == limit:
            raise OSError("the port is in use")
        self.broken, self.render_mode, self.num_steps, self.is_closed = broken, render_mode, 0, False
        Simulator.alive += 1
        Simulator.most = max(Simulator.most, Simulator.alive)

    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        self.num_steps += 1
        if self.broken and self.num_steps == 4:
            raise RuntimeError("broken")
        return observation + self.t, reward, self.t == 3, False, info

    def render(self):
        return np.zeros((20, 30, 3), np.uint8)

    def close(self):
        Simulator.alive -= not self.is_closed
        self.is_closed = True


class Mission(spaces.Space):
    """A space of one's own, like MiniGrid's."""

    def sample(self, mask=None, probability=None):
        return "go"

    def contains(self, x):
        return isinstance(x, str)


class LackingVector(gym.vector.SyncVectorEnv):
    """A vector form that lacks something of the single environment.

    Args:
        lacks: `kwargs`, that it takes; the `space` of the observations; or `autoreset`.
    """

    def __init__(self, num_envs: int, lacks: str) -> None:
        if lacks == "kwargs":
            raise TypeError("unexpected keyword argument 'obs_type'")
        space = spaces.Box(-1.0, 1.0, (4, 4), np.float32) if lacks == "space" else box()
        mode = gym.vector.AutoresetMode.DISABLED if lacks == "autoreset" else gym.vector.AutoresetMode.NEXT_STEP
        super().__init__([lambda: Odd(space, spaces.Discrete(2))] * num_envs, autoreset_mode=mode)


class Counting(gym.Env):
    """Observations count the steps, in one array that is used again; an episode of `length` steps is truncated.

    Args:
        length: Steps of an episode.
        nan_episode: Episode whose last reward is NaN.
        nan_obs: Whether it is the last observation instead.
    """

    def __init__(self, length: int = 5, nan_episode: int | None = None, nan_obs: bool = False) -> None:
        self.observation_space = spaces.Box(0.0, np.inf, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.length, self.nan_episode, self.nan_obs = length, nan_episode, nan_obs
        self.array, self.episode = np.zeros(1, np.float32), 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.array[:] = 0
        return self.array, {}

    def step(self, action):
        self.array += 1
        done, reward = self.array[0] == self.length, 1.0
        if done and self.episode == self.nan_episode:
            reward, self.array[:] = (1.0, np.nan) if self.nan_obs else (np.nan, self.array)
        return self.array, reward, False, bool(done), {}


class CountingVector(gym.vector.VectorEnv):
    """`Counting` in SAME_STEP mode, with its own notion of `info`.

    Args:
        keys: Which of `final_obs` and `_final_obs` are in `info`.
        terminates: Whether episodes are terminated instead of truncated.
    """

    metadata = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int = 1, keys: tuple[str, ...] = (), terminates: bool = False) -> None:
        self.num_envs, self.keys, self.terminates = num_envs, keys, terminates
        self.single_observation_space = spaces.Box(0.0, np.inf, (1,), np.float32)
        self.single_action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.array = np.zeros((self.num_envs, 1), np.float32)
        return self.array, {}

    def step(self, actions):
        self.array += 1
        done, never = self.array[:, 0] == 5, np.zeros(self.num_envs, bool)
        info = {"final_obs": self.array.copy(), "_final_obs": done.copy()} if done.any() else {}
        self.array[done] = 0
        ends = (done, never) if self.terminates else (never, done)
        return self.array, np.ones(self.num_envs), *ends, {key: info[key] for key in self.keys if key in info}


def box() -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (2,), np.float32)


gym.register("Scripted-v0", entry_point=Scripted)
gym.register("Odd-v0", entry_point=Odd)
gym.register("Faulty-v0", entry_point=Faulty)
gym.register("Endless-v0", entry_point=Endless)
gym.register("Simulator-v0", entry_point=Simulator)
gym.register("CartPole-Wind-v0", entry_point=lambda render_mode=None: Odd(spaces.Box(-1, 1, (5,)), spaces.Discrete(2)))
gym.register("Lacking-v0", entry_point=lambda lacks: Odd(box(), spaces.Discrete(2)), vector_entry_point=LackingVector)
gym.register("Counting-v0", entry_point=Counting, vector_entry_point=CountingVector)
gym.register("Reusing-v0", entry_point=Counting)
gym.register("Huge-v0", entry_point=lambda bound, dtype: Odd(box(), spaces.Box(-bound, bound, (2,), np.dtype(dtype))))
gym.register("Levels-v0", entry_point=lambda: Odd(box(), spaces.Box(0, 4, (2,), np.int64)))
gym.register("Switches-v0", entry_point=lambda: Odd(box(), spaces.MultiBinary(3)))
gym.register("Letters-v0", entry_point=lambda: Odd(spaces.Sequence(box()), spaces.Discrete(2)))
gym.register("Nested-v0", entry_point=lambda: Odd(spaces.Dict(a=box(), b=spaces.Discrete(3)), spaces.Discrete(2)))
