"""Held-out images: as many as asked for, and no exact duplicate of a training image among them."""

from __future__ import annotations

import pytest
import torch

from common.data.held_out import SPLIT_SEED, hold_out
from common.data.images import LabeledImages


def data_of(numbers: list[int]) -> LabeledImages:
    """An image of a pattern for each number; the label is its position."""
    patterns = torch.randint(0, 256, (max(numbers) + 1, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    return LabeledImages(patterns[torch.tensor(numbers)].to(torch.uint8), torch.arange(len(numbers)), ["a"])


def content(data: LabeledImages) -> set[bytes]:
    return {image.numpy().tobytes() for image in data.images}


@pytest.mark.parametrize("count", [0, 1, 7, 30])
def test_without_duplicates_the_first_of_the_random_order_are_held_out(count):
    train, val = hold_out(data_of(list(range(50))), count)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()
    assert val.labels.tolist() == order[:count] and train.labels.tolist() == order[count:]


@pytest.mark.parametrize("count", [1, 2, 10, 33, 59])
def test_duplicates_are_on_one_side(count):
    data = data_of([i // 2 for i in range(60)] + [100 + i for i in range(20)])
    train, val = hold_out(data, count)
    assert len(val) == count and len(train) == len(data) - count
    assert not content(train) & content(val)
    assert sorted(train.labels.tolist() + val.labels.tolist()) == list(range(80))


def test_nothing_but_duplicates_can_still_be_split():
    train, val = hold_out(data_of([0] * 10), 4)
    assert (len(train), len(val)) == (6, 4)
