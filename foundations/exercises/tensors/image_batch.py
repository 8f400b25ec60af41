"""Exercise image_batch: permute is not reshape, and uint8 wraps."""

import random
from types import ModuleType

import torch
from torch import Tensor

from foundations.comparing import check_equal, check_that
from foundations.exercise import Exercise

exercise = Exercise(
    title="Image batch: from a list of images in memory to what a network takes",
    level="warm-up",
    minutes=8,
    link="projects.cifar10.networks:Normalize",
    why="uint8 images become floats around zero before the first convolution",
    hints=(
        "Stack the images to one tensor, move the channels to the front, then compute in floats.",
        "permute(0, 3, 1, 2) reorders the dimensions; x / 127.5 - 1 maps 0 to -1 and 255 to 1.",
        "torch.stack(images).permute(0, 3, 1, 2).float() / 127.5 - 1",
    ),
    source="torch._refs:stack",
    look_at="stack is a concatenation after a new dimension was put in. Which of unsqueeze and view does it use?",
)


def random_images(count: int, height: int, width: int) -> list[Tensor]:
    """Random images that begin with the entries 0, 255 and 128."""
    images = [torch.randint(256, (height, width, 3), dtype=torch.uint8) for _ in range(count)]
    for image in images:
        image.view(-1)[:3] = torch.tensor([0, 255, 128], dtype=torch.uint8)
    return images


def reference(images: list[Tensor]) -> Tensor:
    """Pixel by pixel."""
    height, width, _ = images[0].shape
    result = torch.empty(len(images), 3, height, width)
    for n, image in enumerate(images):
        for channel in range(3):
            result[n, channel] = image[:, :, channel].to(torch.float32) / 127.5 - 1
    return result


@exercise.property("shape and dtype")
def shape(answer: ModuleType, rng: random.Random) -> None:
    for images in (random_images(1, 1, 2), random_images(2, 3, 1), random_images(3, 3, 3)):
        result = answer.image_batch(images)
        expected = (len(images), 3, *images[0].shape[:2])
        check_that(isinstance(result, Tensor), "a tensor is expected", got=type(result).__name__, images=images)
        check_that(tuple(result.shape) == expected, "the shape differs", expected, tuple(result.shape), images=images)
        check_that(result.dtype == torch.float32, "the dtype differs", "float32", str(result.dtype), images=images)


@exercise.property("values")
def values(answer: ModuleType, rng: random.Random) -> None:
    for images in (
        random_images(1, 1, 2),
        random_images(2, 2, 3),
        random_images(3, 3, 3),
        random_images(4, 5, 3),
        random_images(1, 32, 32),
    ):
        check_equal(answer.image_batch, images, expected=reference(images))


@exercise.property("images that are slices of others")
def slices(answer: ModuleType, rng: random.Random) -> None:
    images = [image[1:3, ::2] for image in random_images(2, 4, 6)]
    check_equal(answer.image_batch, images, expected=reference(images))


@exercise.wrong(
    "image_batch",
    "reshape keeps the order in memory, pixel by pixel, and scrambles the image: permute moves the channels.",
)
def reshaped(images: list[Tensor]) -> Tensor:
    batch = torch.stack(images)
    n, height, width, _ = batch.shape
    return batch.reshape(n, 3, height, width).float() / 127.5 - 1


@exercise.wrong(
    "image_batch", "The arithmetic is done in uint8, which wraps at 256: convert to float before the first operation."
)
def wrapped(images: list[Tensor]) -> Tensor:
    return (torch.stack(images).permute(0, 3, 1, 2) * 2).float() / 255 - 1


@exercise.wrong("image_batch", "The channels are still last: networks take (N, 3, H, W). With three pixels it looks right.")
def channels_last(images: list[Tensor]) -> Tensor:
    return torch.stack(images).float() / 127.5 - 1


@exercise.wrong(
    "image_batch", "permute(0, 3, 2, 1) also exchanges height and width: every image is mirrored along its diagonal."
)
def transposed(images: list[Tensor]) -> Tensor:
    return torch.stack(images).permute(0, 3, 2, 1).float() / 127.5 - 1


@exercise.wrong("image_batch", "0 becomes 0 and 255 becomes 1: the range asked for is -1 to 1.")
def from_zero(images: list[Tensor]) -> Tensor:
    return torch.stack(images).permute(0, 3, 1, 2).float() / 255


@exercise.wrong(
    "image_batch", "The result is float64, which NumPy's division and double() make: networks compute in float32, float()."
)
def in_float64(images: list[Tensor]) -> Tensor:
    return torch.stack(images).permute(0, 3, 1, 2).double() / 127.5 - 1


@exercise.also_right("image_batch")
def by_einops_of_einsum(images: list[Tensor]) -> Tensor:
    return torch.einsum("nhwc->nchw", torch.stack(images).float()) * (2 / 255) - 1


@exercise.also_right("image_batch")
def channel_by_channel(images: list[Tensor]) -> Tensor:
    rows = []
    for image in images:
        rows.append(torch.stack([image[..., k].float().div(127.5).sub(1) for k in range(3)]))
    return torch.stack(rows)
