"""Slicing: rows, columns, borders, blocks, and writing into them

An index can be a view into the tensor or a copy of some entries; only writing into the first changes the tensor.
"""

import torch
from torch import Tensor


def last_rows(x: Tensor) -> Tensor:
    """The last two rows of every second column, beginning with the first.

    Args:
        x: (N, M), N at least 2.

    Returns:
        (2, ceil(M / 2)).
    """
    return x[-2:, ::2]


def mirrored(x: Tensor) -> Tensor:
    """The columns in reversed order, as a mirror shows an image.

    Args:
        x: (..., M).

    Returns:
        (..., M).

    Example:
        [[1, 2, 3]] becomes [[3, 2, 1]].
    """
    return x.flip(-1)


def block(x: Tensor, rows: list[int], columns: list[int]) -> Tensor:
    """The entries where one of the rows crosses one of the columns, in the order of the lists.

    Args:
        x: (N, M).
        rows: R row indices.
        columns: C column indices.

    Returns:
        (R, C).

    Example:
        Rows [0, 2] and columns [1, 3] give the four entries (0, 1), (0, 3), (2, 1) and (2, 3).
    """
    return x[rows][:, columns]


def with_block(x: Tensor, rows: list[int], columns: list[int], value: float) -> Tensor:
    """A copy of `x` with `value` where one of the rows crosses one of the columns; `x` itself stays as it is.

    Args:
        x: (N, M).
        rows: Row indices.
        columns: Column indices.
        value: What is written.

    Returns:
        (N, M).
    """
    result = x.clone()
    result[torch.tensor(rows)[:, None], torch.tensor(columns)] = value  # one index (R, 1) and one (C,): a block, not pairs
    return result


def border(x: Tensor) -> Tensor:
    """The outermost entries of an image, read clockwise from the upper left.

    Args:
        x: (H, W), H and W at least 2.

    Returns:
        (2 H + 2 W - 4,).

    Example:
        [[1, 2], [3, 4]] gives [1, 2, 4, 3].
    """
    return torch.cat([x[0], x[1:, -1], x[-1, :-1].flip(0), x[1:-1, 0].flip(0)])
