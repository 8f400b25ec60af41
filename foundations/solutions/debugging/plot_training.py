"""Plot training: curves, first filters and attention, as they are given to imshow

Plots are read faster than tables, and lie as easily: by how they are smoothed, scaled and cropped.
"""

import torch
from torch import Tensor


def smooth(values: Tensor, weight: float) -> Tensor:
    """Exponential moving average with the bias correction of Adam, as TensorBoard smooths.

    With s_0 = 0: s_t = weight s_(t-1) + (1 - weight) values_t, and the result is s_t / (1 - weight^t), for t = 1 … T.

    Args:
        values: (T,) float.
        weight: From 0, which changes nothing, to below 1.

    Returns:
        (T,) float.

    Example:
        smooth([4, 4], 0.9) is [4, 4]; smooth([1, 4], 0.5) is [1, 3]
    """
    average, smoothed = values.new_zeros(()), []
    for t, value in enumerate(values, 1):
        average = weight * average + (1 - weight) * value
        smoothed.append(average / (1 - weight**t))
    return torch.stack(smoothed)


def verdict(train: Tensor, val: Tensor) -> str:
    """What the smoothed losses of a training say; the first of these that holds.

    "unstable": a loss of either is not finite, or a training loss is more than twice the one before it.
    "overfitting": the last validation loss is more than 1.1 times the least one.
    "underfitting": the last training loss is more than half of the first one.
    "fine": none of these.

    Args:
        train: (E,) training loss of each epoch, positive; E is at least 1.
        val: (E,) validation loss of each epoch, positive.

    Example:
        verdict([4, 1], [4, 2]) is "fine", verdict([4, 3], [4, 3]) "underfitting", verdict([4, 1], [2, 3]) "overfitting"
    """
    if not (train.isfinite().all() and val.isfinite().all()) or (train[1:] > 2 * train[:-1]).any():
        return "unstable"
    if val[-1] > 1.1 * val.min():
        return "overfitting"
    return "underfitting" if train[-1] > train[0] / 2 else "fine"


def filter_grid(weight: Tensor, columns: int) -> Tensor:
    """Image of the filters of a first convolution, side by side in rows of `columns`.

    Each filter is scaled on its own: 0.5 + 0.5 filter / largest size of its entries. Of zeros it is 0.5 throughout, and so
    is what is left of the last row.

    Args:
        weight: (F, C, h, w) float, such as the parameter of nn.Conv2d.
        columns: Filters in a row.

    Returns:
        (rows * h, columns * w, C) float, from 0 to 1, without a gradient.

    Example:
        filter_grid([[[[2, -1]]], [[[0, 3]]], [[[0, 0]]]], 2) is [[1, 0.25, 0.5, 1], [0.5, 0.5, 0.5, 0.5]] with C = 1 behind
    """
    count, channels, h, w = weight.shape
    rows = -(-count // columns)
    largest = weight.detach().abs().amax((1, 2, 3), keepdim=True)
    tiles = weight.new_full((rows * columns, channels, h, w), 0.5)
    tiles[:count] += 0.5 * weight.detach() / torch.where(largest > 0, largest, 1.0)
    tiles = tiles.view(rows, columns, channels, h, w).permute(0, 3, 1, 4, 2)  # (rows, h, columns, w, C)
    return tiles.reshape(rows * h, columns * w, channels)


def attention_maps(weights: Tensor, target_lengths: Tensor, source_lengths: Tensor) -> list[Tensor]:
    """Attention of each sentence of a padded batch without its padding.

    Args:
        weights: (B, T, S) float; row t of a sentence says where target token t looks among the source tokens.
        target_lengths: (B,) int64, from 0 to T.
        source_lengths: (B,) int64, from 0 to S.

    Returns:
        B tensors, (target length, source length).

    Example:
        weights = [[[0.9, 0.1, 0], [0, 0, 0]]] with lengths [1] and [2] give [[[0.9, 0.1]]]
    """
    lengths = zip(target_lengths.tolist(), source_lengths.tolist(), strict=True)
    return [rows[:t, :s] for rows, (t, s) in zip(weights, lengths, strict=True)]
