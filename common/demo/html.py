"""Tables and bars in HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from common.plots.figures import BLUE, ORANGE


class Markup(str):
    """Text that is HTML already."""


def table(header: Sequence[str], rows: Sequence[Sequence[object]], chosen: int | None = None) -> str:
    """Table whose cells are shown literally, but for `Markup`; the row `chosen` in bold."""
    lines = [row_of("th", header)]
    for number, row in enumerate(rows):
        lines.append(row_of("td", row, "chosen" if number == chosen else ""))
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def row_of(tag: str, cells: Sequence[object], css_class: str = "") -> str:
    """Row of a table."""
    texts = (cell if isinstance(cell, Markup) else html.escape(str(cell)) for cell in cells)
    return f'<tr class="{css_class}">{"".join(f"<{tag}>{text}</{tag}>" for text in texts)}</tr>'


def bar(fraction: float) -> Markup:
    """Bar of a fraction from 0 to 1, and its percentage."""
    percent = 100 * min(max(fraction, 0.0), 1.0)
    return Markup(f'<span class="bar"><i style="width:{percent:.1f}%"></i></span>{100 * fraction:.1f}&nbsp;%')


def probability_table(
    names: Sequence[str], columns: Mapping[str, Sequence[float]], top: int | None = None, name: str = "class"
) -> str:
    """Table of probabilities, a column for each of `columns`, most probable first by the last one; at most `top` rows."""
    *_, last = columns.values()
    order = sorted(range(len(names)), key=lambda i: -last[i])[:top]
    rows = [[names[i], *(bar(column[i]) for column in columns.values())] for i in order]
    return table([name, *columns], rows, chosen=0)


def attributed_words(words: Sequence[str], values: Sequence[float]) -> str:
    """Words colored by attribution, as in the plots: blue for the predicted class; orange, with a dashed edge, against it.

    The largest absolute attribution has the full color; the value, in logits, is shown under the pointer.
    """
    largest = max(map(abs, values), default=0.0) or 1.0
    spans = []
    for word, value in zip(words, values, strict=True):
        strength = value / largest
        color = f"color-mix(in srgb, {BLUE if value > 0 else ORANGE} {100 * abs(strength):.0f}%, transparent)"
        style = f"background: {color};" + (" color: white;" if abs(strength) > 0.6 else "")
        style += f" outline: 1px dashed {ORANGE};" if strength < -0.2 else ""
        spans.append(f'<span style="{style}" title="{value:+.2f}">{html.escape(word)}</span>')
    legend = "Integrated gradients: blue words speak for the predicted class, orange ones with a dashed edge against it."
    return f'<div class="words">{" ".join(spans)}</div><p>{legend}</p>'
