"""Four small data sets of shapes, and the oracle that says which class an image shows."""

import random

import torch
from torch import Tensor

DIGITS = {
    "0": "### #.# #.# #.# ###",
    "1": ".#. ##. .#. .#. ###",
    "2": "### ..# ### #.. ###",
    "3": "### ..# ### ..# ###",
    "4": "#.# #.# ### ..# ..#",
    "5": "### #.. ### ..# ###",
    "6": "### #.. ### #.# ###",
    "7": "### ..# ..# ..# ..#",
    "9": "### #.# ### ..# ###",
}
ARROWS = {"left": "..#.. .#... ##### .#... ..#..", "right": "..#.. ...#. ##### ...#. ..#.."}
CHIRPS = {"rising": "....# ...#. ..#.. .#... #....", "falling": "#.... .#... ..#.. ...#. ....#"}
PHOTOS = {
    "on the ground": ["..... .#... #####", "..... ...#. #####", "##... ##... #####", "...## ...## #####"],
    "in the air": [".#... ..... #####", "...#. ..... #####", "##... ..... #####", "...## ..... #####"],
}
SETS: dict[str, dict[str, list[str]]] = {
    "digits": {name: [shape] for name, shape in DIGITS.items()},
    "arrows": {name: [shape] for name, shape in ARROWS.items()},
    "photos": PHOTOS,
    "chirps": {name: [shape] for name, shape in CHIRPS.items()},
}
HEIGHT, WIDTH = 7, 8  # of an image: a crop by one pixel cuts nothing off


def to_mask(shape: str) -> Tensor:
    """A shape of rows such as "#.#" as a bool tensor."""
    return torch.tensor([[pixel == "#" for pixel in row] for row in shape.split()])


def make_images(data: str, count: int, rng: random.Random) -> tuple[Tensor, Tensor, list[str]]:
    """Images (count, 2, 7, 8) in random brightness, masks (count, 7, 8) that are 1 at the shape, and class names."""
    images, masks = torch.zeros(count, 2, HEIGHT, WIDTH), torch.zeros(count, HEIGHT, WIDTH, dtype=torch.int64)
    labels = [rng.choice(sorted(SETS[data])) for _ in range(count)]
    for image, mask, label in zip(images, masks, labels, strict=True):
        shape = to_mask(rng.choice(SETS[data][label]))
        height, width = shape.shape
        top, left = rng.randint(1, HEIGHT - height - 1), rng.randint(1, WIDTH - width - 1)
        mask[top : top + height, left : left + width] = shape
        image.copy_((torch.rand(image.shape) + 0.5) * mask)
    return images, masks, labels


def recognize(data: str, image: Tensor) -> str:
    """Class of the shape in an image (2, H, W), wherever it stands; "no class" if it is none of the data set."""
    lit = image.sum(0) > 0
    rows, columns = lit.any(1).nonzero()[:, 0].tolist(), lit.any(0).nonzero()[:, 0].tolist()
    if not rows:
        return "no class"
    box = lit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].tolist()
    shape = " ".join("".join("#" if pixel else "." for pixel in row) for row in box)
    known = {one.removeprefix("..... "): name for name, shapes in SETS[data].items() for one in shapes}
    return known.get(shape, "no class")
