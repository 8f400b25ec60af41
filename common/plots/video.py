"""Animated GIFs, and captions of their frames."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CAPTION_HEIGHT, CAPTION_SIZE = 22, 13  # pixels


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


def add_caption(frame: Image.Image, caption: str) -> Image.Image:
    """Frame below a line of text, `CAPTION_HEIGHT` pixels higher."""
    captioned = Image.new("RGB", (frame.width, frame.height + CAPTION_HEIGHT), "white")
    captioned.paste(frame, (0, CAPTION_HEIGHT))
    ImageDraw.Draw(captioned).text((6, CAPTION_HEIGHT / 2), caption, fill="black", font=caption_font(), anchor="lm")
    return captioned


@cache
def caption_font() -> ImageFont.FreeTypeFont:
    """Matplotlib's own font, which is installed wherever plots are drawn."""
    from matplotlib.font_manager import findfont

    return ImageFont.truetype(findfont("DejaVu Sans"), CAPTION_SIZE)
