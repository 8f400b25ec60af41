"""Augmentation of whole batches of uint8 pictures, on whatever device they are on.

Every function is vectorised over the batch and takes its random draws as an argument, so that the same draws give the
same pictures whichever way the data set is split over batches or processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Augmentation:
    """What happens to a training picture.

    Args:
        flip: "alternating" mirrors every picture on every other epoch (arXiv 2404.00498, section 3.6), "random" tosses
            a coin each time, "none" leaves them.
        pad: pixels of reflected border around the picture, out of which a crop of the old size is taken.
        cutout: side in pixels of a square set to the mean colour (DeVries & Taylor, arXiv 1708.04552); 0 for none.
    """

    flip: str = "alternating"
    pad: int = 2
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.flip not in ("alternating", "random", "none"):
            raise ValueError(f"flip is {self.flip!r}; use alternating, random or none")
        if self.pad < 0 or self.cutout < 0:
            raise ValueError("pad and cutout are numbers of pixels, 0 or more")


@dataclass
class Draws:
    """One epoch's random choices for each of `n` pictures: flip (n,) bool, shift (n, 2) and hole (n, 2) in pixels."""

    flip: Tensor
    shift: Tensor
    hole: Tensor

    def __getitem__(self, index: Tensor) -> Draws:
        return Draws(self.flip[index], self.shift[index], self.hole[index])

    def to(self, device: torch.device) -> Draws:
        """The same choices on `device`."""
        return Draws(self.flip.to(device), self.shift.to(device), self.hole.to(device))


def draw(n: int, size: int, epoch: int, seed: int, augmentation: Augmentation, shown: Tensor | None = None) -> Draws:
    """The choices of epoch `epoch` for `n` pictures of `size` x `size`; a function of its arguments alone.

    Under alternating flip the first epoch's coin is tossed once for all epochs, and odd epochs take its opposite: over
    two epochs the network sees each picture once in each orientation, where independent coins would repeat one of them
    half of the time. Where epochs leave pictures out, `shown` (n,), how often each was shown, takes the epoch's place.
    """
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    coin = torch.rand(n, generator=generator) < 0.5
    if augmentation.flip == "alternating":
        coin = torch.rand(n, generator=torch.Generator().manual_seed(seed * 100_003)) < 0.5
        flip = coin ^ ((epoch if shown is None else shown) % 2 == 1)
    else:
        flip = coin if augmentation.flip == "random" else torch.zeros_like(coin)
    shift = torch.randint(0, 2 * augmentation.pad + 1, (n, 2), generator=generator)
    hole = torch.randint(0, max(1, size - augmentation.cutout + 1), (n, 2), generator=generator)
    return Draws(flip, shift, hole)


def augment(padded: Tensor, order: Tensor, draws: Draws, augmentation: Augmentation, mean_color: Tensor) -> Tensor:
    """The pictures `order` of a data set, each as its draw says: (batch, channels, height, width) uint8.

    Args:
        padded: all pictures with their border, `reflect_pad(images, augmentation.pad)`.
        order: (batch,) which of them.
        draws: one for each of the batch.
        augmentation: what the draws were made for.
        mean_color: (channels, 1, 1) uint8, fills the cutout, so that it is zero once normalised.
    """
    images = crop_and_flip(padded, order, draws, augmentation.pad)
    if augmentation.cutout:
        images = cut(images, draws.hole, augmentation.cutout, mean_color)
    return images


def crop_and_flip(padded: Tensor, order: Tensor, draws: Draws, pad: int) -> Tensor:
    """Crops each picture out of its border at its `shift` (row, column), then mirrors it where `flip` says so.

    All pictures with the same choices are copied in one slice: 2 (2 pad + 1)^2 copies instead of one for each picture.
    """
    height, width = padded.shape[-2] - 2 * pad, padded.shape[-1] - 2 * pad
    out = padded.new_empty(len(order), padded.shape[1], height, width)
    side = 2 * pad + 1
    group = (draws.shift[:, 0] * side + draws.shift[:, 1]) * 2 + draws.flip  # (batch,), one number for each choice
    for number, index in enumerate(group.argsort().split(group.bincount(minlength=2 * side**2).tolist())):
        (dy, dx), flip = divmod(number // 2, side), number % 2
        window = padded.index_select(0, order[index])[:, :, dy : dy + height, dx : dx + width]
        out[index] = window.flip(-1) if flip else window
    return out


def reflect_pad(images: Tensor, pad: int) -> Tensor:
    """`F.pad(images, (pad,) * 4, "reflect")`, which unlike it takes uint8 on every device."""
    left, right = images[..., 1 : pad + 1].flip(-1), images[..., -pad - 1 : -1].flip(-1)
    images = torch.cat([left, images, right], -1)
    top, bottom = images[..., 1 : pad + 1, :].flip(-2), images[..., -pad - 1 : -1, :].flip(-2)
    return torch.cat([top, images, bottom], -2)


def cut(images: Tensor, hole: Tensor, side: int, color: Tensor) -> Tensor:
    """Fills the square of `side` pixels whose top left corner is `hole` (batch, 2) with `color` (channels, 1, 1)."""

    def inside(start: Tensor, size: int) -> Tensor:
        pixel = torch.arange(size, device=images.device)
        return (pixel >= start[:, None]) & (pixel < start[:, None] + side)  # (batch, size)

    height, width = images.shape[-2:]
    mask = inside(hole[:, 0], height)[:, None, :, None] & inside(hole[:, 1], width)[:, None, None, :]
    return torch.where(mask, color, images)  # mask: (batch, 1, height, width)


def test_views(images: Tensor, level: int) -> list[tuple[float, Tensor]]:
    """The views of test-time augmentation with the weight of each (the weights add up to 1).

    Level 0 is the picture itself; 1 adds its mirror image; 2 adds, with half of the weight, both of them shifted by one
    pixel up-left and down-right: the six views of arXiv 2404.00498.
    """
    views = [images] if level == 0 else [images, images.flip(-1)]
    if level < 2:
        return [(1 / len(views), view) for view in views]
    height, width = images.shape[-2:]
    padded = reflect_pad(images, 1)
    shifted = [padded[..., d : d + height, d : d + width] for d in (0, 2)]
    shifted += [view.flip(-1) for view in shifted]
    return [(0.25, view) for view in views] + [(0.125, view) for view in shifted]
