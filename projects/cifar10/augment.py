"""Data augmentation of whole batches of uint8 images, on their own device: horizontal flip, random crop, cutout.

Sampling the parameters is separate from applying them. The parameters of an image depend on seed and epoch alone,
so it looks the same however the data set is split over batches or processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from projects.cifar10.config import AugmentationConfig


@dataclass
class AugmentParams:
    """Sampled parameters of the augmentation of n images in one epoch.

    Args:
        flip: (n,) bool: horizontal flip.
        crop_offset: (n, 2) int64: top and left pixel of the crop within the padded image.
        cutout_corner: (n, 2) int64: top and left pixel of the cutout box.
    """

    flip: Tensor
    crop_offset: Tensor
    cutout_corner: Tensor

    def __getitem__(self, index: Tensor) -> AugmentParams:
        return AugmentParams(self.flip[index], self.crop_offset[index], self.cutout_corner[index])

    def to(self, device: torch.device) -> AugmentParams:
        return AugmentParams(self.flip.to(device), self.crop_offset.to(device), self.cutout_corner.to(device))


def sample_params(
    n: int, size: int, epoch: int, seed: int, config: AugmentationConfig, times_sampled: Tensor | None = None
) -> AugmentParams:
    """Augmentation parameters for `n` images of `size` x `size` in `epoch`; a function of its arguments alone.

    Alternating flip samples the first epoch's flips once, and odd epochs take their opposites: two epochs together have
    each image once in each orientation, where independent flips would repeat one of them half of the time. Where epochs
    leave images out, `times_sampled` (n,), the number of earlier epochs with that image, takes the place of `epoch`.
    """
    rng = torch.Generator().manual_seed(seed * 100_003 + epoch)
    flip = torch.rand(n, generator=rng) < 0.5
    if config.flip == "alternating":
        flip = torch.rand(n, generator=torch.Generator().manual_seed(seed * 100_003)) < 0.5
        flip = flip ^ ((epoch if times_sampled is None else times_sampled) % 2 == 1)
    elif config.flip == "none":
        flip = torch.zeros_like(flip)
    crop_offset = torch.randint(0, 2 * config.pad + 1, (n, 2), generator=rng)
    cutout_corner = torch.randint(0, size - config.cutout + 1, (n, 2), generator=rng)
    return AugmentParams(flip, crop_offset, cutout_corner)


def augment(padded: Tensor, index: Tensor, params: AugmentParams, config: AugmentationConfig, color: Tensor) -> Tensor:
    """Augmented images (batch, channels, height, width) uint8.

    Args:
        padded: All images of the data set, padded by `reflect_pad(images, config.pad)`.
        index: (batch,) which of them.
        params: Parameters of each of the batch, sampled with the options `config`.
        config: Options.
        color: (channels, 1, 1) uint8: fills the cutout box; the mean color is zero once normalized.
    """
    images = crop_and_flip(padded, index, params, config.pad)
    return cutout(images, params.cutout_corner, config.cutout, color) if config.cutout else images


def crop_and_flip(padded: Tensor, index: Tensor, params: AugmentParams, pad: int) -> Tensor:
    """Random crop and horizontal flip of the padded images `index`.

    All images with the same parameters are copied in one slice: 2 (2 pad + 1)^2 copies instead of one for each image.
    """
    height, width = padded.shape[-2] - 2 * pad, padded.shape[-1] - 2 * pad
    out = padded.new_empty(len(index), padded.shape[1], height, width)
    side = 2 * pad + 1
    group = (params.crop_offset[:, 0] * side + params.crop_offset[:, 1]) * 2 + params.flip  # (batch,) group numbers
    for number, members in enumerate(group.argsort().split(group.bincount(minlength=2 * side**2).tolist())):
        (top, left), flip = divmod(number // 2, side), number % 2
        crop = padded.index_select(0, index[members])[:, :, top : top + height, left : left + width]
        out[members] = crop.flip(-1) if flip else crop
    return out


def reflect_pad(images: Tensor, pad: int) -> Tensor:
    """Reflection padding: `F.pad(images, (pad,) * 4, "reflect")`, which unlike it takes uint8 on every device."""
    left, right = images[..., 1 : pad + 1].flip(-1), images[..., -pad - 1 : -1].flip(-1)
    images = torch.cat([left, images, right], -1)
    top, bottom = images[..., 1 : pad + 1, :].flip(-2), images[..., -pad - 1 : -1, :].flip(-2)
    return torch.cat([top, images, bottom], -2)


def cutout(images: Tensor, corner: Tensor, side: int, color: Tensor) -> Tensor:
    """Cutout: fills the box of `side` pixels at top left `corner` (batch, 2) with `color` (channels, 1, 1)."""

    def inside(start: Tensor, size: int) -> Tensor:
        pixel = torch.arange(size, device=images.device)
        return (pixel >= start[:, None]) & (pixel < start[:, None] + side)  # (batch, size)

    height, width = images.shape[-2:]
    mask = inside(corner[:, 0], height)[:, None, :, None] & inside(corner[:, 1], width)[:, None, None, :]
    return torch.where(mask, color, images)  # mask: (batch, 1, height, width)
