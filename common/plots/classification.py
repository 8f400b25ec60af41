"""Confusion matrix and reliability diagram of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.plots.figures import BLUE, GRAY, ORANGE, new_figure, save_figure, style_axes


def draw_confusion(counts: Tensor, class_names: Sequence[str], path: Path) -> Path:
    """Confusion matrix: row, the true class; column, the predicted one; cell, per cent of the row.

    Args:
        counts: Confusion matrix, (classes, classes) int.
        class_names: Names of the classes, in the order of the rows.
        path: PNG to write.
    """
    percent = 100 * counts.float() / counts.sum(1, keepdim=True).clamp(min=1)
    classes = len(class_names)
    figure, (axes,) = new_figure(1, 1, 1.8 + 0.52 * classes, 1.4 + 0.46 * classes)
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    for row, column in (percent.round() > 0).nonzero().tolist():
        value = percent[row, column].item()
        color = "white" if value > 50 else "#303030"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(classes), class_names, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(classes), class_names, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title("Confusion, % of each true class", fontsize=10)
    return save_figure(figure, path)


def draw_calibration(confidence: Tensor, correct: Tensor, path: Path, bins: int = 15) -> Path:
    """Reliability diagram (Guo et al., arXiv 1706.04599): accuracy against confidence, and how often each occurs.

    Args:
        confidence: Probability of the predicted class, (n,).
        correct: Whether the prediction is right, (n,) bool.
        path: PNG to write.
        bins: Number of equal parts of [0, 1].
    """
    which = (confidence * bins).long().clamp(max=bins - 1)
    count = torch.bincount(which, minlength=bins).float()
    accuracy = torch.bincount(which, correct.float(), minlength=bins) / count.clamp(min=1)
    mean_confidence = torch.bincount(which, confidence.float(), minlength=bins) / count.clamp(min=1)
    error = ((accuracy - mean_confidence).abs() * count).sum() / count.sum()
    filled = count > 0
    centers = (torch.arange(bins) + 0.5) / bins
    figure, (upper, lower) = new_figure(2, 1, 4.6, 2.4)
    upper.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle="--", label="perfectly calibrated")
    upper.plot(mean_confidence[filled], accuracy[filled], color=BLUE, marker="o", markersize=4, label="this model")
    upper.set_ylabel("accuracy")
    upper.set_title(f"Expected calibration error: {100 * error.item():.1f} points", fontsize=10)
    upper.legend(fontsize=8, frameon=False)
    lower.bar(centers, count / count.sum(), width=0.9 / bins, color=ORANGE)
    lower.set_xlabel("confidence")
    lower.set_ylabel("fraction of samples")
    for axes in (upper, lower):
        axes.set_xlim(0, 1)
        style_axes(axes)
    return save_figure(figure, path)
