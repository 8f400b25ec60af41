"""Exercise slicing: ends that count from the back, no negative steps, blocks and pairs, writing into a copy."""

import random
from types import ModuleType

import torch
from torch import Tensor

from foundations.comparing import check_equal
from foundations.exercise import Exercise

exercise = Exercise(
    title="Slicing: rows, columns, borders, blocks, and writing into them",
    level="warm-up",
    minutes=12,
    link="projects.cifar10.augment:cutout",
    why="a square of each training image is overwritten with one color",
    hints=(
        "x[a:b:c] takes from a up to, not including, b; a list of indices takes those rows; two lists take pairs.",
        "flip(-1) reverses a dimension. An index (R, 1) and an index (C,) broadcast to all R x C crossings.",
        "x[-2:, ::2]; x.flip(-1); x[rows][:, columns]; on a clone: result[torch.tensor(rows)[:, None], columns] = value.",
    ),
    source="torch._refs:flip",
    look_at="flip returns a copy, where NumPy's x[::-1] is a view. What would a view need that torch's tensors lack?",
)


def numbered(*shape: int) -> Tensor:
    """Tensor of the numbers from 0 on."""
    return torch.arange(float(torch.Size(shape).numel())).view(shape)


@exercise.property("last rows, every second column")
def rows(answer: ModuleType, rng: random.Random) -> None:
    for shape in [(2, 3), (3, 4), (5, 5), (4, 1)]:
        x = numbered(*shape)
        check_equal(answer.last_rows, x, expected=torch.stack([x[-2], x[-1]]).index_select(1, torch.arange(0, shape[1], 2)))


@exercise.property("mirror")
def mirror(answer: ModuleType, rng: random.Random) -> None:
    for shape in [(1, 3), (2, 2), (2, 3, 4), (0, 2), (3,)]:
        x = numbered(*shape)
        index = torch.arange(shape[-1] - 1, -1, -1)
        check_equal(answer.mirrored, x, expected=x.index_select(-1, index))


@exercise.property("block of crossings")
def crossings(answer: ModuleType, rng: random.Random) -> None:
    for picked, across in [([0, 2], [1, 3]), ([2, 0, 1], [3, 0]), ([1], [0, 1, 2]), ([0, 0], [1, 1])]:
        x = numbered(3, 4)
        expected = torch.tensor([[float(4 * i + j) for j in across] for i in picked])
        check_equal(answer.block, x, picked, across, expected=expected)


@exercise.property("writing into a block of a copy")
def written(answer: ModuleType, rng: random.Random) -> None:
    for picked, across in [([0, 2], [1, 3]), ([2, 0, 1], [3, 0]), ([1], [2])]:
        x = numbered(3, 4)
        expected = x.clone()
        for i in picked:
            for j in across:
                expected[i, j] = -1.0
        check_equal(answer.with_block, x, picked, across, -1.0, expected=expected)


@exercise.property("border")
def borders(answer: ModuleType, rng: random.Random) -> None:
    for height, width in [(2, 2), (2, 3), (3, 2), (3, 3), (4, 5)]:
        x = numbered(height, width)
        top = [(0, j) for j in range(width)]
        right = [(i, width - 1) for i in range(1, height)]
        bottom = [(height - 1, j) for j in range(width - 2, -1, -1)]
        left = [(i, 0) for i in range(height - 2, 0, -1)]
        expected = torch.stack([x[i, j] for i, j in [*top, *right, *bottom, *left]])
        check_equal(answer.border, x, expected=expected)


@exercise.wrong(
    "mirrored",
    "torch has no negative steps in slices, NumPy has: use flip.",
    seen="https://github.com/pytorch/pytorch/issues/59786",
)
def negative_step(x: Tensor) -> Tensor:
    return x[..., ::-1]


@exercise.wrong("mirrored", "flip(0) turns the rows around: the columns are the last dimension, flip(-1).")
def first_dimension(x: Tensor) -> Tensor:
    return x.flip(0)


@exercise.wrong(
    "mirrored",
    "flip(1), or fliplr, turns the second dimension around: the columns are the last, flip(-1), of any x (..., M).",
)
def second_dimension(x: Tensor) -> Tensor:
    return x.flip(1)


@exercise.wrong("last_rows", "x[-2:-1] ends before the last row: leave the end of the slice away.")
def without_the_last(x: Tensor) -> Tensor:
    return x[-2:-1, ::2]


@exercise.wrong(
    "block", "Two lists of indices are read as pairs: (0, 1) and (2, 3) alone, or an error where their lengths differ."
)
def pairs(x: Tensor, rows: list[int], columns: list[int]) -> Tensor:
    return x[rows, columns]


@exercise.wrong("with_block", "x[rows] is a copy, and the second index writes into that copy: nothing is kept.")
def into_a_copy(x: Tensor, rows: list[int], columns: list[int], value: float) -> Tensor:
    result = x.clone()
    result[rows][:, columns] = value
    return result


@exercise.wrong("with_block", "You write into x itself: the caller's tensor changes. Clone it first.")
def in_place(x: Tensor, rows: list[int], columns: list[int], value: float) -> Tensor:
    x[torch.tensor(rows)[:, None], torch.tensor(columns)] = value
    return x


@exercise.wrong("border", "The corners are read twice: each side begins after the corner where the one before it ended.")
def corners_twice(x: Tensor) -> Tensor:
    return torch.cat([x[0], x[:, -1], x[-1].flip(0), x[:, 0].flip(0)])


@exercise.also_right("with_block")
def by_mask(x: Tensor, rows: list[int], columns: list[int], value: float) -> Tensor:
    row = torch.zeros(x.shape[0], dtype=torch.bool)
    row[rows] = True
    column = torch.zeros(x.shape[1], dtype=torch.bool)
    column[columns] = True
    return x.masked_fill(row[:, None] & column, value)


@exercise.also_right("border")
def by_rotating(x: Tensor) -> Tensor:
    sides = []
    for turns in range(4):
        sides.append(torch.rot90(x, turns)[0, : torch.rot90(x, turns).shape[1] - 1])
    return torch.cat(sides)
