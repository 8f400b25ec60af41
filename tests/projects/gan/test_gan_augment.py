"""Augmentations of whole batches are what slow code does to one image, and gradients go through them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from projects.gan.augment import NUM_RANDOM, cutout_mask, diff_augment, translate

POLICIES = ("color", "translation", "cutout")

ALMOST_ONE = float(torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)))


def images_of(n: int, size: int = 8) -> Tensor:
    return 2 * torch.rand(n, 3, size, size, dtype=torch.double) - 1


def uniform(n: int, **fixed: float) -> Tensor:
    """All at 0.5, but for those that are named."""
    names = ["brightness", "saturation", "contrast", "down", "right", "row", "column"]
    return torch.tensor([[fixed.get(name, 0.5) for name in names]] * n, dtype=torch.double)


def random_numbers(n: int) -> Tensor:
    """Uniform float32 numbers, as in training; the first three images have the extremes."""
    random = torch.rand(n, NUM_RANDOM)
    random[0], random[1], random[2] = (
        0.0,
        ALMOST_ONE,
        1.0,
    )  # 1 itself only where numbers are rounded to fewer bits
    return random


def slow_color(image: Tensor, brightness: float, saturation: float, contrast: float) -> Tensor:
    out, size = image.clone(), image.shape[-1]
    for y in range(size):
        for x in range(size):
            pixel = [value + brightness - 0.5 for value in image[:, y, x].tolist()]
            gray = sum(pixel) / 3
            out[:, y, x] = torch.tensor([gray + 2 * saturation * (value - gray) for value in pixel])
    middle = math.fsum(out.flatten().tolist()) / out.numel()
    return middle + (out - middle) * (contrast + 0.5)


def slow_translation(image: Tensor, down: float, right: float) -> Tensor:
    size = image.shape[-1]
    most = math.floor(size / 8 + 0.5)
    dy, dx = (min(math.floor(fraction * (2 * most + 1)), 2 * most) - most for fraction in (down, right))
    out = torch.zeros_like(image)
    for y in range(size):
        for x in range(size):
            if 0 <= y - dy < size and 0 <= x - dx < size:
                out[:, y, x] = image[:, y - dy, x - dx]
    return out


def slow_cutout(image: Tensor, row: float, column: float) -> Tensor:
    size, out = image.shape[-1], image.clone()
    y, x = (min(math.floor(fraction * (size + 1)), size) for fraction in (row, column))
    for i in range(y - size // 4, y + size // 4):
        for j in range(x - size // 4, x + size // 4):
            if 0 <= i < size and 0 <= j < size:
                out[:, i, j] = 0
    return out


def test_without_policies_nothing_changes():
    images = images_of(4)
    assert torch.equal(diff_augment(images, random_numbers(4), ()), images)


def test_neutral_random_numbers_change_nothing():
    images = images_of(4)
    torch.testing.assert_close(diff_augment(images, uniform(4), ("color", "translation")), images)


def test_brightness_is_added():
    images = images_of(2)
    torch.testing.assert_close(diff_augment(images, uniform(2, brightness=0.9), ("color",)), images + 0.4)


def test_without_saturation_images_are_gray_and_with_the_most_twice_as_far_from_it():
    images = images_of(2)
    gray = (images[:, :1] + images[:, 1:2] + images[:, 2:]) / 3
    torch.testing.assert_close(diff_augment(images, uniform(2, saturation=0), ("color",)), gray.expand_as(images))
    torch.testing.assert_close(diff_augment(images, uniform(2, saturation=1), ("color",)), 2 * images - gray)


def test_contrast_goes_from_half_to_three_halves_around_each_image_s_mean():
    images = images_of(2)
    mean = torch.stack([image.mean() for image in images]).view(2, 1, 1, 1)
    for contrast, factor in [(0, 0.5), (1, 1.5)]:
        expected = mean + factor * (images - mean)
        torch.testing.assert_close(diff_augment(images, uniform(2, contrast=contrast), ("color",)), expected)


@pytest.mark.parametrize("size", [6, 8, 12, 32])
def test_translation_is_that_of_a_loop_with_zeros_behind(size):
    count = 60 if size < 32 else 12
    images, random = images_of(count, size), random_numbers(count)
    expected = torch.stack([slow_translation(image, *n[3:5].tolist()) for image, n in zip(images, random, strict=True)])
    assert torch.equal(translate(images, random[:, 3:5]), expected)


def test_translation_goes_from_up_and_left_to_down_and_right():
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, 16, 16] = 1
    for fraction, position in [(0.0, 12), (0.5, 16), (ALMOST_ONE, 20)]:
        moved = translate(image, torch.tensor([[fraction, 0.5]]))
        assert moved[0, 0].nonzero().tolist() == [[position, 16]]
        moved = translate(image, torch.tensor([[0.5, fraction]]))
        assert moved[0, 0].nonzero().tolist() == [[16, position]]


@pytest.mark.parametrize("size", [4, 8, 32])
def test_cutout_boxes_are_at_most_half_the_side_around_their_center(size):
    random = random_numbers(200)[:, 5:7]
    mask = cutout_mask(size, random)
    assert mask.shape == (200, 1, size, size) and set(mask.unique().tolist()) == {0, 1}
    expected = torch.stack([slow_cutout(torch.ones(1, size, size), *center.tolist()) for center in random])
    assert torch.equal(mask, expected)
    sides = (mask == 0).squeeze(1).any(2).sum(1)
    assert sides.max() == size // 2 and sides.min() == size // 4


def test_cutout_boxes_in_the_middle_and_at_the_borders():
    middle, corner, other = ~cutout_mask(8, torch.tensor([[0.5, 0.5], [0.0, 0.0], [ALMOST_ONE, 0.5]]))[:, 0]
    expected = torch.zeros(3, 8, 8)
    expected[0, 2:6, 2:6] = expected[1, :2, :2] = expected[2, 6:, 2:6] = 1
    assert torch.equal(torch.stack([middle, corner, other]), expected)


def test_all_changes_together_are_those_of_one_image_after_the_other():
    images, random = images_of(20), random_numbers(20).double()
    expected = []
    for image, n in zip(images, random.tolist(), strict=True):
        expected.append(slow_cutout(slow_translation(slow_color(image, *n[:3]), *n[3:5]), *n[5:]))
    before = images.clone()
    for policies in (POLICIES, POLICIES[::-1]):
        torch.testing.assert_close(diff_augment(images, random, policies), torch.stack(expected))
    assert torch.equal(images, before), "the input images stay as they are"


def test_gradients_go_through_every_change():
    random = torch.rand(2, NUM_RANDOM, dtype=torch.double)
    random[:, 5:] = 0.3  # not all of an image of 4 x 4 in the cutout box
    images = images_of(2, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: diff_augment(x, random, POLICIES), images)
    assert torch.autograd.grad(diff_augment(images, random, POLICIES).sum(), images)[0].abs().sum() > 0


def test_real_and_fake_with_the_same_random_numbers_are_augmented_alike():
    real, fake, random = images_of(30), images_of(30), random_numbers(30).double()
    both = diff_augment(torch.cat([real, fake]), torch.cat([random, random]), POLICIES)
    got = diff_augment(real, random, POLICIES), diff_augment(fake, random, POLICIES)
    torch.testing.assert_close(both, torch.cat(got))
    random[:, 0] = 0.5  # all but brightness is linear
    torch.testing.assert_close(got[0] - got[1], diff_augment(real - fake, random, POLICIES))
