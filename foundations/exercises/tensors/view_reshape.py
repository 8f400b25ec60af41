"""Exercise view_reshape: views share memory, reshape copies without saying so."""

import random
from types import ModuleType

import torch
from torch import Tensor

from foundations.comparing import check_equal, check_raises, check_that
from foundations.exercise import Exercise

exercise = Exercise(
    title="View and reshape: the same numbers in another shape, with or without a copy",
    level="core",
    minutes=15,
    link="projects.seq2seq.transformer:MultiHeadAttention",
    why="the model's dimension is split into heads by a view, and joined again after the attention",
    hints=(
        "x.view never copies: it gives a view, or an error that says why not.",
        "The stride of a dimension is the product of the sizes after it.",
        "x.flatten(1); try x.view(shape) and turn its RuntimeError into a ValueError; multiply sizes from the right.",
    ),
    source="torch._refs:reshape",
    look_at="reshape tries to split and merge dimensions one by one. Find the place where it gives up and copies.",
)


@exercise.property("flattened images")
def flattened(answer: ModuleType, rng: random.Random) -> None:
    for shape in [(2, 3), (2, 1, 3), (2, 3, 2, 2), (1, 2, 2), (0, 3, 2)]:
        x = torch.arange(float(torch.Size(shape).numel())).view(shape)
        rows = [torch.tensor([float(v) for v in row.flatten().tolist()]) for row in x]
        width = torch.Size(shape[1:]).numel()
        check_equal(answer.flatten_images, x, expected=torch.stack(rows) if rows else torch.empty(0, width))


@exercise.property("flattened images of any memory layout")
def layouts(answer: ModuleType, rng: random.Random) -> None:
    x = torch.arange(12.0).view(3, 2, 2).permute(1, 2, 0)
    check_equal(answer.flatten_images, x, expected=torch.tensor([[0.0, 4, 8, 1, 5, 9], [2.0, 6, 10, 3, 7, 11]]))


@exercise.property("a view writes through")
def writes_through(answer: ModuleType, rng: random.Random) -> None:
    for x, shape in [
        (torch.arange(6.0).view(2, 3), (3, 2)),
        (torch.arange(6.0).view(2, 3), (6,)),
        (torch.arange(12.0).view(2, 2, 3).transpose(0, 1), (2, 2, 3, 1)),
        (torch.arange(16.0).view(4, 4)[:, :2], (2, 2, 2)),
    ]:
        before = x.clone()
        view = answer.view_or_raise(x, shape)
        check_that(tuple(view.shape) == shape, "the shape differs", shape, tuple(view.shape), x=before, shape=shape)
        view.view(-1)[0] if view.is_contiguous() else None
        view[(0,) * view.ndim] = 99.0
        check_that(
            x[(0,) * x.ndim] == 99.0, "writing into the result does not change x: it is a copy", x=before, shape=shape
        )
        view[(0,) * view.ndim] = before[(0,) * before.ndim]
        check_that(torch.equal(view.flatten(), before.flatten()), "the values differ", before, view, x=before, shape=shape)


@exercise.property("ValueError where a view cannot be had")
def raises(answer: ModuleType, rng: random.Random) -> None:
    for x, shape in [
        (torch.arange(6.0).view(2, 3).t(), (6,)),
        (torch.arange(16.0).view(4, 4)[:, :2], (8,)),
        (torch.arange(6.0), (4, 2)),
    ]:
        check_raises(answer.view_or_raise, x, shape, error=ValueError)


@exercise.property("strides")
def strides(answer: ModuleType, rng: random.Random) -> None:
    for shape in [(3,), (2, 3), (2, 3, 4), (3, 1, 2), (2, 2, 2, 5), ()]:
        check_equal(answer.contiguous_strides, shape, expected=torch.empty(shape).stride())


@exercise.wrong(
    "view_or_raise", "reshape copies where it cannot view, without saying so: writing into the copy changes nothing."
)
def silent_copy(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    try:
        return x.reshape(shape)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


@exercise.wrong("view_or_raise", "contiguous() is the copy: what comes after it is a view of the copy, not of x.")
def contiguous_copy(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    if x.numel() != torch.Size(shape).numel():
        raise ValueError(shape)
    return x.clone(memory_format=torch.contiguous_format).view(shape)


@exercise.wrong("view_or_raise", "Many tensors that are not contiguous have views: ask view itself, not is_contiguous.")
def only_contiguous(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    if not x.is_contiguous() or x.numel() != torch.Size(shape).numel():
        raise ValueError(shape)
    return x.view(shape)


@exercise.wrong("view_or_raise", "view raises RuntimeError; a ValueError is asked for.")
def wrong_error(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x.view(shape)


@exercise.wrong(
    "view_or_raise",
    "With another number of entries view and reshape raise RuntimeError: a ValueError is asked for there as well.",
)
def wrong_count(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    result = x.reshape(shape)
    if result.data_ptr() != x.data_ptr():
        raise ValueError(shape)
    return result


@exercise.wrong("flatten_images", "The batch is flattened too: only the dimensions after the first belong to one image.")
def batch_too(x: Tensor) -> Tensor:
    return x.flatten()


@exercise.wrong("flatten_images", "view(N, -1) needs sizes that lie together in memory: reshape or flatten take any layout.")
def view_only(x: Tensor) -> Tensor:
    return x.view(len(x), torch.Size(x.shape[1:]).numel())


@exercise.wrong("flatten_images", "-1 cannot be inferred when N is 0: flatten(1) knows the size.")
def inferred(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)


@exercise.wrong(
    "contiguous_strides",
    "The last dimension's neighbors lie side by side, stride 1: multiply from the right, not from the left.",
)
def from_the_left(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, product = [], 1
    for size in shape:
        strides.append(product)
        product *= size
    return tuple(strides)


@exercise.also_right("flatten_images")
def row_by_row(x: Tensor) -> Tensor:
    result = x.new_empty(len(x), torch.Size(x.shape[1:]).numel())
    for i, row in enumerate(x):
        result[i] = row.reshape(-1)
    return result


@exercise.also_right("contiguous_strides")
def by_products(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(torch.Size(shape[i + 1 :]).numel() for i in range(len(shape)))
