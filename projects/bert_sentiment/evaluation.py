"""How good a classifier is, and how far its confidence can be believed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_f1_score

BOUNDS = (0.01, 100.0)  # of 1 / temperature: confidence that is worth nothing would else be divided by infinity
LENGTHS = (5, 10, 20, 40)  # words: where short texts end and longer ones begin


@torch.no_grad()
def temperature(logits: Tensor, labels: Tensor, steps: int = 50) -> Tensor:
    """The number that logits (n, classes) have to be divided by to be most likely right (Guo et al., arXiv 1706.04599).

    It leaves every prediction as it is and makes confidence mean what it says. Newton's method on its logarithm's gradient,
    which has one minimum in 1 / temperature; a scalar, and 1 if there is nothing to learn from.
    """
    if not len(labels) or bool((logits.argmax(1) == labels).all()):  # no mistake: the likeliest temperature would be 0
        return torch.ones(())
    logits, inverse = logits.double(), torch.ones((), dtype=torch.float64)
    right = logits.gather(1, labels[:, None]).squeeze(1)
    for _ in range(steps):
        p = (inverse * logits).softmax(1)
        mean = (p * logits).sum(1)
        slope = (mean - right).mean()  # of the loss, in the inverse temperature
        curvature = ((p * logits.square()).sum(1) - mean.square()).mean()
        inverse = (inverse - slope / curvature.clamp(min=1e-12)).clamp(inverse / 4, 4 * inverse).clamp(*BOUNDS)
    return (1 / inverse).float()


def scores(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> dict[str, float]:
    """The figures of logits (n, classes) and labels (n,): shares from 0 to 1.

    `f1` is that of the second class where there are two, which is the usual one, else the mean over the classes. The
    calibration error (Naeini et al., 2015; 15 bins) is that of the probabilities as they are, and `calibrated_error`
    that with the logits divided by `temperature`.
    """
    classes = logits.shape[1]
    each = multiclass_f1_score(logits.argmax(1), labels, classes, average="none")
    return {
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "f1": (each[1] if classes == 2 else each.mean()).item(),
        "calibration_error": multiclass_calibration_error(logits.softmax(1), labels, classes, n_bins=15).item(),
        "calibrated_error": multiclass_calibration_error(
            (logits / temperature).softmax(1), labels, classes, n_bins=15
        ).item(),
    }


def accuracy_by_length(texts: Sequence[str], correct: Tensor) -> dict[str, tuple[float, int]]:
    """Accuracy in per cent, and how many texts, by how many words a text has; lengths that no text has are left out.

    >>> accuracy_by_length(["good", "a b c d e f"], torch.tensor([True, False]))
    {'1-5': (100.0, 1), '6-10': (0.0, 1)}
    """
    words = torch.tensor([len(text.split()) for text in texts])
    ends = [*LENGTHS, 10**9]
    starts = [1, *(end + 1 for end in LENGTHS)]
    found: dict[str, tuple[float, int]] = {}
    for start, end in zip(starts, ends, strict=True):
        inside = (words >= start) & (words <= end)
        if count := int(inside.sum()):
            name = f"{start}-{end}" if end in LENGTHS else f"{start}+"
            found[name] = 100 * correct[inside].double().mean().item(), count
    return found
