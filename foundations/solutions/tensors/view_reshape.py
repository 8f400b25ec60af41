"""View and reshape: the same numbers in another shape, with or without a copy

A view shares its memory: writing into one writes into the other. reshape gives a view where it can, and a copy where it
cannot, without saying which.
"""

from torch import Tensor


def flatten_images(x: Tensor) -> Tensor:
    """All dimensions but the first in one.

    Args:
        x: (N, ...), of any memory layout; N may be 0.

    Returns:
        (N, product of the other sizes).

    Example:
        (64, 3, 32, 32) becomes (64, 3072).
    """
    return x.flatten(1)


def view_or_raise(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A view of `x` in another shape; never a copy.

    Args:
        x: A tensor of any memory layout, also one that is not contiguous.
        shape: Its new shape, of as many entries.

    Returns:
        A tensor that shares the memory of `x`: writing into it changes `x`.

    Raises:
        ValueError: The shape cannot be had without a copy, or has another number of entries.
    """
    try:
        return x.view(shape)
    except RuntimeError as error:
        raise ValueError(f"no view of {tuple(x.shape)} has the shape {shape}") from error


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a contiguous tensor: how many entries further in memory one step along each dimension is.

    Args:
        shape: Sizes, each at least 1.

    Returns:
        One stride for each dimension.

    Example:
        (2, 3, 4) has the strides (12, 4, 1).
    """
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * size)
    return tuple(reversed(strides)) if shape else ()
