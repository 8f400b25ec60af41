"""Label smoothing: the minimum of its cross-entropy loss."""

import math


def min_smoothed_cross_entropy(smoothing: float, classes: int) -> float:
    """Minimum, in nats, of cross-entropy with label smoothing: the entropy of the smoothed targets.

    Args:
        smoothing: Fraction of the target probability that is spread evenly over all classes.
        classes: Number of classes.
    """
    if smoothing == 0:
        return 0.0
    off, on = smoothing / classes, 1 - smoothing + smoothing / classes
    return -(on * math.log(on) + (classes - 1) * off * math.log(off))
