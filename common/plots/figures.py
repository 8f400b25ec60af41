"""Matplotlib figures: creation, image grids, style, saving. Needs no torch and no display."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GRAY = "#2a6fbb", "#e07b39", "#8a8f98"


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Figure with `rows` x `columns` axes of `width` x `height` inches each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), dpi=130, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def new_image_grid(rows: int, columns: int, width: float, height: float, above: float = 0.0) -> tuple[Figure, list[Axes]]:
    """Figure for bare images, with `above` inches over each for a title; quick, as no layout has to be computed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), dpi=130)
    gap = 0.06  # inches
    margins = {
        "left": gap / (columns * width),
        "right": 1 - gap / (columns * width),
        "top": 1 - above / (rows * height),
        "bottom": gap / (rows * height),
        "wspace": gap / (width - gap),
        "hspace": above / (height - above),
    }
    tiles = list(figure.subplots(rows, columns, squeeze=False, gridspec_kw=margins).flat)
    for axes in tiles:
        axes.set_axis_off()
    return figure, tiles


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes the PNG `path`, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def style_axes(axes: Axes) -> None:
    """Style of the project: no upper and right spine, a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
