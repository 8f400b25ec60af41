"""Exercise patchify: split dimensions, move them, join them."""

import random
from types import ModuleType

import torch
from torch import Tensor

from foundations.comparing import check_equal, check_gradients
from foundations.exercise import Exercise

exercise = Exercise(
    title="Patchify: an image as a sequence of small squares, and back",
    level="challenge",
    minutes=20,
    link="projects.cifar10.networks:Whitening",
    why="the covariance of all 2 x 2 patches whitens the first convolution",
    hints=(
        "Split H into (rows, size) and W into (columns, size), move rows and columns to the front, join the rest.",
        "(N, C, R, p, Q, p) permuted to (N, R, Q, C, p, p), then joined to (N, R * Q, C * p * p); back again.",
        "(N, C, R, p, Q, p) permuted to (N, R, Q, C, p, p), then joined: (N, R * Q, C * p * p); back likewise.",
    ),
    source="torch._refs:unfold",
    look_at="unfold makes windows along one dimension by strides, without a copy. When do two windows overlap?",
    barred=("unfold", "pixel_unshuffle", "pixel_shuffle", "im2col", "fold", "torch.nn.Unfold", "torch.nn.Fold"),
)

SHAPES = [  # the first so small that a failure shows all numbers
    (1, 1, 4, 2, 2),
    (1, 1, 2, 4, 2),
    (1, 2, 2, 2, 1),
    (1, 2, 2, 2, 2),
    (2, 1, 2, 2, 2),
    (2, 2, 2, 2, 1),
    (1, 1, 4, 4, 2),
    (1, 2, 2, 4, 2),
    (2, 1, 2, 4, 2),
    (1, 1, 4, 6, 2),
    (2, 2, 2, 4, 2),
    (1, 3, 4, 4, 2),
    (2, 2, 6, 4, 2),
    (2, 1, 3, 6, 3),
]


def reference(images: Tensor, size: int) -> Tensor:
    """Patch by patch."""
    _, _, height, width = images.shape
    corners = [(i, j) for i in range(0, height, size) for j in range(0, width, size)]
    return torch.stack([images[:, :, i : i + size, j : j + size].flatten(1) for i, j in corners], 1)


def numbered(n: int, c: int, height: int, width: int) -> Tensor:
    """Images of the numbers from 0 on."""
    return torch.arange(float(n * c * height * width)).view(n, c, height, width)


@exercise.property("patches")
def patches(answer: ModuleType, rng: random.Random) -> None:
    for n, c, height, width, size in SHAPES:
        images = numbered(n, c, height, width)
        check_equal(answer.patchify, images, size, expected=reference(images, size))


@exercise.property("any memory layout")
def layouts(answer: ModuleType, rng: random.Random) -> None:
    images = numbered(1, 4, 2, 2).permute(0, 2, 1, 3)  # (1, 2, 4, 2)
    check_equal(answer.patchify, images, 2, expected=reference(images, 2))


@exercise.property("and back")
def back(answer: ModuleType, rng: random.Random) -> None:
    for n, c, height, width, size in SHAPES:
        images = numbered(n, c, height, width)
        check_equal(answer.unpatchify, reference(images, size), size, c, height, width, expected=images)


@exercise.property("gradient")
def gradient(answer: ModuleType, rng: random.Random) -> None:
    check_gradients(answer.patchify, reference, torch.randn(2, 2, 4, 6), 2)


@exercise.wrong("patchify", "reshape alone gives the right shape and the wrong pixels: it cuts the memory, not the image.")
def reshaped(images: Tensor, size: int) -> Tensor:
    n, c, height, width = images.shape
    return images.reshape(n, (height // size) * (width // size), c * size * size)


@exercise.wrong("patchify", "A patch holds (size, size, C): the channels come first, then the rows of each.")
def channels_last(images: Tensor, size: int) -> Tensor:
    n, c, height, width = images.shape
    grid = images.reshape(n, c, height // size, size, width // size, size)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(n, (height // size) * (width // size), c * size * size)


@exercise.wrong("patchify", "The patches run column by column: row by row is asked for, as one reads.")
def column_by_column(images: Tensor, size: int) -> Tensor:
    n, c, height, width = images.shape
    grid = images.reshape(n, c, height // size, size, width // size, size)
    return grid.permute(0, 4, 2, 1, 3, 5).reshape(n, (height // size) * (width // size), c * size * size)


@exercise.wrong("unpatchify", "Right for square images alone: rows come from the height, columns from the width.")
def square_images(patches: Tensor, size: int, channels: int, height: int, width: int) -> Tensor:
    rows, columns = width // size, height // size
    grid = patches.reshape(-1, rows, columns, channels, size, size)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), channels, height, width)


@exercise.wrong("unpatchify", "reshape alone does not put the patches side by side: permute back first.")
def reshaped_back(patches: Tensor, size: int, channels: int, height: int, width: int) -> Tensor:
    return patches.reshape(len(patches), channels, height, width)


@exercise.also_right("patchify")
def by_slices(images: Tensor, size: int) -> Tensor:
    out = []
    for top in range(0, images.shape[2], size):
        for left in range(0, images.shape[3], size):
            out.append(images[:, :, top : top + size, left : left + size].reshape(images.shape[0], -1))
    return torch.stack(out, dim=1)


@exercise.also_right("unpatchify")
def by_pasting(patches: Tensor, size: int, channels: int, height: int, width: int) -> Tensor:
    image = patches.new_empty(len(patches), channels, height, width)
    for p in range(patches.shape[1]):
        i, j = divmod(p, width // size)
        square = patches[:, p].reshape(len(patches), channels, size, size)
        image[:, :, i * size : (i + 1) * size, j * size : (j + 1) * size] = square
    return image
