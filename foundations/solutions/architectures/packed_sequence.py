"""Packed sequences: a batch of unequal lengths without its padding

What pack_padded_sequence makes, and how an RNN reads it: at each step only the sequences that go on.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def pack(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Packs a padded batch: the longest sequence first, then step by step the entries of all that have not ended.

    Args:
        x: (B, T, ...), sequences with padding behind.
        lengths: (B,), int64, from 1 to T, in any order.

    Returns:
        data: (sum of lengths, ...): all first entries, then all second ones, and so on; each time the longest first.
        batch_sizes: (longest length,), int64: how many sequences have a first entry, a second, and so on.
        order: (B,), int64: data begins with the first entries of x[order]; equal lengths may stand in any order.

    Example:
        Sequences [1] and [2, 3] give data [2, 1, 3], batch_sizes [2, 1] and order [1, 0].
    """
    order = lengths.argsort(descending=True)
    goes_on = torch.arange(x.shape[1], device=x.device)[:, None] < lengths[order]  # (T, B)
    batch_sizes = goes_on.sum(1)
    return x[order].transpose(0, 1)[goes_on], batch_sizes[batch_sizes > 0], order


def unpack(data: Tensor, batch_sizes: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """The padded batch, in its first order, with zeros as padding, and the lengths.

    Args:
        data: (sum of lengths, ...).
        batch_sizes: (T,).
        order: (B,).

    Returns:
        (B, T, ...), and (B,) int64.
    """
    goes_on = torch.arange(len(order), device=data.device) < batch_sizes[:, None]  # (T, B)
    x = data.new_zeros(*goes_on.shape, *data.shape[1:])
    x[goes_on] = data
    back = order.argsort()
    return x.transpose(0, 1)[back], goes_on.sum(0)[back]


def run_packed(
    cell: Callable[[Tensor, Tensor], Tensor], data: Tensor, batch_sizes: Tensor, order: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """Runs a cell over a packed batch, each sequence for as many steps as it has.

    Args:
        cell: Takes inputs (n, D) and states (n, H) of n sequences to their new states (n, H).
        data: (sum of lengths, D).
        batch_sizes: (T,).
        order: (B,).
        h: (B, H), the first states, in the batch's first order.

    Returns:
        All states (sum of lengths, H), packed as data is, and each sequence's last state (B, H), in the first order.
    """
    h, states, ended = h[order], [], []
    for step in data.split(batch_sizes.tolist()):
        ended = [h[len(step) :], *ended]  # ended before this step: they stand behind those that go on
        h = cell(step, h[: len(step)])
        states.append(h)
    return torch.cat(states), torch.cat([h, *ended])[order.argsort()]
