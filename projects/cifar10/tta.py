"""Test-time augmentation (TTA): logits averaged over several views of each image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from projects.cifar10.augment import reflect_pad


@torch.no_grad()
def predict_logits(net: Callable[[Tensor], Tensor], images: Tensor, tta: int = 2, flip: bool = True) -> Tensor:
    """Logits (batch, classes), float32: the weighted mean over the TTA views of each image.

    Args:
        net: Maps (batch, 3, height, width) uint8 to logits (batch, classes).
        images: (batch, 3, height, width) uint8.
        tta: Level of test-time augmentation, see `tta_views`.
        flip: Whether horizontal flips are among the views.
    """
    logits = [weight * net(view).float() for weight, view in tta_views(images, tta, flip)]
    return torch.stack(logits).sum(0)  # (batch, classes)


def tta_views(images: Tensor, level: int, flip: bool = True) -> list[tuple[float, Tensor]]:
    """TTA views of a batch of images, each with its weight; the weights add up to 1.

    Level 0 is the image itself; 1 adds its horizontal flip; 2 adds, with half of the weight, both of them shifted by one
    pixel up-left and down-right: the six views of arXiv 2404.00498. Without `flip`, no view is flipped: digits and letters
    are others in the mirror.
    """
    views = [images, images.flip(-1)] if level and flip else [images]
    if level < 2:
        return [(1 / len(views), view) for view in views]
    height, width = images.shape[-2:]
    padded = reflect_pad(images, 1)
    shifted = [padded[..., d : d + height, d : d + width] for d in (0, 2)]
    if flip:
        shifted += [view.flip(-1) for view in shifted]
    return [(0.5 / len(views), view) for view in views] + [(0.5 / len(shifted), view) for view in shifted]
