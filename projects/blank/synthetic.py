"""Synthetic regression data: the embedded sample, the same on every machine."""

from __future__ import annotations

import torch
from torch import Tensor

SPLIT_SIZES = {"train": 2000, "test": 500}
NOISE_STD = 0.1


def make_splits() -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs (rows, 2) and targets (rows,) of each split: y = sin(3 a) + b² + noise, for a and b uniform in [-1, 1]."""
    splits = {}
    for seed, (split, size) in enumerate(SPLIT_SIZES.items()):
        rng = torch.Generator().manual_seed(seed)
        inputs = 2 * torch.rand(size, 2, generator=rng) - 1
        noise = NOISE_STD * torch.randn(size, generator=rng)
        splits[split] = inputs, torch.sin(3 * inputs[:, 0]) + inputs[:, 1] ** 2 + noise
    return splits
