"""Animations: pictures of one size, one after the other, as a GIF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def write_gif(frames: Sequence[Image], path: Path, milliseconds: int, last: int = 2000, colors: int = 64) -> Path:
    """Writes `frames` as an endless animation.

    Args:
        frames: at least one, all of one size.
        path: the GIF to write.
        milliseconds: for which each is shown; GIF knows tens of them.
        last: for which the last one is.
        colors: in a frame.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [frame.convert("RGB").quantize(colors) for frame in frames]
    durations = [milliseconds] * (len(images) - 1) + [last]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True)
    return path
