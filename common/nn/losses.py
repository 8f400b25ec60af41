"""What is known of a loss before training."""

import math


def min_smoothed_cross_entropy(smoothing: float, classes: int) -> float:
    """The least cross-entropy, in nats, that targets allow of which the share `smoothing` is spread evenly over all classes.

    It is the entropy of the targets themselves.
    """
    if smoothing == 0:
        return 0.0
    off, on = smoothing / classes, 1 - smoothing + smoothing / classes
    return -(on * math.log(on) + (classes - 1) * off * math.log(off))
