"""Exercise masked_mean: a mask by broadcasting, and why 0 * NaN is not 0."""

import random
from types import ModuleType

import torch
from torch import Tensor

from foundations.comparing import check_device, check_equal, check_gradients
from foundations.exercise import Exercise

exercise = Exercise(
    title="Masked mean: the average of each sequence's own vectors",
    level="core",
    minutes=15,
    link="projects.bert_sentiment.networks:MeanPooling",
    why="a sentence's vector is the mean of its tokens' vectors, without the padding",
    hints=(
        "Make a mask that is true at the real positions, use it to silence the padding, then divide by each own length.",
        "mask[b, t] = t < lengths[b]: compare positions (T,) with lengths (B, 1), which gives (B, T).",
        "x.masked_fill(~mask[..., None], 0).sum(1) / lengths.clamp(min=1)[:, None], with torch.arange(T, device=x.device).",
    ),
    source="torch.masked._ops:mean",
    look_at="torch.masked.mean sums the masked entries and divides by their count. What does it give for a row without any?",
)

NAN, INF = float("nan"), float("inf")


def reference(x: Tensor, lengths: Tensor) -> Tensor:
    """Sequence by sequence."""
    pairs = zip(x, lengths.tolist(), strict=True)
    return torch.stack([row[:length].mean(0) if length else torch.zeros_like(row[0]) for row, length in pairs])


@exercise.property("values")
def values(answer: ModuleType, rng: random.Random) -> None:
    for b, t, d in [(1, 2, 1), (2, 3, 4), (3, 4, 4), (4, 4, 3), (5, 5, 5)]:
        x, lengths = torch.randn(b, t, d), torch.randint(1, t + 1, (b,))
        check_equal(answer.masked_mean, x, lengths, expected=reference(x, lengths))


@exercise.property("length 0")
def empty(answer: ModuleType, rng: random.Random) -> None:
    x, lengths = torch.randn(2, 3, 2), torch.tensor([0, 2])
    check_equal(answer.masked_mean, x, lengths, expected=reference(x, lengths))


@exercise.property("padding may hold NaN")
def nan_padding(answer: ModuleType, rng: random.Random) -> None:
    x, lengths = torch.randn(2, 3, 2), torch.tensor([1, 3])
    x[0, 1:] = torch.tensor([[NAN, INF], [1e30, -1e30]])
    check_equal(answer.masked_mean, x, lengths, expected=reference(x, lengths))


@exercise.property("NaN in a real vector stays")
def nan_in_a_vector(answer: ModuleType, rng: random.Random) -> None:
    for x, length in [([[1.0, NAN], [3.0, 2.0]], 2), ([[1.0, NAN], [3.0, NAN]], 1), ([[INF], [1.0]], 2)]:
        x, lengths = torch.tensor([x]), torch.tensor([length])
        check_equal(answer.masked_mean, x, lengths, expected=reference(x, lengths))


@exercise.property("gradient")
def gradient(answer: ModuleType, rng: random.Random) -> None:
    check_gradients(answer.masked_mean, reference, torch.randn(3, 4, 2), torch.tensor([4, 1, 2]))


@exercise.property("any device")
def device(answer: ModuleType, rng: random.Random) -> None:
    check_device(answer.masked_mean, torch.randn(2, 3, 2), torch.tensor([1, 3]))


@exercise.wrong("masked_mean", "You divide by T, the padded length: each sequence has its own length.")
def divided_by_time(x: Tensor, lengths: Tensor) -> Tensor:
    mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return x.masked_fill(~mask[..., None], 0.0).mean(1)


@exercise.wrong(
    "masked_mean", "You multiply by the mask, and 0 * nan is nan: replace the padding (masked_fill, where) instead."
)
def multiplied(x: Tensor, lengths: Tensor) -> Tensor:
    mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return (x * mask[..., None]).sum(1) / lengths.clamp(min=1)[:, None]


SILENCED = (
    "NaN in a real vector vanishes too (nan_to_num, nanmean), and with it the sign of a bug: replace the padding alone."
)


@exercise.wrong("masked_mean", SILENCED)
def nan_to_zero(x: Tensor, lengths: Tensor) -> Tensor:
    mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return (x.nan_to_num(0, 0, 0) * mask[..., None]).sum(1) / lengths.clamp(min=1)[:, None]


@exercise.wrong("masked_mean", SILENCED)
def mean_of_the_others(x: Tensor, lengths: Tensor) -> Tensor:
    mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return x.masked_fill(~mask[..., None], NAN).nanmean(1).nan_to_num(0.0)


@exercise.wrong("masked_mean", "A mask (B, T) meets x (B, T, D) from the right: it needs a last dimension, mask[..., None].")
def mask_without_features(x: Tensor, lengths: Tensor) -> Tensor:
    mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return x.masked_fill(~mask, 0.0).sum(1) / lengths.clamp(min=1)[:, None]


@exercise.wrong(
    "masked_mean", "torch.arange is on the CPU unless you say so: give it device=x.device, or this fails on a GPU."
)
def positions_on_the_cpu(x: Tensor, lengths: Tensor) -> Tensor:
    mask = torch.arange(x.shape[1]) < lengths[:, None]
    return x.masked_fill(~mask[..., None], 0.0).sum(1) / lengths.clamp(min=1)[:, None]


@exercise.wrong("masked_mean", "A sequence of length 0 is divided by 0: let the divisor be at least 1.")
def divided_by_zero(x: Tensor, lengths: Tensor) -> Tensor:
    mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return x.masked_fill(~mask[..., None], 0.0).sum(1) / lengths[:, None]


@exercise.also_right("masked_mean")
def sequence_by_sequence(x: Tensor, lengths: Tensor) -> Tensor:
    rows = []
    for row, length in zip(x, lengths, strict=True):
        rows.append(row[:length].sum(0) / max(int(length), 1))
    return torch.stack(rows)


@exercise.also_right("masked_mean")
def by_einsum(x: Tensor, lengths: Tensor) -> Tensor:
    weights = (torch.arange(x.shape[1], device=x.device)[None] < lengths[:, None]).to(x.dtype)
    safe = torch.where(weights[..., None] > 0, x, torch.zeros_like(x))
    return torch.einsum("btd,bt->bd", safe, weights / lengths.clamp(min=1)[:, None].to(x.dtype))
