"""Exercise positional_encoding: sinusoids for any length and dimension, and positions in padded sentences."""

import math
import random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foundations.comparing import check_device, check_equal, check_gradients
from foundations.exercise import Exercise

exercise = Exercise(
    title="Positional encodings: waves that tell attention the order",
    level="warm-up",
    minutes=15,
    link="projects.seq2seq.transformer:sinusoidal_embedding",
    why="without it the Transformer would translate a bag of words",
    hints=(
        "A pair of features is a clock's hand: one angle, its sine and its cosine. Each hand turns slower than the last.",
        "angle[position, i] = position / 10000^(2i / dim) for the pair i; feature 2i is its sine, 2i + 1 its cosine. The "
        "position in a sentence is the number of real tokens before it.",
        "torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :dim]; positions = "
        "((~padding).cumsum(1) - 1).clamp(min=0)",
    ),
    look_at="torch.nn.Transformer leaves positions to you: it takes vectors to which they were added.",
)


def reference(length: int, dim: int) -> Tensor:
    """Entry by entry, in float64."""
    table = torch.zeros(length, dim, dtype=torch.float64)
    for position in range(length):
        for j in range(dim):
            angle = position / 10000 ** (2 * (j // 2) / dim)
            table[position, j] = math.cos(angle) if j % 2 else math.sin(angle)
    return table


def added(x: Tensor, padding: Tensor) -> Tensor:
    """Sentence by sentence."""
    rows = []
    for sentence, hidden in zip(x, padding, strict=True):
        table, encoding = reference(len(sentence), x.shape[2]).to(x.dtype), torch.zeros_like(sentence)
        encoding[~hidden] = table[: int((~hidden).sum())]
        rows.append(sentence + encoding)
    return torch.stack(rows)


@exercise.property("sinusoids, even dimensions")
def even(answer: ModuleType, rng: random.Random) -> None:
    for length, dim in [(1, 2), (2, 2), (2, 4), (3, 4), (4, 4), (3, 6), (5, 8), (0, 4)]:
        check_equal(answer.sinusoids, length, dim, expected=reference(length, dim).float(), rtol=1e-4, atol=1e-4)


@exercise.property("sinusoids, odd dimensions")
def odd(answer: ModuleType, rng: random.Random) -> None:
    for length, dim in [(2, 1), (2, 3), (3, 3), (4, 5), (2, 7)]:
        check_equal(answer.sinusoids, length, dim, expected=reference(length, dim).float(), rtol=1e-4, atol=1e-4)


@exercise.property("far positions")
def far(answer: ModuleType, rng: random.Random) -> None:
    expected = reference(1000, 8).float()[900:]
    check_equal(lambda length, dim: answer.sinusoids(length, dim)[900:], 1000, 8, expected=expected, rtol=0, atol=2e-3)


@exercise.property("positions without padding")
def unpadded(answer: ModuleType, rng: random.Random) -> None:
    for b, t, d in [(1, 2, 2), (1, 4, 2), (3, 3, 3), (2, 4, 5), (2, 0, 4)]:
        x, padding = torch.randn(b, t, d), torch.zeros(b, t, dtype=torch.bool)
        check_equal(answer.add_positions, x, padding, expected=added(x, padding), rtol=1e-4, atol=1e-4)


@exercise.property("positions with padding")
def padded(answer: ModuleType, rng: random.Random) -> None:
    for padding in [
        torch.tensor([[False, True]]),
        torch.tensor([[True, False]]),
        torch.tensor([[True, True, False], [False, False, True], [True, True, True]]),
        torch.tensor([[True, False, False, True], [False, True, True, True]]),
    ]:
        x = torch.randn(*padding.shape, 2)
        check_equal(answer.add_positions, x, padding, expected=added(x, padding), rtol=1e-4, atol=1e-4)


@exercise.property("gradient, dtype and device")
def gradient(answer: ModuleType, rng: random.Random) -> None:
    x, padding = torch.randn(2, 3, 4), torch.tensor([[True, False, False], [False, False, True]])
    check_gradients(answer.add_positions, added, x, padding, atol=1e-4)
    check_device(answer.add_positions, x, padding)


def sinusoids_with(fault: str) -> Any:
    """Sinusoids with one of the known faults."""

    def sinusoids(length: int, dim: int) -> Tensor:
        positions = torch.arange(length)[:, None] + (1 if fault == "from_one" else 0)
        if fault == "each":
            angles = positions / 10000 ** (torch.arange(dim) / dim)
            return torch.where(torch.arange(dim) % 2 == 0, angles.sin(), angles.cos())
        steps = torch.arange(0, dim, 2)
        angles = positions / 10000 ** ((steps // 2 if fault == "pair_number" else steps) / dim)
        if fault == "halves":
            return torch.cat([angles.sin(), angles.cos()], 1)[:, :dim]
        table = torch.zeros(length, dim)
        if fault == "cosine_first":
            table[:, 1::2], table[:, ::2] = angles.sin()[:, : dim // 2], angles.cos()
        else:
            table[:, ::2] = angles.sin()
            table[:, 1::2] = angles.cos() if fault == "even_only" else angles.cos()[:, : dim // 2]
        return table

    return sinusoids


def positions_with(fault: str) -> Any:
    """Positions with one of the known faults."""

    def add_positions(x: Tensor, padding: Tensor) -> Tensor:
        from architectures.positional_encoding import sinusoids

        real = ~padding
        positions = (real.cumsum(1) - 1).clamp(min=0)
        if fault == "one_off":
            positions = real.cumsum(1).clamp(max=x.shape[1] - 1)
        if fault == "tensor":
            positions = torch.arange(x.shape[1], device=x.device).expand_as(padding)
        y = sinusoids(*x.shape[1:]).to(x)[positions]
        return x + y if fault == "padding_too" else x + y * real[..., None]

    return add_positions


exercise.wrong(
    "sinusoids",
    "Sines and cosines stand in two halves; the paper interleaves them. Both can be trained, and one cannot be loaded into "
    "the other.",
)(sinusoids_with("halves"))
exercise.wrong(
    "sinusoids",
    "Each feature has a wavelength of its own; a sine and its cosine share one: the exponent is 2i / dim for both.",
)(sinusoids_with("each"))
exercise.wrong("sinusoids", "The exponent of pair i is 2i / dim; yours is i / dim, and the longest waves are missing.")(
    sinusoids_with("pair_number")
)
exercise.wrong("sinusoids", "The first position is 0; yours is 1.")(sinusoids_with("from_one"))
exercise.wrong("sinusoids", "The sine comes first: feature 0 of position 0 is sin(0) = 0.")(sinusoids_with("cosine_first"))
exercise.wrong("sinusoids", "An odd dimension has one cosine fewer than sines: cut the cosines to dim // 2.")(
    sinusoids_with("even_only")
)
exercise.wrong(
    "add_positions",
    "Positions are counted from the tensor's edge: a sentence with padding before it begins somewhere else than 0.",
)(positions_with("tensor"))
exercise.wrong("add_positions", "cumsum counts the token itself: the first one gets the position 1. Subtract 1.")(
    positions_with("one_off")
)
exercise.wrong("add_positions", "The padding gets an encoding, too: it is to stay as it is.")(positions_with("padding_too"))


@exercise.also_right("sinusoids")
def entry_by_entry(length: int, dim: int) -> Tensor:
    rows = [
        [(math.cos if j % 2 else math.sin)(p * 10000.0 ** (-(j - j % 2) / dim)) for j in range(dim)] for p in range(length)
    ]
    return torch.tensor(rows, dtype=torch.float32).view(length, dim)


@exercise.also_right("sinusoids")
def by_complex_numbers(length: int, dim: int) -> Tensor:
    frequencies = torch.exp(-math.log(10000) / dim * torch.arange(0, dim, 2))
    angles = torch.outer(torch.arange(length).float(), frequencies)
    waves = torch.polar(torch.ones_like(angles), torch.pi / 2 - angles)  # i times the conjugate: sine, then cosine
    return torch.view_as_real(waves).flatten(1)[:, :dim]


@exercise.also_right("add_positions")
def sentence_by_sentence(x: Tensor, padding: Tensor) -> Tensor:
    from architectures.positional_encoding import sinusoids

    y = x.clone()
    for i, hidden in enumerate(padding):
        y[i, ~hidden] += sinusoids(int((~hidden).sum()), x.shape[2]).to(x.dtype)
    return y
