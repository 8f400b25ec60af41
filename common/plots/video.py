"""Animated GIFs, and captions of their frames."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CAPTION_SIZE = 13  # pixels


def write_gif(frames: Sequence[Image.Image], path: Path, milliseconds: int, last: int = 2000, colors: int = 64) -> Path:
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


def add_caption(frame: Image.Image, caption: str, size: int = CAPTION_SIZE) -> Image.Image:
    """Frame below a line of text, in letters of `size` pixels."""
    height = size * 7 // 4
    captioned = Image.new("RGB", (frame.width, frame.height + height), "white")
    captioned.paste(frame, (0, height))
    ImageDraw.Draw(captioned).text((6, height / 2), caption, fill="black", font=caption_font(size), anchor="lm")
    return captioned


@cache
def caption_font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's own font, which is installed wherever plots are drawn."""
    from matplotlib.font_manager import findfont

    return ImageFont.truetype(findfont("DejaVu Sans"), size)
