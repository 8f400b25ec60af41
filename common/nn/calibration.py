"""Calibration: temperature scaling of a classifier's logits."""

from __future__ import annotations

import torch
from torch import Tensor

INVERSE_TEMPERATURE_BOUNDS = (0.01, 100.0)  # logits that are worth nothing would else be divided by infinity


@torch.no_grad()
def fit_temperature(logits: Tensor, labels: Tensor, steps: int = 50) -> Tensor:
    """Temperature scaling (Guo et al., arXiv 1706.04599): the scalar T for which logits / T have the least cross-entropy.

    It leaves every prediction as it is and makes the confidence match the accuracy. Newton's method on 1 / T, in which the
    loss of logits (n, classes) and labels (n,) is convex; T is 1 if there is no mistake to learn from, as it would be 0.
    """
    if not len(labels) or bool((logits.argmax(1) == labels).all()):
        return torch.ones(())
    logits, inverse = logits.double(), torch.ones((), dtype=torch.float64)
    label_logits = logits.gather(1, labels[:, None]).squeeze(1)  # (n,)
    for _ in range(steps):
        p = (inverse * logits).softmax(1)  # (n, classes)
        mean = (p * logits).sum(1)  # (n,)
        gradient = (mean - label_logits).mean()
        curvature = ((p * logits.square()).sum(1) - mean.square()).mean()
        newton = inverse - gradient / curvature.clamp(min=1e-12)
        inverse = newton.clamp(inverse / 4, 4 * inverse).clamp(*INVERSE_TEMPERATURE_BOUNDS)
    return (1 / inverse).float()
