"""Evaluate: the loss and the accuracy of a whole data set

Training stops for a moment and looks. The number must not depend on how the data is cut into batches, and the look must
leave no trace.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of a classifier over all samples, in evaluation mode and without a graph.

    Afterwards everything is as it was: the mode of the model and of each module in it, which may differ, and whether
    gradients are recorded.

    Args:
        model: Network: inputs (B, ...) -> logits (B, K).
        batches: Pairs of inputs (B, ...) and labels (B,) int64, each taken once. Sizes may differ; a batch may be empty.

    Returns:
        Mean loss and accuracy, as Python floats.

    Example:
        A batch of 3 samples with a mean loss of 1 and a batch of 1 sample with the loss 3 make a mean loss of 1.5.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    loss, correct, count = 0.0, 0, 0
    with torch.no_grad():
        for inputs, labels in batches:
            logits = model(inputs)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(1) == labels).sum())
            count += len(labels)
    for module, mode in modes.items():
        module.training = mode
    return loss / count, correct / count
