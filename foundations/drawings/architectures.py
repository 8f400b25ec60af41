"""Drawing of the lesson on architectures: a convolution that slides, and attention as a matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, RESULT, EDGE = "#d55e00", "#009e73", "#999999"
WORDS = ("the", "cat", "saw", "a", "dog", "<pad>")
# what each word is: determiner, noun, verb; and what it looks for
IS = ((1.0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 0))
SEEKS = ((0, 1.0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0))
AT = (1, 2)  # place of the window that is drawn


def draw(path: Path) -> None:
    """Draws one place of a 3 x 3 filter on an image of a bright corner, and the attention weights of five words."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(12.6, 4.9), layout="constrained")
    panels: Any = figure.subfigures(1, 2, width_ratios=(1.45, 1), wspace=0.04)
    _draw_convolution(panels[0])
    _draw_attention(panels[1])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def convolve() -> tuple[Tensor, Tensor, Tensor]:
    """An image (6, 6), a filter for upright edges (3, 3), and what it gives (4, 4)."""
    image = torch.zeros(6, 6)
    image[2:, 3:] = 5.0
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    return image, kernel, F.conv2d(image[None, None], kernel[None, None])[0, 0]


def attend() -> Tensor:
    """Attention weights (6, 6) of the words, the padding hidden as a key."""
    positions = torch.arange(6.0)
    near = -0.35 * (positions[:, None] - positions).abs()  # closer words count a little more
    scores = 3 * torch.tensor(SEEKS) @ torch.tensor(IS).t() + near
    mask = torch.tensor([word != "<pad>" for word in WORDS])  # True attends
    return F.scaled_dot_product_attention(scores, torch.eye(6), torch.eye(6), mask.expand(6, 6), scale=1.0)


def _draw_convolution(figure: Any) -> None:
    from matplotlib.patches import Rectangle

    image, kernel, result = convolve()
    axes = figure.subplots(1, 3, width_ratios=(6, 3, 4))
    titles = ("image (6, 6)", "filter (3, 3)", "result (4, 4)")
    for axis, values, title in zip(axes, (image, kernel, result), titles, strict=True):
        largest = values.abs().max().item()
        axis.imshow(values, cmap="PuOr", vmin=-2 * largest, vmax=2 * largest)
        axis.set_title(title, fontsize=12)
        _number_cells(axis, values)
    top, across = AT
    axes[0].add_patch(Rectangle((across - 0.5, top - 0.5), 3, 3, fill=False, edgecolor=WINDOW, linewidth=3))
    following = Rectangle((across + 0.5, top - 0.5), 3, 3, fill=False, edgecolor=WINDOW, lw=1.5, linestyle=(0, (4, 3)))
    axes[0].add_patch(following).set_clip_on(False)
    axes[1].add_patch(Rectangle((-0.5, -0.5), 3, 3, fill=False, edgecolor=WINDOW, linewidth=3, clip_on=False))
    axes[2].add_patch(Rectangle((across - 0.5, top - 0.5), 1, 1, fill=False, edgecolor=RESULT, linewidth=3, clip_on=False))
    window = image[top : top + 3, across : across + 3]
    for axis, sign in ((axes[1], "×"), (axes[2], "=")):
        axis.annotate(sign, (0, 0.5), (-17, 0), "axes fraction", "offset points", ha="center", va="center", fontsize=20)
    terms = " + ".join(f"{a:g} · {b:g}" for a, b in zip(window[1:, 2], kernel[1:, 2], strict=True))
    figure.get_layout_engine().set(wspace=0.06)
    figure.suptitle("A convolution: the same filter at every place", fontsize=14)
    figure.supxlabel(f"window × filter, summed: {terms} = {result[AT]:g}; then the window slides on", fontsize=12)


def _draw_attention(figure: Any) -> None:
    from matplotlib.patches import Rectangle

    weights = attend()[:5]  # what the padding itself would ask does not matter
    axis = figure.subplots()
    axis.imshow(weights, cmap="Blues", vmin=0, vmax=1.3)
    _number_cells(axis, weights, "{:.2f}")
    axis.add_patch(Rectangle((4.5, -0.5), 1, 5, facecolor="#e4e4e4", edgecolor="white", hatch="//", linewidth=0, zorder=1.5))
    axis.set_xticks(range(6), WORDS, fontsize=12)
    axis.set_yticks(range(5), WORDS[:5], fontsize=12)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_ylabel("query: who looks", fontsize=12)
    axis.set_title("key: who is looked at", fontsize=12)
    figure.suptitle("Attention: a weight for every pair", fontsize=14)
    figure.supxlabel("each row is a softmax, of sum 1; masked keys get 0", fontsize=12)


def _number_cells(axis: Any, values: Tensor, form: str = "{:g}") -> None:
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            axis.text(j, i, form.format(value), ha="center", va="center", fontsize=11)
    for side in axis.spines.values():
        side.set_color(EDGE)
    axis.set_xticks([])
    axis.set_yticks([])
