"""Attention maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from common.plots.figures import GRAY, new_figure, save

if TYPE_CHECKING:
    pass


def draw_attention(maps: Sequence[tuple[Tensor, Sequence[str], Sequence[str]]], path: Path, columns: int = 2) -> Path:
    """Attention maps: row, the token that was written; column, the token that it looked at; dark, how much.

    Args:
        maps: for each map the weights (rows, columns) from 0 to 1, the rows' names and the columns'.
        path: the PNG to write.
        columns: maps in a row.
    """
    columns = min(columns, len(maps))
    widest = max(len(names) for _, _, names in maps)
    tallest = max(len(names) for _, names, _ in maps)
    figure, all_axes = new_figure(-(-len(maps) // columns), columns, 1.6 + 0.23 * widest, 1.3 + 0.23 * tallest)
    for axes, (weights, rows, names) in zip(all_axes, maps, strict=False):
        axes.imshow(weights.float().cpu(), cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_color(GRAY)
    for axes in all_axes[len(maps) :]:
        axes.set_visible(False)
    return save(figure, path)
