"""Held-out data: a random part of the training data, with exact duplicates on one side."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from common.data.labeled_images import LabeledImages
from common.data.sources import Source
from common.errors import UserError
from common.io.ranks import print_rank_zero

SPLIT_SEED = 1234  # the held-out examples are the same in every run, whatever its seed
MAX_HELD_OUT = 1000  # where the number is unset
T = TypeVar("T")


def hold_out(data: LabeledImages, count: int) -> tuple[LabeledImages, LabeledImages]:
    """Splits `count` images off `data`: (the rest, the held-out ones), both in random order; see `held_out_mask`."""
    digests = [hashlib.blake2b(pixels.tobytes(), digest_size=16).digest() for pixels in data.images.numpy()]
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(SPLIT_SEED))
    mask = held_out_mask(digests, order, count)
    return data[order[~mask]], data[order[mask]]


def hold_out_indices(keys: Sequence[Hashable], count: int) -> tuple[list[int], list[int]]:
    """Splits `count` of the indices of `keys` off: (the rest, the held-out ones), both ascending; see `held_out_mask`."""
    order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(SPLIT_SEED))
    mask = held_out_mask(keys, order, count)
    return sorted(order[~mask].tolist()), sorted(order[mask].tolist())


def held_out_mask(keys: Sequence[Hashable], order: Tensor, count: int) -> Tensor:
    """Which entries of `order` are held out: the first `count`, passing over duplicates that do not fit in as a whole.

    Validation on examples that are trained on as well measures memorization: exact duplicates stay together. Only where
    the duplicates are so many that fewer than `count` could be held out, the first of them fill the rest.

    Args:
        keys: Of n examples; duplicates are those with the same key.
        order: Random order of the examples.
        count: Examples to hold out.

    Returns:
        (n,) bool, `count` of them true.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)  # in the order of their first members
    for position, i in enumerate(order.tolist()):
        groups[keys[i]].append(position)
    mask = torch.zeros(len(order), dtype=torch.bool)
    missing = count
    for positions in groups.values():
        if len(positions) <= missing:
            mask[positions] = True
            missing -= len(positions)
    mask[(~mask).nonzero().flatten()[:missing]] = True
    return mask


def complete_splits(
    source: Source,
    splits: dict[str, T],
    size: Callable[[T], int],
    hold_out: Callable[[T, int], tuple[T, T]],
    val_size: int | None,
) -> dict[str, T]:
    """The splits "train", "val" (unless there is none and `val_size` is 0) and "test" of a source; prints what it held out.

    Without a test split the source's validation split is the test, as is usual for GLUE. What is then missing is held out
    of train: `val_size` examples; where that is None, 1,000, or a tenth of train if that is less.

    Args:
        source: Data source, for messages.
        splits: Splits of the source that have examples: "train", "validation" and "test".
        size: Number of examples of a split.
        hold_out: Splits so many examples off: (the rest, the held-out ones).
        val_size: Examples to hold out.
    """
    where = f"data source {source.name}"
    if "train" not in splits:
        raise UserError(f"{where}: no training split, only {', '.join(splits) or 'empty ones'}")
    train, test, val = splits["train"], splits.get("test"), splits.get("validation")
    if test is None and val is not None:
        print_rank_zero(f"{where}: no test split with examples to score: its validation split is the test")
        test, val = val, None
    total = size(train)
    count = val_size or min(MAX_HELD_OUT, max(1, total // 10))
    missing = [name for name, split in (("test", test), ("validation", val)) if split is None]
    if val is None and val_size == 0:
        missing.remove("validation")
    if len(missing) * count >= total:
        option = f"--data.val_size {val_size}: " if val_size else ""
        raise UserError(f"{option}{where}: {total} training examples are too few to hold out {' and '.join(missing)}")
    held_out = {}
    for name in missing:
        train, held_out[name] = hold_out(train, count)
        print_rank_zero(f"{where}: no {name} split: {size(held_out[name])} of its {total} training examples are held out")
    test, val = held_out.get("test", test), held_out.get("validation", val)
    return {name: split for name, split in (("train", train), ("val", val), ("test", test)) if split is not None}
