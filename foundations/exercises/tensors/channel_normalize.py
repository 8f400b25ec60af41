"""Exercise channel_normalize: broadcasting along the right dimension."""

import random
from types import ModuleType

import torch
from torch import Tensor

from foundations.comparing import check_equal, check_gradients
from foundations.exercise import Exercise

exercise = Exercise(
    title="Channel normalization: one mean and one standard deviation for each color",
    level="core",
    minutes=8,
    link="projects.cifar10.networks:Normalize",
    why="each color gets mean 0 and standard deviation 1 over the training images",
    hints=(
        "mean has one entry for each channel; give it dimensions of size 1 where height and width stand.",
        "(C,) becomes (C, 1, 1), which fits (C, H, W) and (N, C, H, W) alike, aligned from the right.",
        "(x - mean[:, None, None]) / std[:, None, None]",
    ),
    source="torchvision.transforms._functional_tensor:normalize",
    look_at="torchvision views mean as (-1, 1, 1), then subtracts in place on a copy. What does it refuse first?",
    barred=("normalize",),
)


def reference(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Channel by channel."""
    parts = [(part - mean[c]) / std[c] for c, part in enumerate(x.unbind(-3))]
    return torch.stack(parts, -3)


@exercise.property("batches")
def batches(answer: ModuleType, rng: random.Random) -> None:
    for shape in [(1, 2, 1, 1), (1, 2, 1, 3), (2, 3, 4, 5), (2, 3, 3, 3), (3, 2, 2, 4), (2, 3, 3, 2), (0, 2, 2, 2)]:
        x, mean, std = torch.randn(shape), torch.randn(shape[1]), torch.rand(shape[1]) + 0.5
        check_equal(answer.channel_normalize, x, mean, std, expected=reference(x, mean, std))


@exercise.property("one image")
def single(answer: ModuleType, rng: random.Random) -> None:
    for shape in [(2, 1, 1), (2, 1, 3), (3, 4, 5), (3, 3, 3)]:
        x, mean, std = torch.randn(shape), torch.randn(shape[0]), torch.rand(shape[0]) + 0.5
        check_equal(answer.channel_normalize, x, mean, std, expected=reference(x, mean, std))


@exercise.property("gradient")
def gradient(answer: ModuleType, rng: random.Random) -> None:
    check_gradients(answer.channel_normalize, reference, torch.randn(2, 3, 2, 2), torch.randn(3), torch.rand(3) + 0.5)


@exercise.wrong("channel_normalize", "mean (C,) meets the last dimension, W: an error, or silently wrong where W equals C.")
def along_the_width(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (x - mean) / std


@exercise.wrong(
    "channel_normalize", "mean[None, :, None, None] has four dimensions and makes a batch of one image: use [:, None, None]."
)
def batch_of_one(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (x - mean[None, :, None, None]) / std[None, :, None, None]


@exercise.wrong(
    "channel_normalize", "sub_ and div_ change the caller's images: the second epoch would normalize them again."
)
def in_place(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return x.sub_(mean[:, None, None]).div_(std[:, None, None])


@exercise.wrong("channel_normalize", "Only the mean is divided: parentheses around the difference, (x - mean) / std.")
def without_parentheses(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return x - mean[:, None, None] / std[:, None, None]


@exercise.wrong("channel_normalize", "mean[:, None] has shape (C, 1) and meets the height: one more dimension is needed.")
def along_the_height(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (x - mean[:, None]) / std[:, None]


@exercise.also_right("channel_normalize")
def by_moving_the_channels(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return ((x.movedim(-3, -1) - mean) / std).movedim(-1, -3)


@exercise.also_right("channel_normalize")
def on_a_copy(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    y = x.clone()
    for channel in range(len(mean)):
        y[..., channel, :, :] -= mean[channel]
        y[..., channel, :, :] /= std[channel]
    return y
