"""Bar charts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.plots.figures import BLUE, new_figure, save_figure, style_axes


def draw_bars(values: dict[str, float], captions: Sequence[str], title: str, x_label: str, y_label: str, path: Path) -> Path:
    """Bar chart: a bar for each entry of `values`, with its value above it, and its name and caption below it."""
    figure, (axes,) = new_figure(1, 1, 1.4 + 0.9 * len(values), 3.2)
    bars = axes.bar(range(len(values)), list(values.values()), width=0.7, color=BLUE)
    axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    labels = [f"{name}\n{caption}" for name, caption in zip(values, captions, strict=True)]
    axes.set_xticks(range(len(values)), labels, fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)
    axes.tick_params(labelsize=8)
    style_axes(axes)
    axes.grid(axis="x", visible=False)
    return save_figure(figure, path)
