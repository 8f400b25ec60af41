"""Test-time augmentation: views and their weighted mean are those written out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from projects.cifar10.networks import SpeedNet
from projects.cifar10.tta import predict_logits, tta_views


def random_images(n: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8)


@pytest.mark.parametrize("level, count", [(0, 1), (1, 2), (2, 6)])
def test_views_have_weights_that_add_up_to_one(level, count):
    views = tta_views(random_images(2), level)
    assert len(views) == count
    assert sum(weight for weight, _ in views) == pytest.approx(1, abs=1e-12)


def test_six_views_are_those_written_by_hand():
    images = random_images(3)
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
    got = tta_views(images, 2)
    assert len(got) == len(expected)
    for weight, view in expected:
        matches = [(w, v) for w, v in got if torch.equal(v, view)]
        assert len(matches) == 1 and matches[0][0] == weight


@pytest.mark.parametrize("level", [0, 1, 2])
def test_without_flips_the_views_are_the_others_with_their_weights(level):
    images = random_images(2)
    flipped = [view for _, view in tta_views(images, 1)][1]
    views = tta_views(images, level, flip=False)
    assert sum(weight for weight, _ in views) == 1 and len(views) == (3 if level == 2 else 1)
    weights = [weight for weight, view in views if torch.equal(view, images)]
    assert weights == [0.5 if level == 2 else 1] and not any(torch.equal(view, flipped) for _, view in views)


@pytest.mark.parametrize("tta", [0, 1, 2])
def test_logits_are_the_weighted_mean_over_views(tta):
    net, x = SpeedNet((8, 8, 8)).eval(), random_images(5)
    padded = F.pad(x.double(), (1, 1, 1, 1), mode="reflect").to(torch.uint8)
    means = [(net(view) + net(view.flip(3))) / 2 for view in (x, padded[..., :32, :32], padded[..., 2:, 2:])]
    expected = [net(x), means[0], means[0] / 2 + means[1] / 4 + means[2] / 4][tta]
    got = predict_logits(net, x, tta)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert not got.requires_grad
    assert tta == 0 or not torch.allclose(got, net(x), atol=1e-3), "views that change nothing would prove nothing"


def test_a_flipped_image_has_the_same_logits():
    net, x = SpeedNet((8, 8, 8)).eval(), random_images(5)
    torch.testing.assert_close(predict_logits(net, x.flip(3), 1), predict_logits(net, x, 1))


def test_logits_are_float32_whatever_the_network_computes_in():
    assert predict_logits(lambda x: x.flatten(1)[:, :4].bfloat16(), random_images(5), 2).dtype == torch.float32
