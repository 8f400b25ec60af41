"""What every picture begins and ends with. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GRAY = "#2a6fbb", "#e07b39", "#8a8f98"


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `rows` x `columns` axes of `width` x `height` inches each. Needs no display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), dpi=130, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def new_image_grid(rows: int, columns: int, width: float, height: float, above: float = 0.0) -> tuple[Figure, list[Axes]]:
    """The same for bare pictures, with `above` inches over each for a title; quick, as no layout has to be worked out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), dpi=130)
    gap = 0.06  # inches
    places = {
        "left": gap / (columns * width),
        "right": 1 - gap / (columns * width),
        "top": 1 - above / (rows * height),
        "bottom": gap / (rows * height),
        "wspace": gap / (width - gap),
        "hspace": above / (height - above),
    }
    tiles = list(figure.subplots(rows, columns, squeeze=False, gridspec_kw=places).flat)
    for axes in tiles:
        axes.set_axis_off()
    return figure, tiles


def save(figure: Figure, path: Path) -> Path:
    """Writes the PNG `path`, and the folders that it is to be in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def style_axes(axes: Axes) -> None:
    """Takes away the frame's upper and right side; adds a faint grid."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
