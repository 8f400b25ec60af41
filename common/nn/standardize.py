"""Standardization to mean 0 and standard deviation 1: which features have a variance to be divided by."""

from __future__ import annotations

from torch import Tensor

MIN_RELATIVE_STD = 1e-6  # of the mean; below it a float32 feature's variance is rounding


def has_variance(mean: Tensor, std: Tensor) -> Tensor:
    """Mask of the features that vary by more than rounding, from means and standard deviations of one shape.

    The others are to be divided by 1, as `sklearn.preprocessing.StandardScaler` does: divided by its near-zero deviation, a
    feature that is constant in training would be enormous at the first other value.
    """
    return std > MIN_RELATIVE_STD * mean.abs()
