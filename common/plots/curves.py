"""Training curves: every logged metric of a run against its steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.plots.figures import BLUE, ORANGE, add_legend, line_colors, new_figure, save_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = tuple[tuple[float, ...], tuple[float, ...]]  # steps and values


def draw_curves(rows: list[dict[str, float]], path: Path) -> Path | None:
    """Training curves: training and validation metrics of a name in one panel, then one for each further group.

    Args:
        rows: Rows of `metrics.csv`, see `common.io.metrics.read_metrics`.
        path: PNG to write. None is returned, and nothing written, if there is nothing to plot.
    """
    panels: dict[str, list[str]] = {}
    for name in sorted({key for row in rows for key in row if not key.startswith("test/")} - {"step", "epoch"}):
        panels.setdefault(_panel_title(name), []).append(name)
    if not panels:
        return None
    columns = min(3, len(panels))
    figure, all_axes = new_figure(-(-len(panels) // columns), columns, 4.2, 2.9)
    order = sorted(panels, key=lambda title: (not any(n.startswith(("train/", "val/")) for n in panels[title]), title))
    for axes, title in zip(all_axes, order, strict=False):
        _draw_panel(axes, title, panels[title], rows)
    for axes in all_axes[len(order) :]:
        axes.set_visible(False)
    return save_figure(figure, path)


def _panel_title(name: str) -> str:
    group, _, rest = name.partition("/")
    if group in ("train", "val"):
        return rest.replace("_", " ")
    if group == "act":
        return f"fraction of {rest.partition('/')[0]} units"
    return "learning rate / its maximum" if name.startswith("lr-") else name.replace("_", " ")


def _draw_panel(axes: Axes, title: str, names: list[str], rows: list[dict[str, float]]) -> None:
    """Curves of the metrics `names` in one panel; equal ones are one line, as learning rates of one schedule are."""
    curves: dict[Curve, list[str]] = {}
    for name in names:
        curves.setdefault(_curve(rows, name), []).append(name)
    colors = line_colors(len(curves))
    for color, ((steps, values), (name, *equal)) in zip(colors, curves.items(), strict=True):
        style: dict[str, Any] = {"linewidth": 1.3, "color": color}
        if name.startswith("train/"):
            style.update(color=BLUE, alpha=0.8)
        elif name.startswith("val/"):
            style.update(color=ORANGE, marker="o", markersize=3)
        more = f" and {len(equal)} more" if equal else ""
        axes.plot(steps, values, label=_curve_label(name) + more, **style)
    if title.startswith("fraction of"):
        axes.set_ylim(-0.02, max(0.2, axes.get_ylim()[1]))  # a line at 0 is at the bottom
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    style_axes(axes)
    if len(curves) > 1 or title == "loss":
        add_legend(axes, fontsize=6 if len(curves) > 4 else 8)


def _curve(rows: list[dict[str, float]], name: str) -> Curve:
    """Steps and values of a metric; a learning rate as a fraction of its maximum."""
    steps, values = zip(*[(row["step"], row[name]) for row in rows if name in row], strict=True)
    if name.startswith("lr-"):
        highest = max(values) or 1.0
        values = tuple(round(value / highest, 9) for value in values)
    return steps, values


def _curve_label(name: str) -> str:
    if name.startswith("act/"):
        return name.split("/", 2)[2]
    return name.rpartition("/")[2] if name.startswith("lr-") else name.partition("/")[0]
