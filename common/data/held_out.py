"""Held-out validation data: a random part of the training data, with exact duplicates on one side."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import torch
from torch import Tensor

from common.data.labeled_images import LabeledImages

SPLIT_SEED = 1234  # the held-out images are the same in every run, whatever its seed


def hold_out(data: LabeledImages, count: int) -> tuple[LabeledImages, LabeledImages]:
    """Splits `count` images off `data`: (the rest, the held-out ones), both in random order; see `held_out_mask`."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(SPLIT_SEED))
    mask = held_out_mask(data.images, order, count)
    return data[order[~mask]], data[order[mask]]


def held_out_mask(images: Tensor, order: Tensor, count: int) -> Tensor:
    """Which entries of `order` are held out: the first `count`, passing over duplicates that do not fit in as a whole.

    Validation on images that are trained on as well measures memorization: exact duplicates stay together. Only where
    the duplicates are so many that fewer than `count` images could be held out, the first of them fill the rest.

    Args:
        images: (n, 3, size, size) uint8.
        order: Random order of the n images.
        count: Images to hold out.

    Returns:
        (n,) bool, `count` of them true.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)  # in the order of their first members
    pixels = images.numpy()
    for position, i in enumerate(order.tolist()):
        groups[hashlib.blake2b(pixels[i].tobytes(), digest_size=16).digest()].append(position)
    mask = torch.zeros(len(order), dtype=torch.bool)
    missing = count
    for positions in groups.values():
        if len(positions) <= missing:
            mask[positions] = True
            missing -= len(positions)
    mask[(~mask).nonzero().flatten()[:missing]] = True
    return mask
