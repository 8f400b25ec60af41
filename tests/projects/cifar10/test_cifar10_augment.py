"""Augmentation of whole batches does to each image what slow, obvious code does to one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from projects.cifar10.augment import AugmentParams, augment, crop_and_flip, cutout, reflect_pad, sample_params
from projects.cifar10.config import AugmentationConfig

GRAY = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)


def noise(n: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8)


def one_by_one(images: Tensor, params: AugmentParams, augmentation: AugmentationConfig) -> Tensor:
    """Each image by itself: padded by torch, sliced, flipped, its box filled pixel by pixel."""
    pad, (height, width) = augmentation.pad, images.shape[-2:]
    out = []
    for image, flip, (dy, dx), (top, left) in zip(
        images, params.flip, params.crop_offset, params.cutout_corner, strict=True
    ):
        padded = F.pad(image.float()[None], (pad,) * 4, mode="reflect")[0].to(torch.uint8) if pad else image
        crop = padded[:, dy : dy + height, dx : dx + width].clone()
        if flip:
            crop = crop.flip(-1)
        for y in range(top, top + augmentation.cutout):
            for x in range(left, left + augmentation.cutout):
                crop[:, y, x] = GRAY[:, 0, 0]
        out.append(crop)
    return torch.stack(out)


@pytest.mark.parametrize(
    "augmentation",
    [
        AugmentationConfig(),
        AugmentationConfig("random", pad=4, cutout=12),
        AugmentationConfig("none", pad=0, cutout=5),
        AugmentationConfig("random", pad=1),
        AugmentationConfig("none", pad=0),
    ],
    ids=str,
)
def test_a_batch_is_augmented_like_its_images_one_by_one(augmentation):
    images, before = noise(60), None
    for epoch in range(3):
        params = sample_params(60, 32, epoch, 7, augmentation)
        got = augment(reflect_pad(images, augmentation.pad), torch.arange(len(images)), params, augmentation, GRAY)
        assert got.dtype == torch.uint8
        assert torch.equal(got, one_by_one(images, params, augmentation))
        assert before is None or augmentation == AugmentationConfig("none", pad=0) or not torch.equal(got, before)
        before = got


def test_crops_of_images_that_are_not_square():
    images, params = noise(60, 9, 14), sample_params(60, 9, 0, 1, AugmentationConfig("random", pad=3))
    assert torch.equal(
        crop_and_flip(reflect_pad(images, 3), torch.arange(60), params, 3),
        one_by_one(images, params, AugmentationConfig("random", pad=3)),
    )


def test_an_image_is_augmented_alike_in_every_batch():
    images, augmentation = noise(50), AugmentationConfig("random", pad=2, cutout=4)
    params, index = sample_params(50, 32, 3, 5, augmentation), torch.randperm(50)[:20]
    padded = reflect_pad(images, augmentation.pad)
    whole = augment(padded, torch.arange(50), params, augmentation, GRAY)
    assert torch.equal(augment(padded, index, params[index], augmentation, GRAY), whole[index])


@pytest.mark.parametrize("pad", [1, 2, 4])
def test_reflect_pad_is_that_of_torch(pad):
    images = noise(3, 8, 11)
    assert torch.equal(reflect_pad(images, pad), F.pad(images.double(), (pad,) * 4, mode="reflect").to(torch.uint8))


def test_cutout_fills_exactly_the_box():
    images = noise(2).clamp(max=200)
    color = torch.full((3, 1, 1), 255, dtype=torch.uint8)
    filled = cutout(images, torch.tensor([[0, 0], [25, 10]]), 7, color) == 255
    expected = torch.zeros(2, 3, 32, 32, dtype=torch.bool)
    expected[0, :, 0:7, 0:7] = expected[1, :, 25:32, 10:17] = True
    assert torch.equal(filled, expected)


def test_alternating_flip_is_exactly_opposite_from_epoch_to_epoch():
    alternating = AugmentationConfig("alternating")
    flips = [sample_params(1000, 32, epoch, 3, alternating).flip for epoch in range(5)]
    assert torch.equal(flips[0], ~flips[1])
    assert torch.equal(flips[0], flips[2]) and torch.equal(flips[0], flips[4]) and torch.equal(flips[1], flips[3])
    assert 420 < int(flips[0].sum()) < 580
    assert not torch.equal(flips[0], sample_params(1000, 32, 0, 4, alternating).flip), "another seed, other flips"


def test_random_flip_is_sampled_anew_in_every_epoch():
    first, second = (sample_params(1000, 32, epoch, 3, AugmentationConfig("random")).flip for epoch in (0, 1))
    assert 420 < int((first == second).sum()) < 580
    assert not sample_params(1000, 32, 0, 3, AugmentationConfig("none")).flip.any()


def test_crops_and_boxes_are_uniform_over_all_positions():
    n, augmentation = 50_000, AugmentationConfig(pad=2, cutout=12)
    params = sample_params(n, 32, 1, 0, augmentation)
    for values, count in [(params.crop_offset, 5), (params.cutout_corner, 32 - 12 + 1)]:
        for column in values.T:
            counts = torch.bincount(column, minlength=count).double()
            assert len(counts) == count
            # Pearson's statistic has mean `count - 1`; six of its standard deviations
            statistic = float(((counts - n / count) ** 2 / (n / count)).sum())
            assert statistic < count - 1 + 6 * (2 * (count - 1)) ** 0.5
    joint = torch.bincount(params.crop_offset[:, 0] * 5 + params.crop_offset[:, 1], minlength=25).double()
    assert float(((joint - n / 25) ** 2 / (n / 25)).sum()) < 24 + 6 * 48**0.5, "row and column are independent"


def test_parameters_are_a_function_of_seed_and_epoch_alone():
    augmentation = AugmentationConfig("random", pad=2, cutout=3)
    first = vars(sample_params(40, 32, 2, 9, augmentation))
    torch.manual_seed(123)
    again = vars(sample_params(40, 32, 2, 9, augmentation))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    for other in (sample_params(40, 32, 3, 9, augmentation), sample_params(40, 32, 2, 10, augmentation)):
        assert all(not torch.equal(value, vars(other)[name]) for name, value in first.items())
