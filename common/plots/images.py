"""Grids of images and of convolution filters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from common.plots.figures import new_image_grid, save_figure


def draw_images(images: Tensor, titles: Sequence[str], path: Path, columns: int = 8) -> Path:
    """Grid of images, each with a title.

    Args:
        images: Pixels, (n, 3, height, width) uint8.
        titles: Title of each image.
        path: PNG to write.
        columns: Images in a row.
    """
    columns = min(columns, len(images))
    figure, all_axes = new_image_grid(-(-len(images) // columns), columns, 1.35, 1.6, above=0.32)
    for axes, image, title in zip(all_axes, images, titles, strict=False):
        axes.imshow(image.permute(1, 2, 0))
        axes.set_title(title, fontsize=7, y=1.0)  # without `y` matplotlib would measure every tick that is not there
    return save_figure(figure, path)


def prediction_title(predicted: str, probability: float, label: str) -> str:
    """Title of an image: the predicted class and its probability, and the true class if it is another."""
    return f"{predicted} {100 * probability:.0f} %" + ("" if predicted == label else f"\nis {label}")


def draw_filters(weight: Tensor, path: Path, title: str) -> Path:
    """Filters of a convolution on RGB images, each normalized to its own range around mid-gray.

    Args:
        weight: Convolution weight, (filters, 3, height, width).
        path: PNG to write.
        title: Title of the figure.
    """
    weight = weight.detach().float().cpu()
    columns = min(12, len(weight))
    rows = -(-len(weight) // columns)
    figure, all_axes = new_image_grid(rows, columns, 0.75, 0.75 + 0.3 / rows, above=0.3 / rows)
    for axes, filters in zip(all_axes, weight, strict=False):
        axes.imshow((0.5 + 0.5 * filters / filters.abs().max().clamp(min=1e-8)).permute(1, 2, 0))
    figure.suptitle(title, fontsize=9)
    return save_figure(figure, path)
