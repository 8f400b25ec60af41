"""Classification metrics and calibration error, as functions of logits and labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_f1_score

WORD_BUCKETS = (5, 10, 20, 40)  # most words of a text in each bucket but the last


def classification_metrics(logits: Tensor, labels: Tensor, temperature: float | None = None) -> dict[str, float]:
    """Cross-entropy in nats, accuracy, F1 and expected calibration error of logits (n, classes) and labels (n,).

    `f1` is that of the second class where there are two, else the macro average. `calibration_error` (ECE, Naeini et al.,
    2015; 15 bins) is that of the plain probabilities, `calibration_error_scaled` that of logits / `temperature`; without a
    temperature, as on the data that it is fitted to, there is none.
    """
    num_classes = logits.shape[1]
    f1 = multiclass_f1_score(logits.argmax(1), labels, num_classes, average="none")

    def calibration_error(logits: Tensor) -> float:
        return multiclass_calibration_error(logits.softmax(1), labels, num_classes, n_bins=15).item()

    metrics = {
        "loss": F.cross_entropy(logits, labels).item(),
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "f1": (f1[1] if num_classes == 2 else f1.mean()).item(),
        "calibration_error": calibration_error(logits),
    }
    return (
        metrics if temperature is None else metrics | {"calibration_error_scaled": calibration_error(logits / temperature)}
    )


def accuracy_by_length(texts: Sequence[str], correct: Tensor) -> dict[str, tuple[float, int]]:
    """Accuracy and number of texts in each bucket of lengths in words; empty buckets are left out.

    >>> accuracy_by_length(["good", "a b c d e f"], torch.tensor([True, False]))
    {'1-5': (1.0, 1), '6-10': (0.0, 1)}
    """
    bucket = torch.bucketize(torch.tensor([len(text.split()) for text in texts]), torch.tensor(WORD_BUCKETS))
    starts = [1, *(end + 1 for end in WORD_BUCKETS)]
    names = [*(f"{start}-{end}" for start, end in zip(starts, WORD_BUCKETS, strict=False)), f"{starts[-1]}+"]
    hits = {name: correct[bucket == i].double() for i, name in enumerate(names)}
    return {name: (hit.mean().item(), len(hit)) for name, hit in hits.items() if len(hit)}
