"""Bar charts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.plots.figures import BLUE, TITLE_SIZE, new_figure, save_figure, style_axes
from common.plots.text import fit_text, wrap_text

BAR, MIN_WIDTH = 0.9, 4.2  # inches: of a bar with its label; of a chart


def draw_bars(
    values: dict[str, float], captions: Sequence[str], title: str, x_label: str, y_label: str, path: Path, caption: str = ""
) -> Path:
    """Bar chart: a bar for each entry of `values`, with its value above it, and its name and caption below it."""
    width = max(MIN_WIDTH, 1.4 + BAR * len(values))
    figure, (axes,) = new_figure(1, 1, width, 3.2)
    bars = axes.bar(range(len(values)), list(values.values()), width=0.7, color=BLUE)
    axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    names = zip(values, captions, strict=True)
    labels = ["\n".join(fit_text(line, 0.9 * BAR, 8) for line in lines) for lines in names]
    axes.set_xticks(range(len(values)), labels, fontsize=8)
    axes.set_title(wrap_text(title, width - 1.0, TITLE_SIZE), fontsize=TITLE_SIZE)
    axes.set_xlabel(fit_text(x_label, width - 1.0, 9), fontsize=9)
    axes.set_ylabel(fit_text(y_label, 2.2, 9), fontsize=9)
    axes.tick_params(labelsize=8)
    axes.margins(y=0.1)
    style_axes(axes)
    axes.grid(axis="x", visible=False)
    return save_figure(figure, path, caption)
