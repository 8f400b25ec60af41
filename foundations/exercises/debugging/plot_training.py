"""Exercise plot_training: smoothed curves and what they say, filters, attention."""

import math
import random
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType

import torch
from torch import Tensor, nn

from foundations.comparing import check_equal, check_that
from foundations.exercise import Exercise

exercise = Exercise(
    title="Plot training: curves, first filters and attention, as they are given to imshow",
    level="core",
    minutes=30,
    link="common.plots.images:draw_filters",
    why="every run on images draws its first filters when it ends, each scaled on its own",
    hints=(
        "Ask of each number where it ends up: which start, which scale, which dimension last, which length?",
        "s / (1 - weight^t); filter / its largest; (rows, columns, C, h, w) -> (rows, h, columns, w, C); rows[:t, :s].",
        "tiles.view(rows, columns, C, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, C); empty tiles are 0.5.",
    ),
    source="torch.optim.swa_utils:get_ema_avg_fn",
    look_at="The same average, of weights. It needs no correction: what does AveragedModel begin with, instead of zeros?",
)


@exercise.property("smooth: a constant, the first value, weight 0")
def smooth_start(answer: ModuleType, rng: random.Random) -> None:
    check_equal(answer.smooth, torch.tensor([4.0]), 0.9, expected=torch.tensor([4.0]))
    check_equal(answer.smooth, torch.full((3,), 2.0), 0.5, expected=torch.full((3,), 2.0))
    check_equal(answer.smooth, torch.tensor([1.0, 5.0, -2.0]), 0.0, expected=torch.tensor([1.0, 5.0, -2.0]))


@exercise.property("smooth: values")
def smooth_values(answer: ModuleType, rng: random.Random) -> None:
    for t, weight in [(2, 0.5), (3, 0.9), (8, 0.6)]:
        values = torch.randn(t)
        expected = []
        for i in range(1, t + 1):
            shares = torch.tensor([weight ** (i - j) for j in range(1, i + 1)])
            expected.append((shares * values[:i]).sum() / shares.sum())
        check_equal(answer.smooth, values, weight, expected=torch.stack(expected))
    values = torch.randn(6, dtype=torch.float64)[::2]
    first, second, third = values.tolist()
    expected64 = [first, (0.5 * first + second) / 1.5, (0.25 * first + 0.5 * second + third) / 1.75]
    check_equal(answer.smooth, values, 0.5, expected=torch.tensor(expected64, dtype=torch.float64))


CURVES = [
    ([4.0, 1.0], [4.0, 2.0], "fine"),
    ([4.0, 3.0], [4.0, 3.0], "underfitting"),
    ([4.0, 1.0], [2.0, 3.0], "overfitting"),
    ([1.0, 3.0], [1.0, 1.0], "unstable"),
    ([4.0, 2.0, 1.0], [4.0, 3.0, 3.2], "fine"),
    ([4.0, 2.0, 1.0], [4.0, 3.0, 3.4], "overfitting"),
    ([4.0, 2.0, 2.0], [4.0, 3.0, 3.0], "fine"),
    ([4.0, 2.0, 2.25], [4.0, 3.0, 3.0], "underfitting"),
    ([4.0, 1.0, 2.0], [4.0, 3.0, 3.0], "fine"),
    ([4.0, 0.5, 1.25, 1.0], [4.0, 3.0, 3.0, 3.0], "unstable"),
    ([4.0, 1.0, 0.5, 0.25], [4.0, 9.0, 5.0, 3.0], "fine"),
    ([4.0, 0.1], [4.0, 3.9], "fine"),
    ([4.0, 3.0], [2.0, 4.0], "overfitting"),
    ([4.0], [4.0], "underfitting"),
    ([4.0, 1.0, 9.0], [1.0, 1.0, 2.0], "unstable"),
]


@exercise.property("verdict: finite losses")
def finite(answer: ModuleType, rng: random.Random) -> None:
    for train, val, expected in CURVES:
        check_equal(answer.verdict, torch.tensor(train), torch.tensor(val), expected=expected)


@exercise.property("verdict: losses that are not finite")
def not_finite(answer: ModuleType, rng: random.Random) -> None:
    for bad in (math.nan, math.inf):
        for train, val in [([4.0, bad], [4.0, 2.0]), ([4.0, 1.0], [4.0, bad]), ([bad, 1.0], [4.0, 2.0]), ([bad], [bad])]:
            check_equal(answer.verdict, torch.tensor(train), torch.tensor(val), expected="unstable")


def reference_grid(weight: Tensor, columns: int) -> Tensor:
    """Pixel by pixel."""
    count, channels, h, w = weight.shape
    grid = torch.full((math.ceil(count / columns) * h, columns * w, channels), 0.5, dtype=weight.dtype)
    for f in range(count):
        y, x = f // columns * h, f % columns * w
        scale = max(weight[f].abs().max().item(), 1e-30)
        for c in range(channels):
            grid[y : y + h, x : x + w, c] = 0.5 + 0.5 * weight[f, c] / scale
    return grid


@exercise.property("filter_grid: one filter")
def one_filter(answer: ModuleType, rng: random.Random) -> None:
    for shape in [(1, 1, 1, 2), (1, 3, 2, 2), (1, 2, 2, 3), (1, 3, 3, 3)]:
        weight = torch.randn(shape)
        check_equal(answer.filter_grid, weight, 1, expected=reference_grid(weight, 1))


@exercise.property("filter_grid: several filters")
def several_filters(answer: ModuleType, rng: random.Random) -> None:
    for shape, columns in [((2, 1, 1, 2), 2), ((2, 1, 2, 1), 1), ((4, 3, 2, 2), 2), ((3, 2, 2, 3), 2), ((2, 1, 1, 1), 3)]:
        weight = torch.randn(shape) * torch.tensor([1.0, 100.0, 0.001, 1.0])[: shape[0], None, None, None]
        check_equal(answer.filter_grid, weight, columns, expected=reference_grid(weight, columns))


@exercise.property("filter_grid: zeros, a parameter, any layout")
def unusual_filters(answer: ModuleType, rng: random.Random) -> None:
    weight = torch.randn(3, 1, 2, 2)
    weight[1] = 0
    check_equal(answer.filter_grid, weight, 3, expected=reference_grid(weight, 3))
    weight = torch.randn(2, 2, 3, 2, dtype=torch.float64).transpose(1, 3)
    check_equal(answer.filter_grid, weight, 2, expected=reference_grid(weight, 2))
    parameter = nn.Parameter(torch.randn(2, 3, 2, 2))
    got = check_equal(answer.filter_grid, parameter, 2, expected=reference_grid(parameter.detach(), 2))
    check_that(not got.requires_grad, "the image requires a gradient, which imshow refuses", False, True)


@exercise.property("attention_maps")
def attention(answer: ModuleType, rng: random.Random) -> None:
    for (b, t, s), targets, sources in [
        ((1, 1, 2), [1], [1]),
        ((1, 2, 2), [1], [2]),
        ((2, 3, 2), [2, 3], [2, 1]),
        ((2, 3, 3), [1, 3], [2, 0]),
        ((3, 2, 4), [0, 2, 1], [4, 3, 1]),
        ((2, 2, 2), [2, 2], [2, 2]),
    ]:
        weights = torch.rand(b, t, s)
        expected = [
            torch.stack([weights[i, j, : sources[i]] for j in range(targets[i])]) if targets[i] else None for i in range(b)
        ]
        shown = [torch.empty(0, sources[i]) if rows is None else rows for i, rows in enumerate(expected)]
        check_equal(answer.attention_maps, weights, torch.tensor(targets), torch.tensor(sources), expected=shown)


@exercise.wrong(
    "smooth",
    "The curve begins near 0, because the average does: after t values its weights add up to 1 - weight^t. Divide by that.",
)
def starts_at_zero(values: Tensor, weight: float) -> Tensor:
    average, smoothed = values.new_zeros(()), []
    for value in values:
        average = weight * average + (1 - weight) * value
        smoothed.append(average)
    return torch.stack(smoothed)


@exercise.wrong(
    "smooth",
    "The first value is kept at full weight, weight^(t-1) of all: one bad first batch lifts the whole curve. Begin with 0 "
    "and divide by 1 - weight^t.",
)
def starts_at_the_first(values: Tensor, weight: float) -> Tensor:
    smoothed = [values[0]]
    for value in values[1:]:
        smoothed.append(weight * smoothed[-1] + (1 - weight) * value)
    return torch.stack(smoothed)


def verdict_with(fault: str) -> Callable[[Tensor, Tensor], str]:
    """`verdict` with one of the known faults."""

    def verdict(train: Tensor, val: Tensor) -> str:
        if not (torch.isfinite(train).all() and torch.isfinite(val).all()) and fault != "nan":
            return "unstable"
        if any(b > 2 * a for a, b in pairwise(train)) or (fault == "nan" and train.isinf().any()):
            return "unstable"
        gap = val[-1] > 1.1 * train[-1] if fault == "gap" else val[-1] > 1.1 * min(val)
        if gap:
            return "overfitting"
        return "underfitting" if 2 * train[-1] > train[0] else "fine"

    return verdict


exercise.wrong(
    "verdict",
    "A gap between the two curves is normal, as long as the validation loss still falls: compare it with its own minimum.",
)(verdict_with("gap"))
exercise.wrong(
    "verdict",
    "No comparison with NaN is true, so a loss that is NaN passes every test: ask isfinite() before anything else.",
)(verdict_with("nan"))


def grid_with(fault: str) -> Callable[[Tensor, int], Tensor]:
    """`filter_grid` with one of the known faults."""

    def filter_grid(weight: Tensor, columns: int) -> Tensor:
        weight = weight if fault == "graph" else weight.detach()
        count, channels, h, w = weight.shape
        scale = weight.abs().flatten(1).max(1).values
        if fault == "together":
            scale = scale.max().expand(count)
        if fault != "zeros":
            scale = scale.clamp(min=1e-30)
        tiles = [0.5 + 0.5 * f / s for f, s in zip(weight, scale, strict=True)]
        tiles = [f.reshape(h, w, channels) if fault == "reshaped" else f.permute(1, 2, 0) for f in tiles]
        while len(tiles) % columns:
            tiles.append(torch.full_like(tiles[0], 0.5))
        return torch.cat([torch.cat(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)])

    return filter_grid


exercise.wrong(
    "filter_grid",
    "All filters are scaled together: next to the largest one the others are gray. Scale each by its own largest entry.",
)(grid_with("together"))
exercise.wrong(
    "filter_grid",
    "reshape gives (h, w, C) without moving a number: colors are mixed with columns. permute the channels to the end.",
)(grid_with("reshaped"))
exercise.wrong("filter_grid", "A filter of zeros is 0 / 0: NaN, which is drawn as a hole. Divide it by 1.")(
    grid_with("zeros")
)
exercise.wrong(
    "filter_grid",
    "The image still hangs on the parameter's graph, and imshow calls numpy(), which raises then: detach() first.",
)(grid_with("graph"))


@exercise.wrong(
    "attention_maps",
    "The padding's columns are still shown: a sentence looks as if it had empty words at its end. Crop the source as well.",
)
def padding_columns(weights: Tensor, target_lengths: Tensor, source_lengths: Tensor) -> list[Tensor]:
    return [rows[:t] for rows, t in zip(weights, target_lengths.tolist(), strict=True)]


@exercise.wrong("attention_maps", "The two lengths have changed places: rows are target tokens, columns are source tokens.")
def exchanged(weights: Tensor, target_lengths: Tensor, source_lengths: Tensor) -> list[Tensor]:
    return [rows[:s, :t] for rows, t, s in zip(weights, target_lengths, source_lengths, strict=True)]


@exercise.also_right("smooth")
def by_matrix(values: Tensor, weight: float) -> Tensor:
    lag = torch.arange(len(values))[:, None] - torch.arange(len(values))
    kernel = torch.where(lag >= 0, torch.tensor(float(weight), dtype=values.dtype) ** lag.clamp(min=0), 0.0)
    return (kernel / kernel.sum(1, keepdim=True)).to(values.dtype) @ values


exercise.also_right("filter_grid")(grid_with(""))
exercise.also_right("verdict")(verdict_with(""))


@exercise.also_right("attention_maps")
def by_masks(weights: Tensor, target_lengths: Tensor, source_lengths: Tensor) -> tuple[Tensor, ...]:
    rows = torch.arange(weights.shape[1]) < target_lengths[:, None]
    columns = torch.arange(weights.shape[2]) < source_lengths[:, None]
    return tuple(w[r][:, c] for w, r, c in zip(weights, rows, columns, strict=True))
