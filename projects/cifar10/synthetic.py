"""Synthetic images: the embedded sample of ten classes of rendered shapes, the same on every machine."""

from __future__ import annotations

from common.data.images import LabeledImages
from common.data.synthetic_images import render_splits

SPLIT_SIZES = {"train": 5000, "test": 1000}


def make_splits() -> dict[str, LabeledImages]:
    """Splits "train" and "test"."""
    return render_splits(SPLIT_SIZES)
