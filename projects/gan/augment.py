"""DiffAugment: the discriminator sees real and generated pictures through the same random changes (arXiv 2006.10738).

With few pictures a discriminator learns them by heart. One that sees every picture changed cannot; and as the changes can
be differentiated and fall on fakes too, the generator does not learn to make changed pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

POLICIES = ("color", "translation", "cutout")
DRAWS = 7  # random numbers for each picture
SHIFT = 1 / 8  # of the picture's size at most, in each direction
HOLE = 1 / 2  # side of the square that is blanked, in shares of the picture's


def change(images: Tensor, numbers: Tensor, policies: Sequence[str]) -> Tensor:
    """Pictures (batch, 3, size, size) from -1 to 1, changed in the order of `POLICIES`; of the same shape.

    Args:
        images: the pictures.
        numbers: (batch, DRAWS), uniform from 0 to 1: brightness, saturation, contrast, then down and right for the shift,
            and row and column of the hole.
        policies: those of `POLICIES` that apply. `color`: brightness up to 0.5 up or down, saturation from 0 to 2 times,
            then contrast from 0.5 to 1.5 times. `translation`: by up to an eighth, with zeros behind it. `cutout`: a square
            of half the picture's side, set to zero, part of which may be outside.
    """
    if "color" in policies:
        brightness, saturation, contrast = numbers[:, :3, None, None, None].unbind(1)  # each (batch, 1, 1, 1)
        images = images + (brightness - 0.5)
        gray = images.mean(1, keepdim=True)
        images = gray + 2 * saturation * (images - gray)
        middle = images.mean((1, 2, 3), keepdim=True)
        images = middle + (0.5 + contrast) * (images - middle)
    if "translation" in policies:
        images = translate(images, numbers[:, 3:5])
    if "cutout" in policies:
        images = images * outside_hole(images.shape[-1], numbers[:, 5:7])
    return images


def translate(images: Tensor, shift: Tensor) -> Tensor:
    """Moves pictures (batch, 3, size, size) by whole pixels; `shift` (batch, 2) is 0 for up or left, 1 for down or right."""
    batch, _, size, _ = images.shape
    most = int(size * SHIFT + 0.5)
    offset = (shift * (2 * most + 1)).long().clamp(max=2 * most)  # (batch, 2): where the window begins, 0 to 2 most
    padded = F.pad(images, (most,) * 4)  # (batch, 3, size + 2 most, size + 2 most)
    steps = torch.arange(size, device=images.device)
    rows = (2 * most - offset[:, :1] + steps)[:, None, :, None]  # (batch, 1, size, 1)
    columns = (2 * most - offset[:, 1:] + steps)[:, None, None, :]  # (batch, 1, 1, size)
    which = torch.arange(batch, device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(3, device=images.device).view(1, -1, 1, 1)
    return padded[which, channel, rows, columns]


def outside_hole(size: int, centre: Tensor) -> Tensor:
    """Whether a pixel is outside of its picture's square: (batch, 1, size, size) bool for centres (batch, 2) from 0 to 1."""
    half = int(size * HOLE) // 2
    middle = (centre * (size + 1)).long().clamp(max=size)  # the first row and column behind the centre, 0 to `size`
    steps = torch.arange(size, device=centre.device)
    inside = (steps >= middle[..., None] - half) & (steps < middle[..., None] + half)  # (batch, 2, size)
    return ~(inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
