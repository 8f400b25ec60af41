"""Ten classes of small colour pictures, drawn by formulas: a data set that needs no file and no network.

Each picture shows one figure (a disc, a star, a checkerboard ...) on a cloudy ground, with small figures behind it and in
front of it, which may be of any class, and a line across. Figures lean, stretch and bend. All classes cover the same area
on average and take their colours from the same palette, so that only shape tells them apart. A mirrored picture keeps its
class.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.images import LabeledImages

SIZE = 32  # height and width in pixels, the unit of all lengths below
CHUNK = 100  # pictures drawn at once: a plane of them stays in the processor's cache. Another number, other pictures

RADIUS = (4.5, 8.8)  # of a disc with the same area as the figure
OFFSET = 2.5  # from the picture's centre to the figure's, at most, in each direction
TILT = 0.6  # radians that a figure leans to either side at most: hearts upside down would be hard to tell
STRETCH = 1.4  # width to height, or height to width, at most
WOBBLE = 0.32  # how far waves bend a figure at most, in shares of its radius
LIGHT_SHARE = 0.9  # of figures that are lighter than the ground; with 0.5, a linear classifier would find nothing
CONTRAST = (0.12, 0.46)  # between figure and ground; as all brightness, from 0 (black) to 1 (white)

CLUTTER = 2  # small figures behind the figure, and as many in front of it
CLUTTER_RADIUS = (1.5, 3.2)  # smaller than the figure's, so that there is no doubt which one counts
LINE_WIDTH = (0.6, 1.6)

MIDDLE = (0.38, 0.62)  # brightness halfway between figure and ground
OTHER = (0.2, 0.8)  # brightness of clutter and line
SATURATION = 0.35  # how far a colour's channels are from its brightness, at most
SHADE = 0.12  # how far the brightness of a figure changes from the picture's centre to its rim, at most
CLOUDS = 0.1  # the most that the ground is off its brightness
NOISE = 0.06  # the most that any channel of a pixel is off
SOFTNESS = (1.0, 2.4)  # width over which an edge fades; at 1 it is sharp

# Sums are float64: where the sines of two machines differ in the last bit, the rounded bytes still agree.
X = torch.arange(SIZE, dtype=torch.float64)[None, :] - (SIZE - 1) / 2  # (1, 32), from the picture's centre to the right
Y = -X.T  # (32, 1), upwards


def disc(x: Tensor, y: Tensor, form: Tensor) -> Tensor:
    """All points within 1 of the centre; `form` is not used."""
    return torch.hypot(x, y) - 1


def ring(x: Tensor, y: Tensor, form: Tensor) -> Tensor:
    """A disc with a hole, from small to large."""
    hole = 0.25 + 0.4 * form
    return (torch.hypot(x, y) - (1 + hole) / 2).abs() - (1 - hole) / 2


def square(x: Tensor, y: Tensor, form: Tensor) -> Tensor:
    """A square of half-width 1, with sharp to round corners."""
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
    """A disc out of one side of which another is cut, deep to shallow."""
    return torch.maximum(disc(x, y, form), 0.8 - torch.hypot(x - 0.4 - 0.5 * form, y))


def heart(x: Tensor, y: Tensor, form: Tensor) -> Tensor:
    """A square on its corner with a disc at each of its upper sides; `form` is not used."""
    x, y = x.abs(), y + 0.1  # so that it is centred
    half_side = math.sqrt(0.5)
    return torch.minimum((x + y.abs() - 1) * half_side, torch.hypot(x - 0.5, y - 0.5) - half_side)


def stripes(x: Tensor, y: Tensor, form: Tensor) -> Tensor:
    """Three or four bars in a square of half-width 1, with gaps as wide as they are."""
    width = 2 / (2 * (3 + (2 * form).floor()) - 1)
    return torch.maximum(torch.maximum(x.abs(), y.abs()) - 1, _zigzag(y, width))


def checkerboard(x: Tensor, y: Tensor, form: Tensor) -> Tensor:
    """Every other of the 4 x 4 or 5 x 5 tiles of a square of half-width 1."""
    width = 2 / (4 + (2 * form).floor())
    column, row = _zigzag(x, width), _zigzag(y, width)
    tile = -torch.minimum(column.abs(), row.abs()) * torch.sign(column * row)
    return torch.maximum(torch.maximum(x.abs(), y.abs()) - 1, tile)


def _star(x: Tensor, y: Tensor, points: Tensor, notch: Tensor) -> Tensor:
    """A star of `points` points at distance 1, the first on top, with notches between them at distance `notch`."""
    half = math.pi / points
    angle = (torch.remainder(torch.atan2(x, y) + half, 2 * half) - half).abs()  # to the nearest point, 0 to `half`
    radius = torch.hypot(x, y)
    x, y = radius * angle.cos(), radius * angle.sin()  # every edge is folded onto that from (1, 0) to the notch
    edge_x, edge_y = notch * half.cos() - 1, notch * half.sin()
    return ((x - 1) * edge_y - y * edge_x) / torch.hypot(edge_x, edge_y)


def _zigzag(z: Tensor, width: Tensor) -> Tensor:
    """Distance to the nearest edge of bands of `width` from -1 on: negative in the first, positive in the second ..."""
    return (torch.remainder(z + 1 + width / 2, 2 * width) - width).abs() - width / 2


# Each class: the distance of points (x, y) from the outline of its figure, negative inside, for a `form` of 0 to 1, all
# (n, height, width) or broadcast to it; and the radius of a disc with the area that the figure has on average.
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
    """Draws `count` pictures: images (count, 3, 32, 32) uint8 and labels (count,) int64, indices into `CLASS_NAMES`.

    The same arguments give the same bytes on every machine. Classes are shuffled, and equally frequent to within one.
    """
    dice = _Dice(seed)
    labels = torch.randperm(count, generator=dice.generator) % len(CLASS_NAMES)
    return torch.cat([_draw(part, dice) for part in labels.split(CHUNK)]), labels


def render_splits(sizes: dict[str, int]) -> dict[str, LabeledImages]:
    """Pictures for each split, as many as `sizes` says; each split has a seed of its own, by its place."""
    return {
        split: LabeledImages(*render_images(count, seed), list(CLASS_NAMES))
        for seed, (split, count) in enumerate(sizes.items())
    }


class _Dice:
    """Random numbers; only uniform ones, as those of other distributions are computed differently on other processors."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform float64 numbers from `low` to `high`."""
        return low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def signs(self, positive_share: float, *shape: int) -> Tensor:
        """1 with the probability `positive_share`, else -1."""
        return torch.where(self.between(0, 1, *shape) < positive_share, 1.0, -1.0)


def _draw(labels: Tensor, dice: _Dice) -> Tensor:
    """Pictures (n, 3, 32, 32) uint8 of the figures `labels` (n,), painted from back to front."""
    n = len(labels)
    figure = _figures(labels, dice, RADIUS, OFFSET)
    clutter = _figures(dice.between(0, len(CLASS_NAMES), 2 * CLUTTER * n).long(), dice, CLUTTER_RADIUS, SIZE / 2).split(n)
    middle, contrast = dice.between(*MIDDLE, n), dice.signs(LIGHT_SHARE, n) * dice.between(*CONTRAST, n)
    clouds = dice.between(-CLOUDS, CLOUDS, n, 1, 6, 6)  # 6 x 6 values: each cloud is about 6 pixels wide
    images = _paint(middle - contrast / 2, dice) + F.interpolate(clouds, (SIZE, SIZE), mode="bicubic", align_corners=True)
    for cover in [*clutter[:CLUTTER], figure, *clutter[CLUTTER:], _lines(n, dice)]:
        brightness = middle + contrast / 2 if cover is figure else dice.between(*OTHER, n)
        images = images.lerp(_paint(brightness, dice), cover[:, None])
    images += dice.between(0, NOISE, n, 1, 1, 1) * dice.between(-1, 1, n, 3, SIZE, SIZE)
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def _paint(brightness: Tensor, dice: _Dice) -> Tensor:
    """Colours of a random hue and the mean `brightness` (n,), which changes along a random direction: (n, 3, 32, 32)."""
    n = len(brightness)
    hue = dice.between(0, 2 * math.pi, n, 1) + torch.tensor([0, 2, 4], dtype=torch.float64) * math.pi / 3  # (n, 3)
    color = brightness[:, None] + dice.between(0, SATURATION, n, 1) * hue.cos()  # the three cosines add up to 0
    angle, slope = dice.between(0, 2 * math.pi, n, 1, 1), dice.between(0, 2 * SHADE / SIZE, n, 1, 1)
    return color[:, :, None, None] + (slope * (X * angle.cos() + Y * angle.sin()))[:, None]


def _lines(n: int, dice: _Dice) -> Tensor:
    """The share of each pixel that a straight line covers, 0 to 1: (n, 32, 32)."""
    angle, offset = dice.between(0, math.pi, n, 1, 1), dice.between(-6, 6, n, 1, 1)  # near enough to cross most figures
    distance = (X * angle.cos() + Y * angle.sin() - offset).abs() - dice.between(*LINE_WIDTH, n, 1, 1) / 2
    return (0.5 - distance).clamp(0, 1)


def _figures(kinds: Tensor, dice: _Dice, radius: tuple[float, float], offset: float) -> Tensor:
    """The share of each pixel that figures of the classes `kinds` (n,) cover, 0 to 1: (n, 32, 32)."""
    n = len(kinds)
    size, form = dice.between(*radius, n, 1, 1), dice.between(0, 1, n, 1, 1)
    x, y = X - dice.between(-offset, offset, n, 1, 1), Y - dice.between(-offset, offset, n, 1, 1)
    angle, stretch = dice.between(-TILT, TILT, n, 1, 1), STRETCH ** dice.between(-0.5, 0.5, n, 1, 1)
    x, y = (x * angle.cos() + y * angle.sin()) * stretch, (y * angle.cos() - x * angle.sin()) / stretch
    x = x * dice.signs(0.5, n, 1, 1)  # mirrored pictures are as likely as the others
    x, y = x + _wave(y, size, dice), y + _wave(x, size, dice)
    distance = torch.empty(n, SIZE, SIZE, dtype=torch.float64)  # in pixels, but for what stretch and waves do to it
    for kind, (shape, mean_radius) in enumerate(SHAPES.values()):
        rows = torch.nonzero(kinds == kind).flatten()
        scale = size[rows] / mean_radius
        distance[rows] = scale * shape(x[rows] / scale, y[rows] / scale, form[rows])
    return (0.5 - distance / dice.between(*SOFTNESS, n, 1, 1)).clamp(0, 1)


def _wave(along: Tensor, size: Tensor, dice: _Dice) -> Tensor:
    """By how many pixels points are moved aside: a sine of their place `along` (n, 32, 32) figures of radius `size`."""
    n = len(along)
    height, phase = dice.between(0, WOBBLE, n, 1, 1) * size, dice.between(0, 2 * math.pi, n, 1, 1)
    return height * torch.sin(dice.between(0.8, 1.6, n, 1, 1) / size * along + phase)  # at most half a wave per figure
