"""Scatter plots of two-dimensional samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.plots.figures import BLUE, GRAY, ORANGE, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_points(points: Tensor, modes: Tensor, radius: float, title: str, path: Path) -> Path:
    """Points in the plane over the circles that they should be in; those inside one are blue, all others orange.

    Args:
        points: (n, 2).
        modes: (modes, 2), the circles' centres.
        radius: of the circles.
        title: what is said above them.
        path: the PNG to write.
    """
    points, modes = points.float().cpu(), modes.float().cpu()
    figure, (axes,) = new_figure(1, 1, 4.4, 4.6)
    _draw_points(axes, points, modes, radius)
    axes.set_title(title, fontsize=9)
    return save(figure, path)


def _draw_points(axes: Axes, points: Tensor, modes: Tensor, radius: float) -> None:
    from matplotlib.patches import Circle

    shown = max(radius, 0.02 * float(modes.abs().max()))  # a smaller circle would not be seen
    for x, y in modes.tolist():
        axes.add_patch(Circle((x, y), shown, fill=False, edgecolor=GRAY, linewidth=0.8))
    inside = torch.cdist(points, modes).amin(1) <= radius
    for chosen, color in [(inside, BLUE), (~inside, ORANGE)]:
        axes.scatter(points[chosen, 0], points[chosen, 1], s=3, color=color, alpha=0.5, linewidths=0)
    limit = 1.3 * float(modes.abs().max())
    axes.set_xlim(-limit, limit)
    axes.set_ylim(-limit, limit)
    axes.set_aspect("equal")
    axes.tick_params(labelsize=7)
