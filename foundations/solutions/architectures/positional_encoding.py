"""Positional encodings: waves that tell attention the order

Attention sees a set. Sines and cosines of many wavelengths, added to the vectors, make it a sequence.
"""

import torch
from torch import Tensor


def sinusoids(length: int, dim: int) -> Tensor:
    """Sinusoidal encoding of the positions 0 to length - 1 (Vaswani et al., section 3.5).

    Features 2i and 2i + 1 are the sine and the cosine of position / 10000^(2i / dim). With an odd `dim` the last feature
    is a sine without its cosine.

    Returns:
        (length, dim) float32.

    Example:
        sinusoids(2, 3) is [[0, 1, 0], [sin(1), cos(1), sin(10000^(-2/3))]].
    """
    exponents = torch.arange(0, dim, 2) / dim  # of each pair
    angles = torch.arange(length)[:, None] / 10000**exponents  # (length, pairs)
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :dim]


def add_positions(x: Tensor, padding: Tensor) -> Tensor:
    """Adds to each vector the encoding of its position in its own sentence, wherever the padding is.

    Args:
        x: (B, T, D).
        padding: (B, T) boolean, True at padding: before a sentence, after it, or on both sides.

    Returns:
        (B, T, D): the first vector of a sentence that is no padding has the position 0. Padding stays as it is.

    Example:
        The padding [[True, False, False]] gives the positions [[-, 0, 1]].
    """
    real = ~padding
    positions = (real.cumsum(1) - 1).clamp(min=0)  # (B, T)
    table = sinusoids(x.shape[1], x.shape[2]).to(x)
    return x + table[positions] * real[..., None]
