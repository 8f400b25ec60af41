"""Exercise broadcast_shapes: the rules of broadcasting, in plain Python."""

import random
from types import ModuleType

import torch

from foundations.comparing import check_equal, check_raises
from foundations.exercise import Exercise

exercise = Exercise(
    title="Broadcasting: the shape of a sum, from the shapes of its terms",
    level="core",
    minutes=12,
    link="projects.seq2seq.transformer:additive_mask",
    why="a mask of one row per sentence stretches over heads and queries",
    hints=(
        "Compare the sizes from the right; where one shape is shorter, its missing sizes count as 1.",
        "Sizes n and m fit if n == m, n == 1 or m == 1; the result is the one that is not 1.",
        "Pad the shorter with ones at its left; m if n == 1 else n; ValueError where they differ and neither is 1.",
    ),
    source="torch._refs:_broadcast_shapes",
    look_at="The same loop, from the back. What does it do with a size of 1 that meets a size of 0?",
    barred=(
        "broadcast_shapes",
        "broadcast_tensors",
        "torch.functional.broadcast_shapes",
        "torch.functional.broadcast_tensors",
        "numpy.broadcast_shapes",
        "numpy.broadcast_arrays",
    ),
)

Shape = tuple[int, ...]
FITTING: list[tuple[Shape, Shape]] = [
    ((2,), (2,)),
    ((3,), (1,)),
    ((3, 1), (1, 4)),
    ((2, 1), (5,)),
    ((5,), (5, 1)),
    ((4, 3), (3,)),
    ((), (2, 3)),
    ((), ()),
    ((8, 1, 6, 1), (7, 1, 5)),
]


@exercise.property("shapes that fit")
def fitting(answer: ModuleType, rng: random.Random) -> None:
    for a, b in FITTING:
        for first, second in ((a, b), (b, a)):
            check_equal(answer.broadcast_shapes, first, second, expected=tuple(torch.broadcast_shapes(first, second)))


@exercise.property("sizes of 0")
def zero(answer: ModuleType, rng: random.Random) -> None:
    for a, b in [((0,), (1,)), ((3, 0), (3, 1)), ((0, 2), (1, 2))]:
        for first, second in ((a, b), (b, a)):
            check_equal(answer.broadcast_shapes, first, second, expected=tuple(torch.broadcast_shapes(first, second)))


@exercise.property("shapes that do not fit")
def unfitting(answer: ModuleType, rng: random.Random) -> None:
    for a, b in [((2,), (3,)), ((2,), (4,)), ((2, 3), (2,)), ((0,), (2,)), ((4, 3, 2), (4, 1, 3))]:
        for first, second in ((a, b), (b, a)):
            check_raises(answer.broadcast_shapes, first, second, error=ValueError)


@exercise.wrong("broadcast_shapes", "The shapes are aligned from the left; broadcasting aligns them from the right.")
def from_the_left(a: Shape, b: Shape) -> Shape:
    dims = max(len(a), len(b))
    a, b = a + (1,) * (dims - len(a)), b + (1,) * (dims - len(b))
    if any(n != m and 1 not in (n, m) for n, m in zip(a, b, strict=True)):
        raise ValueError((a, b))
    return tuple(m if n == 1 else n for n, m in zip(a, b, strict=True))


@exercise.wrong("broadcast_shapes", "max(n, m) makes 1 of a 0 and a 1: the size that is not 1 wins, and that is 0.")
def largest(a: Shape, b: Shape) -> Shape:
    dims = max(len(a), len(b))
    a, b = (1,) * (dims - len(a)) + a, (1,) * (dims - len(b)) + b
    if any(n != m and 1 not in (n, m) for n, m in zip(a, b, strict=True)):
        raise ValueError((a, b))
    return tuple(max(n, m) for n, m in zip(a, b, strict=True))


@exercise.wrong("broadcast_shapes", "2 and 4 do not fit, though 4 is a multiple of 2: only a size of 1 stretches.")
def multiples(a: Shape, b: Shape) -> Shape:
    dims = max(len(a), len(b))
    a, b = (1,) * (dims - len(a)) + a, (1,) * (dims - len(b)) + b
    for n, m in zip(a, b, strict=True):
        if n != m and 1 not in (n, m) and (0 in (n, m) or max(n, m) % min(n, m)):
            raise ValueError((a, b))
    return tuple(m if n == 1 else n if m == 1 else max(n, m) for n, m in zip(a, b, strict=True))


@exercise.wrong("broadcast_shapes", "Shapes of unequal length fit too: the shorter one gets sizes of 1 at its left.")
def equal_lengths_only(a: Shape, b: Shape) -> Shape:
    if len(a) != len(b) or any(n != m and 1 not in (n, m) for n, m in zip(a, b, strict=True)):
        raise ValueError((a, b))
    return tuple(m if n == 1 else n for n, m in zip(a, b, strict=True))


@exercise.also_right("broadcast_shapes")
def recursive(a: Shape, b: Shape) -> Shape:
    if not a or not b:
        return a or b
    n, m = a[-1], b[-1]
    if n == m or m == 1:
        return (*recursive(a[:-1], b[:-1]), n)
    if n == 1:
        return (*recursive(a[:-1], b[:-1]), m)
    raise ValueError


@exercise.also_right("broadcast_shapes")
def by_sets(a: Shape, b: Shape) -> Shape:
    result: list[int] = []
    for i in range(1, max(len(a), len(b)) + 1):
        sizes = {shape[-i] for shape in (a, b) if len(shape) >= i} - {1}
        if len(sizes) > 1:
            raise ValueError(f"{a} {b}")
        result.insert(0, sizes.pop() if sizes else 1)
    return tuple(result)
