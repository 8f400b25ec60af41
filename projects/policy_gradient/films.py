"""Films of agents: an episode as pictures, and two of them side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError
from common.plots.video import write_gif
from projects.policy_gradient.environments import Task, make_single, one_line
from projects.policy_gradient.rollout import Policy

WIDTH = 300  # pixels of each side
MOST_FRAMES = 200
MILLISECONDS = 40  # for each frame


def film_episode(task: Task, policy: Policy, seed: int, longest: int = 1000) -> tuple[list[Image.Image], float]:
    """Pictures of an episode before each of its steps and after the last, and its return.

    Raises:
        UserError: the environment draws no pictures, or needs a package for that.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # else pygame, which draws, looks for a screen
    env = make_single(task, render_mode="rgb_array")
    with one_line(task.id):
        seen, info = env.reset(seed=seed)
        frames, total, over = [frame_of(env.render(), task)], 0.0, False
        while not over and len(frames) <= longest:
            observation = np.asarray(seen, np.float32).reshape(1, -1)
            masks = np.asarray(info["action_mask"], bool)[None] if task.masked else None
            seen, reward, terminated, truncated, info = env.step(task.to_environment(policy(observation, masks))[0])
            total += float(reward)
            over = terminated or truncated
            frames.append(frame_of(env.render(), task))
        env.close()
    return frames, total


def frame_of(picture: object, task: Task) -> Image.Image:
    """What an environment has drawn, at the film's size."""
    if not isinstance(picture, np.ndarray) or picture.ndim != 3:
        raise UserError(f"--data.source {task.id}: its `rgb_array` is no picture")
    image = Image.fromarray(picture)
    return image.resize((WIDTH, round(WIDTH * image.height / image.width)), Image.Resampling.LANCZOS)


def save_film(episodes: Sequence[Sequence[Image.Image]], path: Path) -> Path:
    """Writes episodes side by side; one that ends before the others stands still. Of long ones not every frame is kept."""
    longest = max(map(len, episodes))
    stride = -(-longest // MOST_FRAMES)
    size = episodes[0][0].size
    frames = []
    for t in [*range(0, longest - 1, stride), longest - 1]:
        frame = Image.new("RGB", (size[0] * len(episodes), size[1]))
        for column, episode in enumerate(episodes):
            frame.paste(episode[min(t, len(episode) - 1)], (column * size[0], 0))
        frames.append(frame)
    return write_gif(frames, path, MILLISECONDS)
