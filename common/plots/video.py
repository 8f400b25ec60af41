"""Animated GIFs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image


def write_gif(frames: Sequence[Image], path: Path, milliseconds: int, last: int = 2000, colors: int = 64) -> Path:
    """Animated GIF that loops forever.

    Args:
        frames: At least one image, all of one size.
        path: GIF to write.
        milliseconds: Duration of each frame; GIF counts in tens of them.
        last: Duration of the last frame in milliseconds.
        colors: Colors of a frame's palette.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [frame.convert("RGB").quantize(colors) for frame in frames]
    durations = [milliseconds] * (len(images) - 1) + [last]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True)
    return path
