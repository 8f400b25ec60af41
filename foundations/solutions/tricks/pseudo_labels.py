"""Pseudo-labels: what a model is sure of becomes training data

Unlabeled data is cheap. A model's confident guesses about it may teach the next model, if the choice is honest.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Predictor = Callable[[Tensor], Tensor]
Samples = tuple[Tensor, Tensor]


def confident_labels(logits: Tensor, threshold: float) -> Samples:
    """Rows whose largest probability is at least `threshold`, and the class of each.

    Args:
        logits: (N, C), maybe with a graph.
        threshold: Between 0 and 1.

    Returns:
        Indices (K,) int64 in ascending order, and labels (K,) int64.

    Example:
        Probabilities [[0.9, 0.1], [0.4, 0.6]] and 0.8 give [0] and [0].
    """
    confidence, labels = logits.softmax(1).max(1)
    index = (confidence >= threshold).nonzero().flatten()
    return index, labels[index]


def pseudo_label_loss(student_logits: Tensor, teacher_logits: Tensor, threshold: float) -> Tensor:
    """Cross-entropy of the student with the teacher's probabilities as targets, the mean over the rows where the teacher is
    confident.

    The gradient goes to the student alone.

    Args:
        student_logits: (N, C).
        teacher_logits: (N, C), maybe with a graph.
        threshold: Least largest probability of the teacher in a row that counts.

    Returns:
        A number (), 0 with a gradient of 0 where no row counts.
    """
    index, _ = confident_labels(teacher_logits, threshold)
    targets = teacher_logits.detach().softmax(1)
    losses = torch.nn.functional.cross_entropy(student_logits, targets, reduction="none")
    return losses[index].sum() / max(len(index), 1)


def self_train(
    fit: Callable[[Tensor, Tensor], Predictor],
    train: Samples,
    validation: Samples,
    test: Samples,
    unlabeled: Tensor,
    thresholds: Sequence[float],
) -> tuple[float, float]:
    """Trains a teacher on `train`, and for each threshold a student on `train` and the teacher's confident labels.

    The model with the best accuracy on `validation` is chosen, the teacher included; of equally good ones the teacher, then
    the student of the threshold that comes first. Only the chosen model sees the test.

    Args:
        fit: Trains a new model on inputs and labels; returns a function from inputs (N, ...) to logits (N, C).
        train: Inputs (N, ...) and labels (N,).
        validation: Inputs and labels.
        test: Inputs and labels.
        unlabeled: Inputs.
        thresholds: For `confident_labels`.

    Returns:
        The chosen threshold, `math.inf` for the teacher, and the chosen model's accuracy on the test.
    """
    known, truth = train
    teacher = fit(known, truth)
    logits = teacher(unlabeled)
    best, chosen, model = _accuracy(teacher, validation), math.inf, teacher
    for threshold in thresholds:
        index, labels = confident_labels(logits, threshold)
        student = fit(torch.cat([known, unlabeled[index]]), torch.cat([truth, labels]))
        score = _accuracy(student, validation)
        if score > best:
            best, chosen, model = score, threshold, student
    return chosen, _accuracy(model, test)


def _accuracy(model: Predictor, samples: Samples) -> float:
    inputs, labels = samples
    return (model(inputs).argmax(1) == labels).float().mean().item()
