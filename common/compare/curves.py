"""Plot of the runs' curves: a panel for each project and metric, a line for each group of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.compare.groups import Group, source_labels
from common.compare.records import Curve
from common.plots.figures import MAX_LINES, add_legend, line_styles, new_figure, save_figure, style_axes
from common.plots.text import fit_text

MAX_COLUMNS = 2
MAX_INNER_LEGEND = 6  # entries; a longer legend stands beside its panel
MAX_LABEL_LENGTH, MAX_LABEL = 60, 3.8  # characters; inches


def draw_comparison(groups: Sequence[Group], path: Path) -> Path | None:
    """Draws every group's curve against the steps: the mean over its seeds, in a band of one standard deviation.

    Args:
        groups: Groups of `common.compare.groups.group_runs`.
        path: PNG file to write. Without any curve none is written, and None returned.
    """
    panels: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        if group.curve_name:
            panels.setdefault((group.first.project, group.curve_name), []).append(group)
    if not panels:
        return None
    columns = min(MAX_COLUMNS, len(panels))
    outside = any(len(members) > MAX_INNER_LEGEND for members in panels.values())
    figure, all_axes = new_figure(-(-len(panels) // columns), columns, 9.5 if outside else 6.2, 3.8)
    for axes, ((project, name), members) in zip(all_axes, panels.items(), strict=False):
        draw_panel(axes, f"{project}: {name}", members)
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    return save_figure(figure, path)


def draw_panel(axes: Any, title: str, groups: Sequence[Group]) -> None:
    """Draws the curves of `groups`, all of one metric."""
    sources = source_labels(groups)
    styles = line_styles(len(groups))  # groups come from the best to the worst
    for i, (group, source, style) in enumerate(zip(groups, sources, styles, strict=True)):
        curves = [run.curve for run in group.runs if run.curve and run.curve_name == group.curve_name]
        steps, mean, std = mean_curve(curves)
        label = group.name + (f" ({len(group.runs)} seeds)" if len(group.runs) > 1 else "")
        label += f", {source}" if len(set(sources)) > 1 else ""
        if broken := sum(not np.isfinite(curve).all() for curve in curves):
            label += ", NaN or infinity" + (f" in {broken}" if len(curves) > 1 else "")
        behind = i >= MAX_LINES
        marker = "o" if len(steps) < 40 and not behind else ""
        axes.plot(steps, mean, marker=marker, markersize=3, label=fit_text(shorten(label), MAX_LABEL, 8), **style)
        if np.nan_to_num(std).any() and not behind:
            axes.fill_between(steps, mean - std, mean + std, color=style["color"], alpha=0.2, linewidth=0)
    axes.set_title(fit_text(title, 5.0, 10), fontsize=10)
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    beside = {"fontsize": 7, "loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    add_legend(axes, **(beside if len(groups) > MAX_INNER_LEGEND else {"fontsize": 8}))
    style_axes(axes)


def shorten(label: str) -> str:
    """Label of at most `MAX_LABEL_LENGTH` characters, without its middle."""
    half = MAX_LABEL_LENGTH // 2
    return label if len(label) <= MAX_LABEL_LENGTH else f"{label[: half - 1]}…{label[-half:]}"


def mean_curve(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, mean and sample standard deviation of several curves, over the steps that all of them span.

    A curve without a value at another's step is interpolated linearly. Where a curve is not finite, neither is the mean.

    >>> [values.tolist() for values in mean_curve([[(0, 1.0), (2, 3.0)], [(0, 3.0), (1, 4.0), (2, 3.0)]])[:2]]
    [[0.0, 1.0, 2.0], [2.0, 3.0, 3.0]]
    """
    arrays = [np.array(curve, dtype=float).T for curve in curves]  # (2, points): steps, values
    steps = np.unique(np.concatenate([x for x, _ in arrays]))
    steps = steps[(steps >= max(x[0] for x, _ in arrays)) & (steps <= min(x[-1] for x, _ in arrays))]
    values = np.stack([np.interp(steps, x, np.where(np.isfinite(y), y, np.nan)) for x, y in arrays])  # (curves, steps)
    return steps, values.mean(0), values.std(0, ddof=1) if len(curves) > 1 else np.zeros_like(steps)
