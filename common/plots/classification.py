"""Plots of a classifier: confusion matrix and reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.plots.figures import BLUE, GRAY, ORANGE, new_figure, save, style_axes

if TYPE_CHECKING:
    pass


def draw_confusion(counts: Tensor, class_names: Sequence[str], path: Path) -> Path:
    """A confusion matrix: row, the true class; column, the predicted one; cells, per cent of the row.

    Args:
        counts: (classes, classes) int, how many of row's class were taken for column's.
        class_names: in the order of the rows.
        path: the PNG to write.
    """
    share = 100 * counts.float() / counts.sum(1, keepdim=True).clamp(min=1)
    classes = len(class_names)
    figure, (axes,) = new_figure(1, 1, 1.8 + 0.52 * classes, 1.4 + 0.46 * classes)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for row in range(classes):
        for column in range(classes):
            value = share[row, column].item()
            if round(value) > 0:
                color = "white" if value > 50 else "#303030"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(classes), class_names, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(classes), class_names, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title("Confusion, % of each true class", fontsize=10)
    return save(figure, path)


def draw_calibration(confidence: Tensor, correct: Tensor, path: Path, bins: int = 15) -> Path:
    """A reliability diagram (Guo et al., arXiv 1706.04599): accuracy against confidence, and how often each occurs.

    Args:
        confidence: (n,) the probability of the predicted class.
        correct: (n,) bool, whether it was the right one.
        path: the PNG to write.
        bins: equal parts of [0, 1].
    """
    which = (confidence * bins).long().clamp(max=bins - 1)
    count = torch.bincount(which, minlength=bins).float()
    accuracy = torch.bincount(which, correct.float(), minlength=bins) / count.clamp(min=1)
    mean_confidence = torch.bincount(which, confidence.float(), minlength=bins) / count.clamp(min=1)
    error = ((accuracy - mean_confidence).abs() * count).sum() / count.sum()
    full = count > 0
    centers = (torch.arange(bins) + 0.5) / bins
    figure, (upper, lower) = new_figure(2, 1, 4.6, 2.4)
    upper.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle="--", label="perfectly calibrated")
    upper.plot(mean_confidence[full], accuracy[full], color=BLUE, marker="o", markersize=4, label="this model")
    upper.set_ylabel("accuracy")
    upper.set_title(f"Calibration: expected error {100 * error.item():.1f} points", fontsize=10)
    upper.legend(fontsize=8, frameon=False)
    lower.bar(centers, count / count.sum(), width=0.9 / bins, color=ORANGE)
    lower.set_xlabel("confidence")
    lower.set_ylabel("share of samples")
    for axes in (upper, lower):
        axes.set_xlim(0, 1)
        style_axes(axes)
    return save(figure, path)
