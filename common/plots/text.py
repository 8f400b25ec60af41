"""Texts with colored words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from common.plots.figures import BLUE, GRAY, ORANGE, save

if TYPE_CHECKING:
    pass


def draw_texts(rows: Sequence[tuple[str, Sequence[str], Tensor]], path: Path, width: float = 8.0) -> Path:
    """Texts whose words are coloured: blue speaks for what stands above the text, orange against it.

    Args:
        rows: for each text what stands above it, its words, and the words' values (words,); the largest value of a text,
            whatever its sign, has the full colour.
        path: the PNG to write.
        width: of the picture, in inches; longer texts go on in the next line.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    dpi, font, margin, gap, line = 130, FontProperties(size=10), 16.0, 9.0, 27.0  # pixels but for dpi and the font
    figure = Figure(dpi=dpi)
    renderer = FigureCanvasAgg(figure).get_renderer()
    colors = LinearSegmentedColormap.from_list("signed", [ORANGE, "#ffffff", BLUE])
    words: list[tuple[float, float, str, dict[str, Any]]] = []  # pixels from the left and from the top, what, and how
    y = margin
    for title, row_words, values in rows:
        words.append((margin, y, title, {"fontsize": 9, "color": "#505560", "fontweight": "bold"}))
        x, y = margin, y + 0.9 * line
        largest = float(values.abs().max()) if len(values) else 0.0
        for word, value in zip(row_words, values.tolist(), strict=True):
            shown = word.replace("$", r"\$")  # else matplotlib would read formulas
            extent, _, _ = renderer.get_text_width_height_descent(shown, font, False)
            if x > margin and x + extent > width * dpi - margin:
                x, y = margin, y + line
            color = colors(0.5 + 0.5 * value / largest if largest else 0.5)
            dark = sum(color[:3]) < 1.6
            box = {"facecolor": color, "edgecolor": "none", "pad": 2.5}
            words.append((x, y, shown, {"fontproperties": font, "bbox": box, "color": "white" if dark else "#202020"}))
            x += extent + gap
        y += 1.5 * line
    legend = "colour: how much a word speaks for (blue) or against (orange) what stands above the text"
    words.append((margin, y, legend, {"fontsize": 8, "color": GRAY}))
    height = y + line
    figure.set_size_inches(width, height / dpi)
    for x, y, text, how in words:
        figure.text(x / (width * dpi), 1 - y / height, text, va="top", **how)
    return save(figure, path)
