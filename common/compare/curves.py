"""The curves of runs in one picture: a panel for each project and figure, a line for each group of runs."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from common.compare.groups import Group
from common.compare.records import Curve
from common.plots.figures import new_figure, save, style_axes

COLUMNS = 2


def draw_comparison(groups: Sequence[Group], path: Path) -> Path | None:
    """Draws the curve of every group of runs against the steps; of several seeds the mean, in a band of their deviation.

    Args:
        groups: see `common.comparison.groups.group_runs`.
        path: the PNG to write. None is returned, and nothing written, if no run has a curve.
    """
    panels: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        if group.first.curve:
            panels.setdefault((group.first.project, group.first.curve_name), []).append(group)
    if not panels:
        return None
    columns = min(COLUMNS, len(panels))
    figure, all_axes = new_figure(-(-len(panels) // columns), columns, 6.2, 3.8)
    from matplotlib import colormaps

    for axes, ((project, name), members) in zip(all_axes, panels.items(), strict=False):
        colors = colormaps["tab10" if len(members) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
        for i, group in enumerate(members):
            color = colors[i % len(colors)]
            steps, means, deviations = mean_curve([run.curve for run in group.runs if run.curve])
            label = group.name + (f" ({len(group.runs)} seeds)" if len(group.runs) > 1 else "")
            if len({other.first.source for other in members}) > 1:
                label += f", {group.first.source}"
            marker = "o" if len(steps) < 40 else ""
            axes.plot(steps, means, color=color, linewidth=1.4, marker=marker, markersize=3, label=label)
            if any(deviations):
                low = [mean - deviation for mean, deviation in zip(means, deviations, strict=True)]
                high = [mean + deviation for mean, deviation in zip(means, deviations, strict=True)]
                axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        axes.set_title(f"{project}: {name}", fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8 if len(members) <= 6 else 6, frameon=False)
        style_axes(axes)
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    return save(figure, path)


def mean_curve(curves: Sequence[Curve]) -> tuple[list[float], list[float], list[float]]:
    """Steps, means and sample deviations of several curves, over the steps that all of them span.

    Where a curve has no value at another's step, it is taken to be straight between its neighbours.

    >>> mean_curve([[(0, 1.0), (2, 3.0)], [(0, 3.0), (1, 4.0), (2, 3.0)]])[:2]
    ([0, 1, 2], [2.0, 3.0, 3.0])
    """
    first, last = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    steps = sorted({step for curve in curves for step, _ in curve if first <= step <= last})
    columns = [[value_at(curve, step) for curve in curves] for step in steps]
    several = len(curves) > 1
    return steps, [statistics.fmean(c) for c in columns], [statistics.stdev(c) if several else 0.0 for c in columns]


def value_at(curve: Curve, step: float) -> float:
    """The value of `curve` at a step that is not outside of it."""
    after = bisect_right(curve, step, key=lambda point: point[0])
    left, value = curve[after - 1]
    if after == len(curve) or left == step:
        return value
    right, next_value = curve[after]
    return value + (next_value - value) * (step - left) / (right - left)
