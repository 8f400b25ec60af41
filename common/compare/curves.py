"""Plot of the runs' curves: a panel for each project and metric, a line for each group of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.compare.groups import Group
from common.compare.records import Curve
from common.plots.figures import new_figure, save_figure, style_axes

MAX_COLUMNS = 2


def draw_comparison(groups: Sequence[Group], path: Path) -> Path | None:
    """Draws every group's curve against the steps: the mean over its seeds, in a band of one standard deviation.

    Args:
        groups: Groups of `common.compare.groups.group_runs`.
        path: PNG file to write. Without any curve none is written, and None returned.
    """
    panels: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        if group.first.curve:
            panels.setdefault((group.first.project, group.first.curve_name), []).append(group)
    if not panels:
        return None
    columns = min(MAX_COLUMNS, len(panels))
    figure, all_axes = new_figure(-(-len(panels) // columns), columns, 6.2, 3.8)
    for axes, ((project, name), members) in zip(all_axes, panels.items(), strict=False):
        draw_panel(axes, f"{project}: {name}", members)
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    return save_figure(figure, path)


def draw_panel(axes: Any, title: str, groups: Sequence[Group]) -> None:
    """Draws the curves of `groups`, all of one metric."""
    from matplotlib import colormaps

    colors = colormaps["tab10" if len(groups) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    several_sources = len({group.first.source for group in groups}) > 1
    for i, group in enumerate(groups):
        color = colors[i % len(colors)]
        steps, mean, std = mean_curve([run.curve for run in group.runs if run.curve])
        label = group.name + (f" ({len(group.runs)} seeds)" if len(group.runs) > 1 else "")
        label += f", {group.first.source}" if several_sources else ""
        marker = "o" if len(steps) < 40 else ""
        axes.plot(steps, mean, color=color, linewidth=1.4, marker=marker, markersize=3, label=label)
        if std.any():
            axes.fill_between(steps, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8 if len(groups) <= 6 else 6, frameon=False)
    style_axes(axes)


def mean_curve(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, mean and sample standard deviation of several curves, over the steps that all of them span.

    A curve without a value at another's step is interpolated linearly.

    >>> [values.tolist() for values in mean_curve([[(0, 1.0), (2, 3.0)], [(0, 3.0), (1, 4.0), (2, 3.0)]])[:2]]
    [[0.0, 1.0, 2.0], [2.0, 3.0, 3.0]]
    """
    arrays = [np.array(curve, dtype=float).T for curve in curves]  # (2, points): steps, values
    steps = np.unique(np.concatenate([x for x, _ in arrays]))
    steps = steps[(steps >= max(x[0] for x, _ in arrays)) & (steps <= min(x[-1] for x, _ in arrays))]
    values = np.stack([np.interp(steps, x, y) for x, y in arrays])  # (curves, steps)
    return steps, values.mean(0), values.std(0, ddof=1) if len(curves) > 1 else np.zeros_like(steps)
