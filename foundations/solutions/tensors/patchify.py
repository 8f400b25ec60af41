"""Patchify: an image as a sequence of small squares, and back

What a vision Transformer reads, and what a convolution looks at: reshape and permute, without a loop.
"""

from torch import Tensor


def patchify(images: Tensor, size: int) -> Tensor:
    """Patches of `size` x `size` pixels, row by row from the upper left.

    Args:
        images: (N, C, H, W), H and W multiples of `size`.
        size: Height and width of a patch.

    Returns:
        (N, P, C * size * size), P = (H / size) * (W / size); a patch holds all of its first channel, row by row, then the
        next channel.

    Example:
        An image (1, 1, 2, 4) of the numbers 0 to 7 with size 2 gives the patches [0, 1, 4, 5] and [2, 3, 6, 7].
    """
    n, c, height, width = images.shape
    rows, columns = height // size, width // size
    grid = images.reshape(n, c, rows, size, columns, size)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(n, rows * columns, c * size * size)


def unpatchify(patches: Tensor, size: int, channels: int, height: int, width: int) -> Tensor:
    """The images of which `patchify` made the patches, exactly.

    Args:
        patches: (N, P, channels * size * size).
        size: Height and width of a patch.
        channels: C.
        height: H.
        width: W.

    Returns:
        (N, C, H, W).
    """
    rows, columns = height // size, width // size
    grid = patches.reshape(-1, rows, columns, channels, size, size)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), channels, height, width)
