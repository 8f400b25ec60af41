"""Channel normalization: one mean and one standard deviation for each color

Broadcasting puts them where they belong, or, silently, somewhere else.
"""

from torch import Tensor


def channel_normalize(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x - mean) / std, channel by channel.

    Args:
        x: One image (C, H, W) or a batch (N, C, H, W), float; it stays as it is.
        mean: (C,).
        std: (C,), positive.

    Returns:
        The shape of `x`.

    Example:
        An image of the value 3 with mean [1, 2, 3] and std [2, 1, 1] has the channels 1, 1 and 0.
    """
    return (x - mean[:, None, None]) / std[:, None, None]
