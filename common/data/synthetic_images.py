"""Synthetic images: ten classes of shapes, 32 x 32 in color, rendered from signed distance functions.

Each image shows one shape (a disc, a star, a checkerboard ...) on a cloudy background, with small distractors of any
class behind it and in front of it, and a line across. Shapes are rotated, stretched and warped. All classes cover the
same area on average and take their colors from the same palette, so that only shape tells them apart. A horizontal flip
keeps the class.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from common.data.images import LabeledImages

SIZE = 32  # height and width in pixels, the unit of all lengths below
CHUNK_SIZE = 100  # images rendered at once: a plane of them stays in the processor's cache. Another value, other images

RADIUS = (4.5, 8.8)  # of a disc with the same area as the shape
MAX_OFFSET = 2.5  # from the image's center to the shape's, in each direction
MAX_ROTATION = 0.6  # radians to either side: hearts upside down would be hard to tell
MAX_STRETCH = 1.4  # width to height, or height to width
MAX_WARP = 0.32  # amplitude of the waves that bend a shape, as a fraction of its radius
LIGHT_FRACTION = 0.9  # of shapes lighter than the background; with 0.5, a linear classifier would find nothing
CONTRAST = (0.12, 0.46)  # between shape and background; as all brightness, from 0 (black) to 1 (white)

DISTRACTORS = 2  # behind the shape, and as many in front of it
DISTRACTOR_RADIUS = (1.5, 3.2)  # smaller than the shape's, so that there is no doubt which one counts
LINE_WIDTH = (0.6, 1.6)

MEAN_BRIGHTNESS = (0.38, 0.62)  # halfway between shape and background
DISTRACTOR_BRIGHTNESS = (0.2, 0.8)  # of distractors and line
MAX_SATURATION = 0.35  # difference of a color's channels from its brightness
MAX_GRADIENT = 0.12  # change of a shape's brightness from the image's center to its border
MAX_CLOUD = 0.1  # amplitude of the background's clouds
MAX_NOISE = 0.06  # amplitude of the noise of each channel of a pixel
EDGE_WIDTH = (1.0, 2.4)  # over which an edge fades; at 1 it is sharp

# Sums are float64: where the sines of two machines differ in the last bit, the rounded bytes still agree.
X = torch.arange(SIZE, dtype=torch.float64)[None, :] - (SIZE - 1) / 2  # (1, 32), from the image's center to the right
Y = -X.T  # (32, 1), upwards


# Signed distance functions (SDF) of the classes: the distance of points (x, y) from the outline, negative inside. `form`,
# from 0 to 1, varies the shape within its class. All tensors are (n, height, width) or broadcast to it.


def disc(x: Tensor, y: Tensor, form: Tensor) -> Tensor:
    """Disc of radius 1; `form` is not used."""
    return torch.hypot(x, y) - 1


def ring(x: Tensor, y: Tensor, form: Tensor) -> Tensor:
    """Disc with a small to large hole."""
    hole = 0.25 + 0.4 * form
    return (torch.hypot(x, y) - (1 + hole) / 2).abs() - (1 - hole) / 2


def square(x: Tensor, y: Tensor, form: Tensor) -> Tensor:
    """Square of half-width 1, with sharp to round corners."""
    radius = 0.6 * form
    x, y = x.abs() - 1 + radius, y.abs() - 1 + radius
    return torch.hypot(x.clamp(min=0), y.clamp(min=0)) + torch.maximum(x, y).clamp(max=0) - radius


def triangle(x: Tensor, y: Tensor, form: Tensor) -> Tensor:
    """Three points at distance 1; its sides are straight at a notch of 0.5, else slightly hollow or bulging."""
    return _star(x, y, torch.full_like(form, 3), 0.45 + 0.12 * form)


def star(x: Tensor, y: Tensor, form: Tensor) -> Tensor:
    """Five or six points at distance 1, slim to stout."""
    return _star(x, y, 5 + (2 * form).floor(), 0.45 + 0.25 * (2 * form).frac())


def cross(x: Tensor, y: Tensor, form: Tensor) -> Tensor:
    """Two bars of half-length 1 across each other, slim to stout."""
    x, y = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    return torch.maximum(x - 1, y - 0.22 - 0.28 * form)


def crescent(x: Tensor, y: Tensor, form: Tensor) -> Tensor:
    """Disc out of one side of which another is cut, deep to shallow."""
    return torch.maximum(disc(x, y, form), 0.8 - torch.hypot(x - 0.4 - 0.5 * form, y))


def heart(x: Tensor, y: Tensor, form: Tensor) -> Tensor:
    """Square on its corner with a disc at each of its upper sides; `form` is not used."""
    x, y = x.abs(), y + 0.1  # centered
    half_side = math.sqrt(0.5)
    return torch.minimum((x + y.abs() - 1) * half_side, torch.hypot(x - 0.5, y - 0.5) - half_side)


def stripes(x: Tensor, y: Tensor, form: Tensor) -> Tensor:
    """Three or four bars in a square of half-width 1, with gaps as wide as they are."""
    width = 2 / (2 * (3 + (2 * form).floor()) - 1)
    return torch.maximum(torch.maximum(x.abs(), y.abs()) - 1, _bands(y, width))


def checkerboard(x: Tensor, y: Tensor, form: Tensor) -> Tensor:
    """Every other of the 4 x 4 or 5 x 5 tiles of a square of half-width 1."""
    width = 2 / (4 + (2 * form).floor())
    column, row = _bands(x, width), _bands(y, width)
    tile = -torch.minimum(column.abs(), row.abs()) * torch.sign(column * row)
    return torch.maximum(torch.maximum(x.abs(), y.abs()) - 1, tile)


def _star(x: Tensor, y: Tensor, points: Tensor, notch: Tensor) -> Tensor:
    """Star of `points` points at distance 1, the first on top, with notches between them at distance `notch`."""
    half = math.pi / points
    angle = (torch.remainder(torch.atan2(x, y) + half, 2 * half) - half).abs()  # to the nearest point, 0 to `half`
    radius = torch.hypot(x, y)
    x, y = radius * angle.cos(), radius * angle.sin()  # every edge is folded onto that from (1, 0) to the notch
    edge_x, edge_y = notch * half.cos() - 1, notch * half.sin()
    return ((x - 1) * edge_y - y * edge_x) / torch.hypot(edge_x, edge_y)


def _bands(z: Tensor, width: Tensor) -> Tensor:
    """Bands of `width` from z = -1 on: distance to the nearest edge, negative in the first, positive in the second ..."""
    return (torch.remainder(z + 1 + width / 2, 2 * width) - width).abs() - width / 2


# of each class its SDF and the radius of a disc with the area that the shape has on average
SHAPES: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], float]] = {
    "disc": (disc, 1.00),
    "ring": (ring, 0.89),
    "square": (square, 1.11),
    "triangle": (triangle, 0.65),
    "star": (star, 0.74),
    "cross": (cross, 0.86),
    "crescent": (crescent, 0.75),
    "heart": (heart, 1.06),
    "stripes": (stripes, 0.85),
    "checkerboard": (checkerboard, 0.80),
}
CLASS_NAMES = tuple(SHAPES)


def render_images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Renders `count` images (count, 3, 32, 32) uint8 and their labels (count,) int64, indices into `CLASS_NAMES`.

    The same arguments give the same bytes on every machine. Classes are shuffled, and equally frequent to within one.
    """
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randperm(count, generator=rng) % len(CLASS_NAMES)
    return torch.cat([_render(chunk, rng) for chunk in labels.split(CHUNK_SIZE)]), labels


def render_splits(sizes: dict[str, int]) -> dict[str, LabeledImages]:
    """Renders each split with as many images as `sizes` says, and with its own seed: its position among the splits."""
    return {
        split: LabeledImages(*render_images(count, seed), list(CLASS_NAMES))
        for seed, (split, count) in enumerate(sizes.items())
    }


# All randomness is uniform: other distributions are computed differently on other processors.


def _uniform(rng: Generator, low: float, high: float, *shape: int) -> Tensor:
    """Uniform float64 samples from `low` to `high`."""
    return low + (high - low) * torch.rand(shape, generator=rng, dtype=torch.float64)


def _signs(rng: Generator, p: float, *shape: int) -> Tensor:
    """Random signs: 1 with probability `p`, else -1."""
    return torch.where(_uniform(rng, 0, 1, *shape) < p, 1.0, -1.0)


def _render(labels: Tensor, rng: Generator) -> Tensor:
    """Images (n, 3, 32, 32) uint8 of the classes `labels` (n,): layers blended from back to front."""
    n = len(labels)
    shape = _shape_masks(labels, rng, RADIUS, MAX_OFFSET)
    classes = _uniform(rng, 0, len(CLASS_NAMES), 2 * DISTRACTORS * n).long()
    distractors = _shape_masks(classes, rng, DISTRACTOR_RADIUS, SIZE / 2).split(n)
    mean = _uniform(rng, *MEAN_BRIGHTNESS, n)
    contrast = _signs(rng, LIGHT_FRACTION, n) * _uniform(rng, *CONTRAST, n)
    clouds = _uniform(rng, -MAX_CLOUD, MAX_CLOUD, n, 1, 6, 6)  # 6 x 6 values: each cloud is about 6 pixels wide
    background = _colors(mean - contrast / 2, rng)
    images = background + F.interpolate(clouds, (SIZE, SIZE), mode="bicubic", align_corners=True)
    for mask in [*distractors[:DISTRACTORS], shape, *distractors[DISTRACTORS:], _line_masks(n, rng)]:
        brightness = mean + contrast / 2 if mask is shape else _uniform(rng, *DISTRACTOR_BRIGHTNESS, n)
        images = images.lerp(_colors(brightness, rng), mask[:, None])
    images += _uniform(rng, 0, MAX_NOISE, n, 1, 1, 1) * _uniform(rng, -1, 1, n, 3, SIZE, SIZE)
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def _colors(brightness: Tensor, rng: Generator) -> Tensor:
    """Color gradients (n, 3, 32, 32) of a random hue and direction, with mean `brightness` (n,)."""
    n = len(brightness)
    hue = _uniform(rng, 0, 2 * math.pi, n, 1) + torch.tensor([0, 2, 4], dtype=torch.float64) * math.pi / 3  # (n, 3)
    color = brightness[:, None] + _uniform(rng, 0, MAX_SATURATION, n, 1) * hue.cos()  # the three cosines add up to 0
    angle, gradient = _uniform(rng, 0, 2 * math.pi, n, 1, 1), _uniform(rng, 0, 2 * MAX_GRADIENT / SIZE, n, 1, 1)
    return color[:, :, None, None] + (gradient * (X * angle.cos() + Y * angle.sin()))[:, None]


def _line_masks(n: int, rng: Generator) -> Tensor:
    """Alpha masks (n, 32, 32) of straight lines: the fraction of each pixel that is covered."""
    angle, offset = _uniform(rng, 0, math.pi, n, 1, 1), _uniform(rng, -6, 6, n, 1, 1)  # near enough to cross most shapes
    distance = (X * angle.cos() + Y * angle.sin() - offset).abs() - _uniform(rng, *LINE_WIDTH, n, 1, 1) / 2
    return (0.5 - distance).clamp(0, 1)


def _shape_masks(classes: Tensor, rng: Generator, radius: tuple[float, float], max_offset: float) -> Tensor:
    """Alpha masks (n, 32, 32) of shapes of `classes` (n,): the fraction of each pixel that is covered."""
    n = len(classes)
    size, form = _uniform(rng, *radius, n, 1, 1), _uniform(rng, 0, 1, n, 1, 1)
    x, y = X - _uniform(rng, -max_offset, max_offset, n, 1, 1), Y - _uniform(rng, -max_offset, max_offset, n, 1, 1)
    angle = _uniform(rng, -MAX_ROTATION, MAX_ROTATION, n, 1, 1)
    stretch = MAX_STRETCH ** _uniform(rng, -0.5, 0.5, n, 1, 1)
    x, y = (x * angle.cos() + y * angle.sin()) * stretch, (y * angle.cos() - x * angle.sin()) / stretch
    x = x * _signs(rng, 0.5, n, 1, 1)  # horizontally flipped shapes are as likely as the others
    x, y = x + _warp(y, size, rng), y + _warp(x, size, rng)
    distance = torch.empty(n, SIZE, SIZE, dtype=torch.float64)  # in pixels, but for what stretch and warp do to it
    for label, (sdf, mean_radius) in enumerate(SHAPES.values()):
        rows = torch.nonzero(classes == label).flatten()
        scale = size[rows] / mean_radius
        distance[rows] = scale * sdf(x[rows] / scale, y[rows] / scale, form[rows])
    return (0.5 - distance / _uniform(rng, *EDGE_WIDTH, n, 1, 1)).clamp(0, 1)


def _warp(along: Tensor, size: Tensor, rng: Generator) -> Tensor:
    """Sideways displacement of points, a sine of their coordinate `along` (n, 32, 32), for shapes of radius `size`."""
    n = len(along)
    amplitude, phase = _uniform(rng, 0, MAX_WARP, n, 1, 1) * size, _uniform(rng, 0, 2 * math.pi, n, 1, 1)
    return amplitude * torch.sin(_uniform(rng, 0.8, 1.6, n, 1, 1) / size * along + phase)  # at most half a wave per shape
