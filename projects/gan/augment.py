"""Augmentation of what the discriminator sees: DiffAugment (Zhao et al., arXiv 2006.10738) and annealed instance noise.

With few images a discriminator memorizes them. One that sees every image augmented cannot; and as the augmentations are
differentiable and applied to fakes too, the generator does not learn to make augmented images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Policy = Literal["color", "translation", "cutout"]
NUM_RANDOM = 7  # random numbers for each image
MAX_SHIFT = 1 / 8  # translation in each direction, as a fraction of the image's side
CUTOUT_SIDE = 1 / 2  # side of the cutout box, as a fraction of the image's
ANNEALING_FRACTION = 0.6  # of all iterations, in which instance noise falls, and with it penalties and learning rate
MIN_ANNEALING = 0.03  # the annealing factor at the end


def annealing(progress: float) -> float:
    """Annealing factor: it falls like a parabola from 1 to 0.03 within the first 60 % of the training, and stays there.

    Args:
        progress: Fraction of the training's iterations that are done.
    """
    return max(MIN_ANNEALING, (1 - min(1.0, progress / ANNEALING_FRACTION)) ** 2)


def instance_noise_schedule(std: float, progress: float) -> float:
    """Standard deviation of instance noise: it is annealed from `std` in the first 60 % of the training, and is then zero.

    Instance noise is Gaussian noise on real samples and fakes alike (Arjovsky and Bottou, arXiv 1701.04862, section 3). The
    generator first learns where there is data at all, while everything overlaps, and then the details.

    Args:
        std: Standard deviation at the start.
        progress: Fraction of the training's iterations that are done.
    """
    return std * annealing(progress) if progress < ANNEALING_FRACTION else 0.0


def diff_augment(images: Tensor, uniform: Tensor, policies: Sequence[Policy]) -> Tensor:
    """DiffAugment of images (batch, 3, size, size) in [-1, 1]; of the same shape.

    Args:
        images: The images.
        uniform: Random numbers (batch, NUM_RANDOM) in [0, 1]: brightness, saturation, contrast, translation down and right,
            row and column of the cutout box.
        policies: The augmentations, applied in this order. `color`: brightness by up to 0.5 up or down, saturation by a
            factor from 0 to 2, then contrast by one from 0.5 to 1.5. `translation`: by up to an eighth, with zeros behind
            it. `cutout`: a box of half the image's side, set to zero, part of which may be outside.
    """
    if "color" in policies:
        brightness, saturation, contrast = uniform[:, :3, None, None, None].unbind(1)  # each (batch, 1, 1, 1)
        images = images + (brightness - 0.5)
        gray = images.mean(1, keepdim=True)
        images = gray + 2 * saturation * (images - gray)
        mean = images.mean((1, 2, 3), keepdim=True)
        images = mean + (0.5 + contrast) * (images - mean)
    if "translation" in policies:
        images = translate(images, uniform[:, 3:5])
    if "cutout" in policies:
        images = images * cutout_mask(images.shape[-1], uniform[:, 5:7])
    return images


def translate(images: Tensor, shift: Tensor) -> Tensor:
    """Translation of images (batch, 3, size, size) by whole pixels; `shift` (batch, 2): 0 is up or left, 1 down or right."""
    batch, _, size, _ = images.shape
    pad = int(size * MAX_SHIFT + 0.5)
    offset = (shift * (2 * pad + 1)).long().clamp(max=2 * pad)  # (batch, 2): where the window begins, 0 to 2 pad
    padded = F.pad(images, (pad,) * 4)  # (batch, 3, size + 2 pad, size + 2 pad)
    steps = torch.arange(size, device=images.device)
    rows = (2 * pad - offset[:, :1] + steps)[:, None, :, None]  # (batch, 1, size, 1)
    columns = (2 * pad - offset[:, 1:] + steps)[:, None, None, :]  # (batch, 1, 1, size)
    image = torch.arange(batch, device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(3, device=images.device).view(1, -1, 1, 1)
    return padded[image, channel, rows, columns]


def cutout_mask(size: int, center: Tensor) -> Tensor:
    """Mask (batch, 1, size, size) bool, False inside the cutout box, for box centers (batch, 2) in [0, 1]."""
    half = int(size * CUTOUT_SIDE) // 2
    middle = (center * (size + 1)).long().clamp(max=size)  # the first row and column behind the center, 0 to `size`
    steps = torch.arange(size, device=center.device)
    inside = (steps >= middle[..., None] - half) & (steps < middle[..., None] + half)  # (batch, 2, size)
    return ~(inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
