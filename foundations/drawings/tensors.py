"""Drawing of the lesson on tensors: broadcasting as boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CELL = 0.9
REAL, STRETCHED, RESULT, ERROR = "#56b4e9", "#d6ecf8", "#e6b800", "#d9d9d9"


def draw(path: Path) -> None:
    """Draws three sums of tensors as boxes: a column and a row, a matrix and a row, a vector and a column."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sums = [
        ("a column meets a row", torch.arange(3)[:, None] * 10, torch.arange(4)[None]),
        ("a row stretches over a matrix", torch.arange(6).view(2, 3) * 10, torch.arange(3)),
        ("the trap: (3,) meets (3, 1)", torch.arange(3), torch.arange(3)[:, None] * 10),
    ]
    figure, axes = plt.subplots(len(sums), 1, figsize=(12, 9.5), layout="constrained")
    for axis, (title, a, b) in zip(axes, sums, strict=True):
        _draw_sum(axis, title, a, b)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_sum(axis: Any, title: str, a: Tensor, b: Tensor) -> None:
    result = a + b
    left = 0.0
    for symbol, tensor in (("", a), ("+", b), ("=", result)):
        grid = tensor.expand(result.shape)
        own = _own_entries(tensor, result)
        colors = [
            [RESULT if symbol == "=" else REAL if own[i, j] else STRETCHED for j in range(grid.shape[1])]
            for i in range(grid.shape[0])
        ]
        if symbol:
            axis.text(left - 0.75, -grid.shape[0] * CELL / 2, symbol, ha="center", va="center", fontsize=20)
        _draw_grid(axis, left, grid, colors, f"{tuple(tensor.shape)}".replace(" ", "\u2009"))
        left += grid.shape[1] * CELL + 1.6
    axis.set_title(title, loc="left", fontsize=13)
    axis.set_xlim(-0.3, 16)
    axis.set_ylim(-3 * CELL - 0.15, 0.85)
    axis.set_aspect("equal")
    axis.axis("off")


def _own_entries(tensor: Tensor, result: Tensor) -> Tensor:
    """Which boxes are in memory: the others repeat them."""
    shape = (1,) * (result.ndim - tensor.ndim) + tuple(tensor.shape)
    own = torch.zeros(result.shape, dtype=torch.bool)
    own[tuple(slice(0, size) for size in shape)] = True
    return own


def _draw_grid(axis: Any, left: float, grid: Tensor, colors: list[list[str]], label: str) -> None:
    from matplotlib.patches import Rectangle

    for i, row in enumerate(grid.tolist()):
        for j, value in enumerate(row):
            corner = (left + j * CELL, -(i + 1) * CELL)
            faded = colors[i][j] == STRETCHED
            box = Rectangle(corner, CELL, CELL, facecolor=colors[i][j], edgecolor="white", linewidth=2)
            axis.add_patch(box)
            x, y = corner[0] + CELL / 2, corner[1] + CELL / 2
            axis.text(x, y, value, ha="center", va="center", fontsize=12, color="#6b7f8c" if faded else "black")
    axis.text(left, 0.2, label, fontsize=12, family="monospace")
