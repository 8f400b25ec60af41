"""Matplotlib figures: creation, image grids, style, saving, and errors. Needs no torch and no display."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import one_line
from common.io.ranks import print_rank_zero
from common.plots.text import DPI, font_families, missing_glyphs_ignored, wrap_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Okabe and Ito's colors, which readers with any color vision tell apart, without their yellow, which is faint on white
COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"]
BLUE, ORANGE = COLORS[:2]
GRAY = "#6f747c"
LINE_STYLES = ["-", "--", ":"]
MAX_PIXELS = 2**25  # of a PNG: 128 MiB while it is rendered
MAX_PIXELS_PER_SIDE = 2**15  # matplotlib refuses 2**16
MAX_LINES = len(COLORS) * len(LINE_STYLES)  # that look different: neither number divides the other
TITLE_SIZE, CAPTION_SIZE = 10, 7  # points
CAPTION_LINE = 0.14  # inches


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Figure with `rows` x `columns` axes of `width` x `height` inches each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), dpi=DPI, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def new_image_grid(
    rows: int, columns: int, width: float, height: float, above: float = 0.0, title: str = "", caption: str = ""
) -> tuple[Figure, list[Axes]]:
    """Figure for bare images, with `above` inches over each for a title; quick, as no layout has to be computed.

    Args:
        rows: Rows of images.
        columns: Columns of images.
        width: Inches of a column.
        height: Inches of a row.
        above: Inches of a row that are left free for a title.
        title: Title of the figure.
        caption: Text below the images, which `save_figure` writes.
    """
    from matplotlib.figure import Figure

    total_width, gap = columns * width, 0.06  # inches
    title = wrap_text(title, total_width - 2 * gap, TITLE_SIZE)
    header, footer = 0.2 * len(title.splitlines()), gap + caption_height(caption, total_width)
    total_height = header + rows * height + footer
    figure = Figure(figsize=(total_width, total_height), dpi=DPI)
    figure.suptitle(title, fontsize=TITLE_SIZE, y=1 - 0.04 / total_height, va="top")
    margins = {
        "left": gap / total_width,
        "right": 1 - gap / total_width,
        "top": 1 - (header + above) / total_height,
        "bottom": footer / total_height,
        "wspace": gap / (width - gap),
        "hspace": above / (height - above),
    }
    tiles = list(figure.subplots(rows, columns, squeeze=False, gridspec_kw=margins).flat)
    for axes in tiles:
        axes.set_axis_off()
    return figure, tiles


def wrap_caption(caption: str, width: float) -> str:
    """Caption in lines for a figure of `width` inches."""
    return "\n".join(wrap_text(line, width - 0.1, CAPTION_SIZE) for line in caption.splitlines())


def caption_height(caption: str, width: float) -> float:
    """Inches that the caption of a figure of `width` inches takes."""
    return CAPTION_LINE * len(wrap_caption(caption, width).splitlines()) + 0.06


def save_figure(figure: Figure, path: Path, caption: str = "") -> Path:
    """Writes the PNG `path`, with `caption` below all else, and makes its folder.

    Text is shown literally: names of classes, runs and files may contain `$`; and in fonts that have its characters. A large
    figure gets fewer dots per inch, so that memory is bounded.
    """
    from matplotlib.text import Text

    if caption:
        _add_caption(figure, caption)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        if not text.get_text().isascii():
            text.set_fontfamily(font_families(text.get_text()))
    width, height = figure.get_size_inches()
    max_dpi = min((MAX_PIXELS / (width * height)) ** 0.5, MAX_PIXELS_PER_SIDE / max(width, height))
    figure.set_dpi(min(figure.dpi, max_dpi))
    path.parent.mkdir(parents=True, exist_ok=True)
    with missing_glyphs_ignored():
        figure.savefig(path)
    return path


def _add_caption(figure: Figure, caption: str) -> None:
    """Writes `caption` at the lower edge; a figure with a layout engine grows by its height, others have left it free."""
    width, height = figure.get_size_inches()
    if engine := figure.get_layout_engine():
        below = caption_height(caption, width)
        height += below
        figure.set_size_inches(width, height)
        engine.set(rect=(0, below / height, 1, 1 - below / height))  # type: ignore[call-arg]
    x, y = 0.05 / width, 0.04 / height
    figure.text(x, y, wrap_caption(caption, width), va="bottom", fontsize=CAPTION_SIZE, color=GRAY)


@contextmanager
def report_plot_errors(name: str) -> Iterator[None]:
    """Context, and decorator, in which an exception costs the plot `name` and one printed line, but not the run."""
    try:
        yield
    except Exception as error:
        print_rank_zero(f"{name}: not drawn: {one_line(error, 200)}")


def line_styles(count: int) -> list[dict[str, Any]]:
    """Color and line style of each of `count` lines: `MAX_LINES` different ones, then thin and gray, behind the others."""
    styles: list[dict[str, Any]] = [
        {"color": COLORS[i % len(COLORS)], "linestyle": LINE_STYLES[i % len(LINE_STYLES)], "linewidth": 1.4}
        for i in range(MAX_LINES)
    ]
    return (styles + [{"color": GRAY, "linewidth": 0.6, "zorder": 1}] * count)[:count]


def add_legend(axes: Axes, lines: Sequence[Line2D] | None = None, **options: Any) -> None:
    """Legend of `lines`, by default of all in `axes`; of many the first `MAX_LINES`, and the number of the others.

    Matplotlib alone would leave out labels that begin with `_`, as names from outside may.
    """
    from matplotlib.lines import Line2D

    lines = list(axes.get_lines() if lines is None else lines)
    labels = [str(line.get_label()) for line in lines]
    if len(lines) > MAX_LINES:
        labels = [*labels[:MAX_LINES], f"and {len(lines) - MAX_LINES} more"]
        lines = [*lines[:MAX_LINES], Line2D([], [], color=GRAY)]
    axes.legend(lines, labels, frameon=False, **options)


def style_axes(axes: Axes) -> None:
    """Style of the project: no upper and right spine, a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
