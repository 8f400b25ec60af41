"""Matplotlib figures: creation, image grids, style, saving, and errors. Needs no torch and no display."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import one_line
from common.io.ranks import print_rank_zero

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

BLUE, ORANGE, GRAY = "#2a6fbb", "#e07b39", "#8a8f98"
MAX_PIXELS = 2**25  # of a PNG: 128 MiB while it is rendered
MAX_PIXELS_PER_SIDE = 2**15  # matplotlib refuses 2**16
MAX_COLORS = 20  # of lines of different colors


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
    """Writes the PNG `path`, and makes its folder.

    Text is shown literally: names of classes, runs and files may contain `$`. A large figure gets fewer dots per inch,
    so that memory is bounded.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    width, height = figure.get_size_inches()
    max_dpi = min((MAX_PIXELS / (width * height)) ** 0.5, MAX_PIXELS_PER_SIDE / max(width, height))
    figure.set_dpi(min(figure.dpi, max_dpi))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


@contextmanager
def report_plot_errors(name: str) -> Iterator[None]:
    """Context, and decorator, in which an exception costs the plot `name` and one printed line, but not the run."""
    try:
        yield
    except Exception as error:
        print_rank_zero(f"{name}: not drawn: {one_line(error, 200)}")


def line_colors(count: int) -> list[str]:
    """Color of each of `count` lines: `MAX_COLORS` different ones, then gray."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    colors = [to_hex(color) for color in colormaps["tab10" if count <= 10 else "tab20"].colors]  # type: ignore[attr-defined]
    return (colors + [GRAY] * count)[:count]


def add_legend(axes: Axes, lines: Sequence[Line2D] | None = None, **options: Any) -> None:
    """Legend of `lines`, by default of all in `axes`; of many the first `MAX_COLORS`, and the number of the others.

    Matplotlib alone would leave out labels that begin with `_`, as names from outside may.
    """
    from matplotlib.lines import Line2D

    lines = list(axes.get_lines() if lines is None else lines)
    labels = [str(line.get_label()) for line in lines]
    if len(lines) > MAX_COLORS:
        labels = [*labels[:MAX_COLORS], f"and {len(lines) - MAX_COLORS} more"]
        lines = [*lines[:MAX_COLORS], Line2D([], [], color=GRAY)]
    axes.legend(lines, labels, frameon=False, **options)


def style_axes(axes: Axes) -> None:
    """Style of the project: no upper and right spine, a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
