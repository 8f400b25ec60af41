"""Video recording: episodes as frames, and agents side by side as an animated GIF."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError
from common.plots.video import add_caption, write_gif
from projects.policy_gradient.environments import CheckedEnv, EnvInfo, env_errors, make_env, read_action_mask
from projects.policy_gradient.inference import Agent
from projects.policy_gradient.rollout import Policy

FRAME_WIDTH = 300  # pixels
MAX_FRAMES = 200
MAX_STEPS = 1000
FRAME_MILLISECONDS = 40


def record_agent(agent: Agent, path: Path, seed: int = 0, stochastic: bool = False, untrained: bool = False) -> Path:
    """Records an episode of the agent; with `untrained`, right of an untrained agent from the same initial state.

    The untrained agent samples its actions: none of them is more likely than the others.
    """
    episodes = [record_episode(agent.env_info, agent.policy(stochastic, seed), seed, "trained")]
    if untrained:
        episodes.insert(0, record_episode(agent.env_info, agent.untrained().policy(True, seed), seed, "untrained"))
    return save_video(episodes, path, f"{agent.env_info.id}, seed {seed}")


@dataclass(frozen=True)
class Moment:
    """Moment of an episode: what is seen, and what was won.

    Args:
        image: Rendered image.
        obs: Observation (obs_dim,).
        action_mask: Valid actions (action_dim,), of an environment that has them; None at the end.
        action: What the policy does next: a discrete action, or a vector; None at the end.
        total: Return so far.
        length: Steps so far.
        done: Whether the episode has ended.
    """

    image: Image.Image
    obs: np.ndarray
    action_mask: np.ndarray | None
    action: np.ndarray | None
    total: float
    length: int
    done: bool


def record_episode(env_info: EnvInfo, policy: Policy, seed: int, name: str) -> list[Image.Image]:
    """Frames of an episode, before each of its steps and after the last, captioned: agent's name, steps and return so far.

    Raises:
        UserError: the environment renders no images, or needs a package for that.
    """
    frames = []
    for now in play_episode(env_info, policy, seed):
        steps = f" after {now.length} steps" if now.length else ""
        end = " (end)" if now.done else ""
        frames.append(add_caption(now.image, f"{name}: return {now.total:.0f}{steps}{end}"))
    return frames


def play_episode(env_info: EnvInfo, policy: Policy, seed: int, width: int = FRAME_WIDTH) -> Iterator[Moment]:
    """Moments of an episode of at most `MAX_STEPS` steps, before each of them and after the last, `width` pixels wide.

    Raises:
        UserError: the environment renders no images, or needs a package for that.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # else pygame, which renders, looks for a screen
    with warnings.catch_warnings(action="ignore"):
        env = make_env(env_info, render_mode="rgb_array")
    with closing(env):
        with warnings.catch_warnings(action="ignore"):  # not while another's code runs, between the moments
            obs, info = env.reset(seed=seed)
            image = render(env, width)
        total, length, done = 0.0, 0, False
        while True:
            mask = action = None
            if not done and length < MAX_STEPS:
                mask = read_action_mask(info, env_info)
                action = policy(obs[None], None if mask is None else mask[None])[0]
            yield Moment(image, obs, mask, action, total, length, done)
            if action is None:
                return
            with warnings.catch_warnings(action="ignore"):
                obs, reward, terminated, truncated, info = env.step(env_info.to_env(action[None])[0])
                image = render(env, width)
            total, length, done = total + reward, length + 1, terminated or truncated


def render(env: CheckedEnv, width: int) -> Image.Image:
    """Rendered image of an environment, `width` pixels wide."""
    with env_errors(env.env_info.label):
        image: object = env.render()
        if not isinstance(image, np.ndarray) or image.ndim != 3:
            raise UserError(f"{env.env_info.label}: its `rgb_array` is no image")
        frame = Image.fromarray(image)
    return frame.resize((width, round(width * frame.height / frame.width)), Image.Resampling.LANCZOS)


def save_video(episodes: Sequence[Sequence[Image.Image]], path: Path, caption: str) -> Path:
    """Writes episodes side by side below a caption; one that ends before the others stands still.

    Of long ones not every frame is kept.
    """
    length = max(map(len, episodes))
    stride = -(-length // MAX_FRAMES)
    width, height = episodes[0][0].size
    frames = []
    for t in [*range(0, length - 1, stride), length - 1]:
        frame = Image.new("RGB", (width * len(episodes), height))
        for column, episode in enumerate(episodes):
            frame.paste(episode[min(t, len(episode) - 1)], (column * width, 0))
        frames.append(add_caption(frame, caption))
    return write_gif(frames, path, FRAME_MILLISECONDS)
