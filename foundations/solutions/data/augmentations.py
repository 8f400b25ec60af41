"""Augmentation: changes that keep the label

Every sample gets random numbers of its own, a mask moves with its image, and which changes are allowed is said by the data,
not by habit.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Transform = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]  # images, masks, rng -> images, masks


class RandomFlip:
    """Flips each sample with probability `p`, image and mask together.

    Args:
        dim: -1 for left and right, -2 for top and bottom.
        p: Probability.
    """

    def __init__(self, dim: int, p: float = 0.5) -> None:
        self.dim, self.p = dim, p

    def __call__(self, images: Tensor, masks: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Flipped batch.

        Args:
            images: (B, C, H, W), B at least 1.
            masks: (B, H, W), the class of each pixel.
            rng: Where all random numbers come from.

        Returns:
            Both in the same shapes and dtypes.

        Example:
            RandomFlip(-1, p=1.0) makes [[[[1, 2, 3]]]] and [[[0, 0, 5]]] to [[[[3, 2, 1]]]] and [[[5, 0, 0]]]
        """
        flip = torch.rand(len(images), generator=rng) < self.p
        images = torch.where(flip[:, None, None, None], images.flip(self.dim), images)
        return images, torch.where(flip[:, None, None], masks.flip(self.dim), masks)


class RandomCrop:
    """Pads each side with `pad` zeros and cuts the old size out again, of each sample at a random position of its own.

    All (2 pad + 1)² positions are equally probable.
    """

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, images: Tensor, masks: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cropped batch; arguments and result as those of RandomFlip."""
        _, height, width = masks.shape
        corners = torch.randint(2 * self.pad + 1, (len(images), 2), generator=rng).tolist()

        def crop(batch: Tensor) -> Tensor:
            padded = F.pad(batch, (self.pad,) * 4)
            pairs = zip(padded, corners, strict=True)
            return torch.stack([x[..., top : top + height, left : left + width] for x, (top, left) in pairs])

        return crop(images), crop(masks)


class Compose:
    """Transforms one after the other; without any, images and masks stay as they are."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = transforms

    def __call__(self, images: Tensor, masks: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Transformed batch; arguments and result as those of RandomFlip."""
        for transform in self.transforms:
            images, masks = transform(images, masks, rng)
        return images, masks


def build_augmentation(data: str, training: bool) -> Compose:
    """Augmentation of a data set.

    In training: a crop with pad 1, and every flip of the two that keeps the label of all images, with probability 1/2.
    In validation: nothing.

    Args:
        data: "digits": the digits of a display, upright.
            "arrows": road signs with an arrow; the class is its direction, left or right.
            "photos": scenes; the class says whether something stands on the ground or flies above it.
            "chirps": spectrograms, time to the right and pitch upward; the class is a rising or a falling tone.
        training: Whether the batches are for training.
    """
    flips = {"digits": (), "arrows": (-2,), "photos": (-1,), "chirps": ()}[data]
    return Compose([RandomFlip(dim) for dim in flips] + [RandomCrop(1)] if training else [])
