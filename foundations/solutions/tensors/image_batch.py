"""Image batch: from a list of images in memory to what a network takes

Images come as height x width x channels in whole numbers; networks take a batch of channels x height x width in floats.
"""

import torch
from torch import Tensor


def image_batch(images: list[Tensor]) -> Tensor:
    """Batch of images, scaled.

    Args:
        images: N tensors (H, W, 3) uint8, 0 to 255.

    Returns:
        (N, 3, H, W) float32: -1 for 0, 1 for 255.

    Example:
        One black image of 4 x 5 pixels gives a tensor (1, 3, 4, 5) that is -1 everywhere.
    """
    return torch.stack(images).permute(0, 3, 1, 2).float() / 127.5 - 1
