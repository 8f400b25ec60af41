"""Drawing of the lesson on autograd: the graph of a small loss, with the values forward and the gradients back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

LEAF, INNER, BACK = "#56b4e9", "#e8e8e8", "#d55e00"


def draw(path: Path) -> None:
    """Draws the graph of loss = (w * x + b - y) ** 2, values and gradients computed by torch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    w, x, b, y = (
        torch.tensor(value, requires_grad=name != "y") for name, value in zip("wxby", (3.0, 2.0, 1.0, 4.0), strict=True)
    )
    product = w * x
    out = product + b
    error = out - y
    loss = error**2
    for inner in (product, out, error, loss):
        inner.retain_grad()
    loss.backward()

    figure, axis = plt.subplots(figsize=(12, 5.2), layout="constrained")
    nodes = {
        "w": (0, 3, w, LEAF),
        "x": (0, 1, x, LEAF),
        "w · x": (2.4, 2, product, INNER),
        "b": (2.4, 0.2, b, LEAF),
        "out = w · x + b": (5, 2, out, INNER),
        "y": (5, 0.2, y, "white"),
        "out - y": (7.6, 2, error, INNER),
        "loss = (out - y)²": (10.2, 2, loss, INNER),
    }
    edges = [("w", "w · x"), ("x", "w · x"), ("w · x", "out = w · x + b"), ("b", "out = w · x + b")]
    edges += [("out = w · x + b", "out - y"), ("y", "out - y"), ("out - y", "loss = (out - y)²")]
    for first, second in edges:
        _draw_edge(axis, nodes[first], nodes[second])
    for name, (left, height, tensor, color) in nodes.items():
        _draw_node(axis, name, left, height, tensor, color)
    axis.set_xlim(-1.1, 11.5)
    axis.set_ylim(-0.9, 3.9)
    axis.axis("off")
    axis.set_title(
        "values are computed from left to right, gradients from right to left; blue: leaves, which keep theirs in .grad",
        fontsize=12,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_node(axis: Any, name: str, left: float, height: float, tensor: torch.Tensor, color: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    axis.add_patch(
        FancyBboxPatch((left - 0.85, height - 0.33), 1.7, 0.66, "round,pad=0.05", facecolor=color, edgecolor="#555555")
    )
    axis.text(left, height + 0.12, name, ha="center", va="center", fontsize=10)
    axis.text(left, height - 0.17, f"{tensor.item():g}", ha="center", va="center", fontsize=11, weight="bold")
    gradient = "no gradient" if tensor.grad is None else f"gradient {tensor.grad.item():g}"
    axis.text(
        left,
        height - 0.57,
        gradient,
        ha="center",
        va="center",
        fontsize=10,
        color=BACK if tensor.grad is not None else "#777777",
    )


def _draw_edge(axis: Any, first: tuple[Any, ...], second: tuple[Any, ...]) -> None:
    start, end = (first[0] + 0.9, first[1]), (second[0] - 0.9, second[1])
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#555555"})
