"""Confusion matrix, most confused pairs and reliability diagram of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.plots.figures import BLUE, GRAY, TITLE_SIZE, add_legend, new_figure, save_figure, style_axes
from common.plots.text import fit_text, text_width

MAX_CONFUSION_CLASSES = 50  # of a matrix; of more classes the most confused pairs are plotted
MAX_CONFUSED_PAIRS = 40
MAX_NAME = 2.0  # inches of a class name
CELL_WIDTH, CELL_HEIGHT = 0.52, 0.46  # inches


def draw_confusion(predicted: Tensor, labels: Tensor, class_names: Sequence[str], path: Path, caption: str = "") -> Path:
    """Confusion matrix; of more than `MAX_CONFUSION_CLASSES` classes the most confused pairs as bars.

    Args:
        predicted: Predicted class of each sample, (n,) int.
        labels: True class of each sample, (n,) int.
        class_names: Name of each class.
        path: PNG to write.
        caption: Text below the plot.
    """
    classes = len(class_names)
    if classes > MAX_CONFUSION_CLASSES:
        return draw_confused_pairs(predicted, labels, class_names, path, caption)
    counts = torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)
    return draw_confusion_matrix(counts, class_names, path, caption)


def draw_confused_pairs(
    predicted: Tensor, labels: Tensor, class_names: Sequence[str], path: Path, caption: str = ""
) -> Path:
    """Most confused pairs of a true and a predicted class, as a bar chart of the number of samples."""
    wrong = predicted != labels
    pairs, counts = torch.stack([labels[wrong], predicted[wrong]], 1).unique(
        dim=0, return_counts=True
    )  # (pairs, 2), (pairs,)
    order = counts.argsort(descending=True, stable=True)[:MAX_CONFUSED_PAIRS]
    totals = torch.bincount(labels, minlength=len(class_names))
    figure, (axes,) = new_figure(1, 1, 8.0, 1.2 + 0.2 * max(1, len(order)))
    bars = axes.barh(range(len(order)), counts[order].tolist(), height=0.7, color=BLUE)
    percent = 100 * counts[order] / totals[pairs[order, 0]]
    axes.bar_label(bars, [f"{value:.0f} %" for value in percent.tolist()], fontsize=7, padding=2)
    names = [" as ".join(fit_text(class_names[i], MAX_NAME, 7) for i in pair) for pair in pairs[order].tolist()]
    axes.set_yticks(range(len(order)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("misclassified samples", fontsize=9)
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    axes.tick_params(axis="x", labelsize=8)
    axes.margins(x=0.1, y=0.02)
    title = f"Most confused of {len(class_names)} classes: true class as predicted class, and % of the true class"
    figure.suptitle(title, fontsize=TITLE_SIZE)
    style_axes(axes)
    axes.grid(axis="y", visible=False)
    return save_figure(figure, path, caption)


def draw_confusion_matrix(counts: Tensor, class_names: Sequence[str], path: Path, caption: str = "") -> Path:
    """Confusion matrix: row, the true class; column, the predicted one; cell, per cent of the row.

    A class without samples has no row, and without predictions too no column.

    Args:
        counts: Confusion matrix, (classes, classes) int.
        class_names: Names of the classes, in the order of the rows.
        path: PNG to write.
        caption: Text below the matrix.
    """
    names = [fit_text(name, MAX_NAME, 8) for name in class_names]
    longest = max(text_width(name, 8) for name in names)
    rows = counts.sum(1).nonzero().flatten().tolist()
    columns = (counts.sum(0) + counts.sum(1)).nonzero().flatten().tolist()
    percent = 100 * counts.float() / counts.sum(1, keepdim=True).clamp(min=1)
    percent = percent[rows][:, columns]
    width = max(4.2, 0.8 + longest + CELL_WIDTH * len(columns))
    figure, (axes,) = new_figure(1, 1, width, 1.0 + 0.7 * longest + CELL_HEIGHT * len(rows))
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    for row, column in (percent.round() > 0).nonzero().tolist():
        value = percent[row, column].item()
        color = "white" if value > 50 else "#303030"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(columns)), [names[i] for i in columns], rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), [names[i] for i in rows], fontsize=8)
    axes.set_xlabel("predicted class", fontsize=9)
    axes.set_ylabel("true class", fontsize=9)
    accuracy = 100 * counts.diagonal().sum().item() / max(1, counts.sum().item())
    absent = len(class_names) - len(rows)
    note = f"\n({absent} of {len(class_names)} classes have no sample)" if absent else ""
    figure.suptitle(f"Confusion, % of each true class; accuracy {accuracy:.1f} %{note}", fontsize=TITLE_SIZE)
    return save_figure(figure, path, caption)


def draw_calibration(confidence: Tensor, correct: Tensor, path: Path, bins: int = 15, caption: str = "") -> Path:
    """Reliability diagram (Guo et al., arXiv 1706.04599): accuracy against confidence, and how often each occurs.

    Args:
        confidence: Probability of the predicted class, (n,).
        correct: Whether the prediction is right, (n,) bool.
        path: PNG to write.
        bins: Number of equal parts of [0, 1].
        caption: Text below the diagram.
    """
    which = (confidence * bins).long().clamp(max=bins - 1)
    count = torch.bincount(which, minlength=bins).float()
    accuracy = torch.bincount(which, correct.float(), minlength=bins) / count.clamp(min=1)
    mean_confidence = torch.bincount(which, confidence.float(), minlength=bins) / count.clamp(min=1)
    error = ((accuracy - mean_confidence).abs() * count).sum() / count.sum()
    filled = count > 0
    centers = (torch.arange(bins) + 0.5) / bins
    figure, (upper, lower) = new_figure(2, 1, 4.6, 2.2)
    upper.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle="--", label="perfectly calibrated")
    upper.plot(mean_confidence[filled], accuracy[filled], color=BLUE, marker="o", markersize=4, label="mean of a bin")
    upper.set_ylabel("accuracy", fontsize=9)
    upper.set_ylim(-0.03, 1.03)
    title = f"Accuracy by confidence; calibration error {100 * error.item():.1f} points"
    upper.set_title(title, fontsize=TITLE_SIZE)
    add_legend(upper, fontsize=8)
    lower.bar(centers, count / count.sum(), width=0.9 / bins, color=BLUE)
    lower.set_xlabel("confidence: probability of the predicted class", fontsize=9)
    lower.set_ylabel("fraction of samples", fontsize=9)
    for axes in (upper, lower):
        axes.set_xlim(0, 1)
        axes.tick_params(labelsize=8)
        style_axes(axes)
    return save_figure(figure, path, caption)
