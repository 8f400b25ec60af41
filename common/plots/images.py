"""Grids of images and of convolution filters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from common.plots.figures import new_image_grid, save

if TYPE_CHECKING:
    pass


def draw_images(images: Tensor, titles: Sequence[str], path: Path, columns: int = 8) -> Path:
    """A grid of pictures, each with a title.

    Args:
        images: (n, 3, height, width) uint8.
        titles: n of them.
        path: the PNG to write.
        columns: pictures in a row.
    """
    columns = min(columns, len(images))
    figure, all_axes = new_image_grid(-(-len(images) // columns), columns, 1.35, 1.6, above=0.32)
    for axes, image, title in zip(all_axes, images, titles, strict=False):
        axes.imshow(image.permute(1, 2, 0))
        axes.set_title(title, fontsize=7, y=1.0)  # left to itself it would measure every tick that is not there
    return save(figure, path)


def draw_filters(weight: Tensor, path: Path, title: str) -> Path:
    """The filters of a convolution on colour pictures, each stretched to its own range around mid-grey.

    Args:
        weight: (filters, 3, height, width).
        path: the PNG to write.
        title: what is said above them.
    """
    weight = weight.detach().float().cpu()
    columns = min(12, len(weight))
    rows = -(-len(weight) // columns)
    figure, all_axes = new_image_grid(rows, columns, 0.75, 0.75 + 0.3 / rows, above=0.3 / rows)
    for axes, filters in zip(all_axes, weight, strict=False):
        axes.imshow((0.5 + 0.5 * filters / filters.abs().max().clamp(min=1e-8)).permute(1, 2, 0))
    figure.suptitle(title, fontsize=9)
    return save(figure, path)
