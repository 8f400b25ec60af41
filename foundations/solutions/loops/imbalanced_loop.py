"""Imbalanced loop: three positives in a hundred

Always saying no is right 97 times of 100. So the loss, the metric and the threshold all have to be chosen on purpose.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def f1_score(scores: Tensor, labels: Tensor, threshold: float) -> float:
    """F1 of the predictions `scores >= threshold`: 2 TP / (2 TP + FP + FN), and 0 if nothing is positive.

    Args:
        scores: (N,) float.
        labels: (N,) int64, 0 or 1.
        threshold: Least score of a positive prediction.

    Example:
        scores = [0.1, 0.6, 0.9], labels = [0, 0, 1] and threshold = 0.5 give 2 / (2 + 1 + 0) = 0.667
    """
    predicted, actual = scores >= threshold, labels == 1
    positives = predicted.sum() + actual.sum()
    return (2 * (predicted & actual).sum() / positives).item() if positives else 0.0


def best_threshold(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """Threshold, one of the scores, with the highest F1 on these samples, and that F1.

    Example:
        scores = [0.1, 0.6, 0.9], labels = [0, 0, 1] give (0.9, 1.0), up to rounding
    """
    f1, threshold = max((f1_score(scores, labels, score), score) for score in scores.tolist())
    return threshold, f1


def train_imbalanced(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    val_inputs: Tensor,
    val_labels: Tensor,
    epochs: int,
    batch_size: int,
    seed: int,
) -> tuple[list[float], float]:
    """Trains with as much weight on all positives as on all negatives; ends with the weights of the best epoch.

    The balance is in the loss (a weight for each positive) or in the batches (a sampler that draws positives more often):
    as you like. Negatives are not thrown away. Validation is as imbalanced as it is, in its F1 at the best threshold. Orders
    or draws, modes and the end are those of `train_images`; the best epoch has the highest F1.

    Args:
        model: Inputs (B, D) to logits (B, 1) of being positive.
        optimizer: Optimizer of the model's parameters, which has made no step.
        inputs: (N, D) float.
        labels: (N,) int64, 0 or 1, few of them 1.
        val_inputs: (M, D) float.
        val_labels: (M,) int64.
        epochs: Number of epochs, at least 1.
        batch_size: Samples of a step; the last batch may be short.
        seed: The orders depend on it alone, not on torch's global generator: the same seed, the same orders.

    Returns:
        The highest F1 on the validation data after each epoch, and the threshold on the probability in the best epoch.

    Example:
        With 97 negatives and 3 positives a positive weighs 97 / 3 times as much as a negative.
    """
    rng = torch.Generator().manual_seed(seed)
    pos_weight = (labels == 0).sum() / (labels == 1).sum()
    history: list[float] = []
    for _ in range(epochs):
        model.train()
        for index in torch.randperm(len(inputs), generator=rng).split(batch_size):
            logits, targets = model(inputs[index])[:, 0], labels[index].float()
            loss = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            probabilities = torch.cat([model(batch) for batch in val_inputs.split(batch_size)])[:, 0].sigmoid()
        threshold, f1 = best_threshold(probabilities, val_labels)
        history.append(f1)
        if f1 == max(history):
            best, chosen = copy.deepcopy(model.state_dict()), threshold
    model.load_state_dict(best)
    return history, chosen


def evaluate(model: nn.Module, inputs: Tensor, labels: Tensor, threshold: float) -> float:
    """F1 on data that had no part in any choice, at a threshold on the probability; in evaluation mode, without a graph.

    Args:
        model: Inputs (B, D) to logits (B, 1).
        inputs: (N, D) float.
        labels: (N,) int64, 0 or 1.
        threshold: Least probability of a positive prediction, chosen on the validation data.
    """
    model.eval()
    with torch.no_grad():
        return f1_score(model(inputs)[:, 0].sigmoid(), labels, threshold)
