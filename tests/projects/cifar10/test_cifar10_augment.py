"""Augmentation of whole batches does to each picture what slow, obvious code does to one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from projects.cifar10 import augment as augment_module
from projects.cifar10.augment import Augmentation, Draws, augment, crop_and_flip, cut, draw, reflect_pad

views_at_test = augment_module.test_views  # under its own name pytest would take it for a test
GRAY = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)


def noise(n: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8)


def one_by_one(images: Tensor, draws: Draws, augmentation: Augmentation) -> Tensor:
    """Each picture by itself: padded by torch, sliced, mirrored, its hole filled pixel by pixel."""
    pad, (height, width) = augmentation.pad, images.shape[-2:]
    out = []
    for image, flip, (dy, dx), (top, left) in zip(images, draws.flip, draws.shift, draws.hole, strict=True):
        padded = F.pad(image.float()[None], (pad,) * 4, mode="reflect")[0].to(torch.uint8) if pad else image
        picture = padded[:, dy : dy + height, dx : dx + width].clone()
        if flip:
            picture = picture.flip(-1)
        for y in range(top, top + augmentation.cutout):
            for x in range(left, left + augmentation.cutout):
                picture[:, y, x] = GRAY[:, 0, 0]
        out.append(picture)
    return torch.stack(out)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation("random", pad=4, cutout=12),
        Augmentation("none", pad=0, cutout=5),
        Augmentation("random", pad=1),
        Augmentation("none", pad=0),
    ],
    ids=str,
)
def test_a_batch_is_augmented_like_its_pictures_one_by_one(augmentation):
    images, before = noise(300), None
    for epoch in range(3):
        draws = draw(300, 32, epoch, 7, augmentation)
        got = augment(reflect_pad(images, augmentation.pad), torch.arange(len(images)), draws, augmentation, GRAY)
        assert got.dtype == torch.uint8
        assert torch.equal(got, one_by_one(images, draws, augmentation))
        assert before is None or augmentation == Augmentation("none", pad=0) or not torch.equal(got, before)
        before = got


def test_crops_of_pictures_that_are_not_square():
    images, draws = noise(60, 9, 14), draw(60, 9, 0, 1, Augmentation("random", pad=3))
    assert torch.equal(
        crop_and_flip(reflect_pad(images, 3), torch.arange(60), draws, 3),
        one_by_one(images, draws, Augmentation("random", pad=3)),
    )


def test_a_picture_is_augmented_alike_in_every_batch():
    images, augmentation = noise(50), Augmentation("random", pad=2, cutout=4)
    draws, index = draw(50, 32, 3, 5, augmentation), torch.randperm(50)[:20]
    padded = reflect_pad(images, augmentation.pad)
    whole = augment(padded, torch.arange(50), draws, augmentation, GRAY)
    assert torch.equal(augment(padded, index, draws[index], augmentation, GRAY), whole[index])


@pytest.mark.parametrize("pad", [1, 2, 4])
def test_reflect_pad_is_that_of_torch(pad):
    images = noise(3, 8, 11)
    assert torch.equal(reflect_pad(images, pad), F.pad(images.double(), (pad,) * 4, mode="reflect").to(torch.uint8))


def test_cut_fills_exactly_the_square():
    images = noise(2).clamp(max=200)
    color = torch.full((3, 1, 1), 255, dtype=torch.uint8)
    holed = cut(images, torch.tensor([[0, 0], [25, 10]]), 7, color) == 255
    expected = torch.zeros(2, 3, 32, 32, dtype=torch.bool)
    expected[0, :, 0:7, 0:7] = expected[1, :, 25:32, 10:17] = True
    assert torch.equal(holed, expected)


def test_alternating_flip_is_exactly_opposite_from_epoch_to_epoch():
    flips = [draw(1000, 32, epoch, 3, Augmentation("alternating")).flip for epoch in range(5)]
    assert torch.equal(flips[0], ~flips[1])
    assert torch.equal(flips[0], flips[2]) and torch.equal(flips[0], flips[4]) and torch.equal(flips[1], flips[3])
    assert 420 < int(flips[0].sum()) < 580
    assert not torch.equal(flips[0], draw(1000, 32, 0, 4, Augmentation("alternating")).flip), "another seed, another coin"


def test_random_flip_tosses_a_new_coin_every_epoch():
    first, second = (draw(1000, 32, epoch, 3, Augmentation("random")).flip for epoch in (0, 1))
    assert 420 < int((first == second).sum()) < 580
    assert not draw(1000, 32, 0, 3, Augmentation("none")).flip.any()


def test_shifts_and_holes_are_uniform_over_all_places():
    n, augmentation = 50_000, Augmentation(pad=2, cutout=12)
    draws = draw(n, 32, 1, 0, augmentation)
    for values, places in [(draws.shift, 5), (draws.hole, 32 - 12 + 1)]:
        for column in values.T:
            counts = torch.bincount(column, minlength=places).double()
            assert len(counts) == places
            # Pearson's statistic has mean `places - 1`; six of its standard deviations
            statistic = float(((counts - n / places) ** 2 / (n / places)).sum())
            assert statistic < places - 1 + 6 * (2 * (places - 1)) ** 0.5
    joint = torch.bincount(draws.shift[:, 0] * 5 + draws.shift[:, 1], minlength=25).double()
    assert float(((joint - n / 25) ** 2 / (n / 25)).sum()) < 24 + 6 * 48**0.5, "row and column are independent"


def test_draws_are_a_function_of_seed_and_epoch_alone():
    augmentation = Augmentation("random", pad=2, cutout=3)
    first = vars(draw(40, 32, 2, 9, augmentation))
    torch.manual_seed(123)
    again = vars(draw(40, 32, 2, 9, augmentation))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    for other in (draw(40, 32, 3, 9, augmentation), draw(40, 32, 2, 10, augmentation)):
        assert all(not torch.equal(value, vars(other)[name]) for name, value in first.items())


@pytest.mark.parametrize("level, count", [(0, 1), (1, 2), (2, 6)])
def test_views_at_test_have_weights_that_add_up_to_one(level, count):
    views = views_at_test(noise(2), level)
    assert len(views) == count
    assert sum(weight for weight, _ in views) == pytest.approx(1, abs=1e-12)


def test_six_views_are_those_written_by_hand():
    images = noise(3)
    padded = F.pad(images.double(), (1, 1, 1, 1), mode="reflect").to(torch.uint8)
    up_left, down_right = padded[:, :, :32, :32], padded[:, :, 2:, 2:]
    expected = [
        (1 / 4, images),
        (1 / 4, images.flip(3)),
        (1 / 8, up_left),
        (1 / 8, up_left.flip(3)),
        (1 / 8, down_right),
        (1 / 8, down_right.flip(3)),
    ]
    got = views_at_test(images, 2)
    assert len(got) == len(expected)
    for weight, view in expected:
        matches = [(w, v) for w, v in got if torch.equal(v, view)]
        assert len(matches) == 1 and matches[0][0] == weight


@pytest.mark.parametrize(
    "options, message",
    [
        ({"flip": "sometimes"}, "flip is 'sometimes'; use alternating, random or none"),
        ({"pad": -1}, "0 or more"),
        ({"cutout": -4}, "0 or more"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)
