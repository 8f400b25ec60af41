"""Grids of images and of convolution filters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from common.plots.figures import ORANGE, TITLE_SIZE, caption_height, new_image_grid, save_figure
from common.plots.text import DPI, fit_text, text_width, wrap_text

TILE = 1.35  # inches of an image with a title
TILE_TITLE, LABEL_SIZE = 7, 8  # points
MIN_COLUMNS = 4  # of a grid with titles, so that the figure's own title has room
MIN_WIDTH = 4.2  # inches of a grid with labels
MAX_LABEL = 2.0  # inches


def draw_images(
    images: Tensor,
    titles: Sequence[str],
    path: Path,
    columns: int = 8,
    title: str = "",
    caption: str = "",
    wrong: Sequence[bool] = (),
) -> Path:
    """Grid of images, each with a title.

    Args:
        images: Pixels, (n, 3, height, width) uint8.
        titles: Title of each image.
        path: PNG to write.
        columns: Images in a row.
        title: Title of the figure.
        caption: Text below the images.
        wrong: Whether each image's title is that of a wrong answer, which has a color; unset, none is.
    """
    columns = max(MIN_COLUMNS, min(columns, len(images)))
    rows = -(-len(images) // columns)
    above = 0.15 + 0.13 * max(len(each.splitlines()) for each in titles)
    figure, all_axes = new_image_grid(rows, columns, TILE, TILE - 0.06 + above, above, title, caption)
    for axes, image, lines, is_wrong in zip(all_axes, images, titles, wrong or [False] * len(images), strict=False):
        axes.imshow(image.permute(1, 2, 0))
        text = "\n".join(fit_text(line, TILE - 0.1, TILE_TITLE) for line in lines.splitlines())
        color = ORANGE if is_wrong else "black"
        axes.set_title(text, fontsize=TILE_TITLE, y=1.0, color=color)  # without `y` matplotlib would measure every tick
    return save_figure(figure, path, caption)


def prediction_title(predicted: str, probability: float, label: str) -> str:
    """Title of an image: the predicted class and its probability, and the true class if it is another."""
    percent = f" {100 * probability:.0f} %"
    name = fit_text(predicted, TILE - 0.1 - text_width(percent, TILE_TITLE), TILE_TITLE)
    return f"{name}{percent}" + ("" if predicted == label else f"\nis {' '.join(label.split())}")


def draw_image_rows(
    images: Tensor, path: Path, columns: int, title: str, labels: Sequence[str] = (), caption: str = "", scale: int = 2
) -> Path:
    """Images side by side, each pixel enlarged to `scale` x `scale`, with a title, and a label left of each row.

    Args:
        images: Pixels, (n, 3, height, width) uint8, row by row.
        path: PNG to write.
        columns: Images in a row.
        title: Title of the figure.
        labels: Label of each row; none for rows without.
        caption: Text below the images.
        scale: Pixels of the PNG for one of an image, on each side.
    """
    from matplotlib.figure import Figure
    from torchvision.utils import make_grid

    grid = make_grid(images, columns, padding=1, pad_value=255)  # (3, height, width)
    height, width = (scale * size / DPI for size in grid.shape[1:])  # inches
    labels = [fit_text(label, MAX_LABEL, LABEL_SIZE) for label in labels]
    left = max([0.1, *(text_width(label, LABEL_SIZE) + 0.15 for label in labels)])
    total_width = max(MIN_WIDTH, left + width + 0.1)
    title = wrap_text(title, total_width - 0.2, TITLE_SIZE)
    header, footer = 0.1 + 0.19 * len(title.splitlines()), caption_height(caption, total_width) + 0.06
    height_all = header + height + footer
    figure = Figure(figsize=(total_width, height_all), dpi=DPI)
    axes = figure.add_axes((left / total_width, footer / height_all, width / total_width, height / height_all))
    axes.imshow(grid.permute(1, 2, 0), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    figure.suptitle(title, fontsize=TITLE_SIZE, y=1 - 0.05 / height_all, va="top")
    for row, label in enumerate(labels):
        y = (row + 0.5) * (images.shape[2] + 1)
        axes.text(-0.08 * DPI / scale, y, label, ha="right", va="center", fontsize=LABEL_SIZE)
    return save_figure(figure, path, caption)


def draw_filters(weight: Tensor, path: Path, title: str, caption: str = "") -> Path:
    """Filters of a convolution on RGB images, each normalized to its own range around mid-gray.

    Args:
        weight: Convolution weight, (filters, 3, height, width).
        path: PNG to write.
        title: Title of the figure.
        caption: Text below the filters.
    """
    weight = weight.detach().float().cpu()
    columns = min(12, max(6, len(weight)))
    rows = -(-len(weight) // columns)
    figure, all_axes = new_image_grid(rows, columns, 0.75, 0.75, 0.0, title, caption)
    for axes, filters in zip(all_axes, weight, strict=False):
        axes.imshow((0.5 + 0.5 * filters / filters.abs().max().clamp(min=1e-8)).permute(1, 2, 0))
    return save_figure(figure, path, caption)
