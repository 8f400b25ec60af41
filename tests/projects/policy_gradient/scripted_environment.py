"""A small environment whose episodes end in every way, at moments that follow from its seed; and some odd ones."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Scripted(gym.Env):
    """Episodes of 1 to 6 steps that are terminated, truncated, or both; what is seen and earned depends on the action too.

    Args:
        masked: whether `info` says which actions are allowed; always two of the three.
        numbers: whether actions are two numbers from 1 to 3 in place of choices from 5 to 7.
        seeded: whether it repeats itself.
    """

    metadata = {"render_modes": []}

    def __init__(self, masked: bool = False, numbers: bool = False, seeded: bool = True) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = spaces.Box(1.0, 3.0, (2,), np.float32) if numbers else spaces.Discrete(3, start=5)
        self.masked, self.seeded = masked, seeded
        self.episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.source = self.np_random if self.seeded else np.random.default_rng()
        self.length = int(self.source.integers(1, 7))
        self.kind = int(self.source.integers(3))
        self.episode, self.step_number, self.last_action = self.episode + 1, 0, 0.0
        return self.look()

    def look(self):
        seen = np.array([self.source.random(), self.step_number, self.last_action], np.float32)
        if not self.masked:
            return seen, {}
        forbidden = int(self.source.integers(3))
        return seen, {"action_mask": (np.arange(3) != forbidden).astype(np.int8)}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.step_number += 1
        self.last_action = float(np.sum(action))
        over = self.step_number == self.length
        reward = float(self.source.normal()) + self.last_action
        seen, info = self.look()
        return seen, reward, over and self.kind != 1, over and self.kind != 0, info


class Odd(gym.Env):
    """An environment with the given spaces, of one step."""

    def __init__(self, observed: spaces.Space, acted: spaces.Space) -> None:
        self.observation_space, self.action_space = observed, acted

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, True, False, {}


def line() -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (2,), np.float32)


gym.register("Scripted-v0", entry_point=Scripted)
gym.register("Switches-v0", entry_point=lambda: Odd(line(), spaces.MultiBinary(3)))
gym.register("Letters-v0", entry_point=lambda: Odd(spaces.Sequence(line()), spaces.Discrete(2)))
gym.register("Nested-v0", entry_point=lambda: Odd(spaces.Dict(a=line(), b=spaces.Discrete(3)), spaces.Discrete(2)))
