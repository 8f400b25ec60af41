"""Training curves: the logged metrics of a run against its steps, the monitored one first."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.plots.figures import (
    BLUE,
    GRAY,
    ORANGE,
    TITLE_SIZE,
    add_legend,
    line_styles,
    new_figure,
    save_figure,
    style_axes,
)
from common.plots.text import fit_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = tuple[tuple[float, ...], tuple[float, ...]]  # steps and values
WIDTH, HEIGHT = 4.2, 2.9  # inches of a panel
MAX_GROUP_LINES = 4  # of a group of layers or of parameters; the other lines are thin and gray
NOT_PLOTTED = ("perf/step_seconds",)  # the throughput of the same steps says as much
TITLES = {"grad": "gradient norm", "perf/samples_per_second": "throughput"}
UNITS = {"throughput": "samples per second", "learning rate": "fraction of its maximum"}


def draw_curves(
    rows: list[dict[str, float]],
    path: Path,
    monitor: str | None = None,
    steps_per_epoch: float | None = None,
    caption: str = "",
) -> Path | None:
    """Training curves: training and validation metrics of a name in one panel, then one for each further group.

    A panel of constants is left out; the caption has their values.

    Args:
        rows: Rows of `metrics.csv`, see `common.io.metrics.read_metrics`.
        path: PNG to write. None is returned, and nothing written, if there is nothing to plot.
        monitor: Monitored metric, which comes first; the loss is next.
        steps_per_epoch: Steps of an epoch, for an axis of epochs above each panel.
        caption: Text below the panels.
    """
    names = {key for row in rows for key in row if not key.startswith("test/")} - {"step", "epoch", *NOT_PLOTTED}
    panels: dict[str, dict[str, Curve]] = {}
    for name in sorted(names):
        panels.setdefault(_panel_title(name), {})[name] = _curve(rows, name)
    constant = {title: curves for title, curves in panels.items() if monitor not in curves and _is_constant(curves)}
    order = sorted(panels.keys() - constant.keys(), key=lambda title: _panel_order(title, panels[title], monitor))
    if not order:
        return None
    columns = min(3, len(order))
    figure, all_axes = new_figure(-(-len(order) // columns), columns, WIDTH, HEIGHT)
    end = max(steps[-1] for title in order for steps, _ in panels[title].values())
    for axes, title in zip(all_axes, order, strict=False):
        _draw_panel(axes, title, panels[title])
        _draw_steps(axes, end, steps_per_epoch)
    for axes in all_axes[len(order) :]:
        axes.set_visible(False)
    if constant:
        values = ", ".join(f"{title} {_value_range(curves)}" for title, curves in sorted(constant.items()))
        caption = "\n".join(filter(None, [caption, f"constant, without a panel: {values}"]))
    return save_figure(figure, path, caption)


def _panel_title(name: str) -> str:
    group, _, rest = name.partition("/")
    if group in ("train", "val"):
        return rest.replace("_", " ")
    if group == "act":
        return f"fraction of {rest.partition('/')[0]} units"
    if name.startswith("lr-"):
        return "learning rate"
    return TITLES.get(group) or TITLES.get(name, name.replace("_", " "))


def _panel_order(title: str, curves: dict[str, Curve], monitor: str | None) -> tuple[bool, bool, bool, bool, str]:
    """Sort key of a panel: the monitored metric, the loss, other metrics of validation, those of training, and all else."""
    splits = {name.partition("/")[0] for name in curves}
    return monitor not in curves, title != "loss", "val" not in splits, "train" not in splits, title


def _is_constant(curves: dict[str, Curve]) -> bool:
    return all(len(values) > 1 and len(set(values)) == 1 for _, values in curves.values())


def _value_range(curves: dict[str, Curve]) -> str:
    values = sorted({values[0] for _, values in curves.values()})
    return f"{values[0]:.4g}" + (f" to {values[-1]:.4g}" if len(values) > 1 else "")


def _draw_panel(axes: Axes, title: str, curves: dict[str, Curve]) -> None:
    """Curves in one panel; equal ones are one line, as learning rates of one schedule are."""
    equal: dict[Curve, list[str]] = {}
    for name, (steps, values) in curves.items():
        highest = (max(values) or 1.0) if title == "learning rate" else None
        equal.setdefault((steps, tuple(round(v / highest, 9) for v in values) if highest else values), []).append(name)
    lines = [(steps, values, members) for (steps, values), members in equal.items()]
    styles = line_styles(len(lines))
    if len(lines) > MAX_GROUP_LINES:  # the highest ones are worth a look: dead layers, the steepest schedules
        lines.sort(key=lambda line: -max(line[1]))
        styles[MAX_GROUP_LINES:] = [{"color": "#b4b8be", "linewidth": 0.7, "zorder": 1}] * (len(lines) - MAX_GROUP_LINES)
    for (steps, values, (name, *others)), style in zip(lines, styles, strict=True):
        if name.startswith("val/"):
            style = {"color": ORANGE, "linewidth": 1.4, "marker": "o", "markersize": 3}
        elif name.startswith("train/"):
            style = {"color": BLUE, "linewidth": 1.2}
        style |= {"marker": "o", "markersize": 4} if len(steps) == 1 else {}
        label = _curve_label(name) + (f" and {len(others)} more" if others else "")
        axes.plot(steps, values, label=fit_text(label, 0.6 * WIDTH, 8), **style)
    if title.startswith("fraction of"):
        axes.set_ylim(-0.02, max(0.2, axes.get_ylim()[1]))  # a line at 0 is at the bottom
    if len(lines) > MAX_GROUP_LINES:
        more = sum(len(members) for _, _, members in lines[MAX_GROUP_LINES:])
        axes.get_lines()[MAX_GROUP_LINES].set_label(f"{more} others")
    axes.set_title(fit_text(title, WIDTH - 0.4, TITLE_SIZE), fontsize=TITLE_SIZE)
    axes.set_ylabel(UNITS.get(title, ""), fontsize=8)
    axes.tick_params(labelsize=8)
    style_axes(axes)
    if len(lines) > 1 or next(iter(curves)).startswith(("train/", "val/")):
        add_legend(axes, axes.get_lines()[: MAX_GROUP_LINES + 1], fontsize=8)


def _draw_steps(axes: Axes, end: float, steps_per_epoch: float | None) -> None:
    """Axis of the steps up to `end`, the same in each panel, and above it that of the epochs, if there is more than one."""
    axes.set_xlim(-0.02 * end, 1.03 * (end or 1))
    axes.set_xlabel("step", fontsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    if not steps_per_epoch or end <= steps_per_epoch:
        return
    to_epochs, to_steps = partial(np.multiply, 1 / steps_per_epoch), partial(np.multiply, steps_per_epoch)
    epochs = axes.secondary_xaxis("top", functions=(to_epochs, to_steps))
    epochs.xaxis.get_major_locator().set_params(integer=True, nbins=6)  # type: ignore[call-arg]
    epochs.spines["top"].set_visible(False)
    epochs.tick_params(labelsize=7, length=2, pad=1, colors=GRAY)
    epochs.set_xlabel("epoch", fontsize=7, labelpad=2, color=GRAY)


def _curve(rows: list[dict[str, float]], name: str) -> Curve:
    """Steps and values of a metric."""
    steps, values = zip(*[(row["step"], row[name]) for row in rows if name in row], strict=True)
    return steps, values


def _curve_label(name: str) -> str:
    if name.startswith("act/"):
        return name.split("/", 2)[2]
    return name.rpartition("/")[2] if name.startswith(("lr-", "grad/")) else name.partition("/")[0]
