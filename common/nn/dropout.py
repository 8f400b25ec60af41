"""Dropout that costs next to nothing on a CPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def keep_mask(shape: tuple[int, ...], p: float, like: Tensor) -> Tensor:
    """A dropout mask: zero with probability `p`, rounded to 256ths, else 1 / (1 - p); dtype and device as `like`.

    Eight elements share a random 64-bit number. On a CPU, where drawing is what dropout costs, that is much faster
    than `F.dropout`.
    """
    count, dropped = math.prod(shape), round(256 * p)
    numbers = torch.empty(-(-count // 8), dtype=torch.int64, device=like.device).random_(-(2**63), None)
    keep = numbers.view(torch.uint8)[:count].view(shape) >= dropped
    return keep.to(like.dtype).mul_(256 / (256 - dropped))


class Dropout(nn.Dropout):
    """Dropout (Srivastava et al., 2014).

    Args:
        p: share of the elements set to zero in training.
        locked: whether all time steps of a sentence share a mask (Gal and Ghahramani, arXiv 1512.05287).
    """

    def __init__(self, p: float, locked: bool = False) -> None:
        super().__init__(p)
        self.locked = locked

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, channels) -> the same shape."""
        if not self.training or self.p == 0:
            return x
        shape = (x.shape[0], *[1] * (x.dim() - 2), x.shape[-1]) if self.locked else tuple(x.shape)
        return x * keep_mask(shape, self.p, x)


def replace_dropout(net: nn.Module) -> None:
    """Puts `Dropout` in the place of every `nn.Dropout` inside `net`."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))
