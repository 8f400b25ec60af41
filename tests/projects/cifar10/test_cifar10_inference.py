"""Averages over views and over networks are those written out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from projects.cifar10.inference import ensemble_probabilities, predict_logits
from projects.cifar10.networks import SpeedNet


def images() -> Tensor:
    return torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)


def nets(count: int) -> list[SpeedNet]:
    return [SpeedNet((8, 8, 8)).eval() for _ in range(count)]


@pytest.mark.parametrize("tta", [0, 1, 2])
def test_logits_are_the_weighted_mean_over_views(tta):
    (net,), x = nets(1), images()
    padded = F.pad(x.double(), (1, 1, 1, 1), mode="reflect").to(torch.uint8)
    mirrored = [(net(view) + net(view.flip(3))) / 2 for view in (x, padded[..., :32, :32], padded[..., 2:, 2:])]
    expected = [net(x), mirrored[0], mirrored[0] / 2 + mirrored[1] / 4 + mirrored[2] / 4][tta]
    got = predict_logits(net, x, tta)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert not got.requires_grad
    assert tta == 0 or not torch.allclose(got, net(x), atol=1e-3), "views that change nothing would prove nothing"


def test_a_mirrored_picture_has_the_same_logits_with_its_mirror_image():
    (net,), x = nets(1), images()
    torch.testing.assert_close(predict_logits(net, x.flip(3), 1), predict_logits(net, x, 1))


def test_logits_are_float32_whatever_the_network_computes_in():
    assert predict_logits(lambda x: x.flatten(1)[:, :4].bfloat16(), images(), 2).dtype == torch.float32


def test_an_ensemble_averages_probabilities_and_not_logits():
    x, members = images(), nets(3)
    with torch.no_grad():
        members[0].head.weight.mul_(50)  # a network that is surer than the others
    logits = [predict_logits(net, x, 1) for net in members]
    expected = sum(each.exp() / each.exp().sum(1, keepdim=True) for each in logits) / 3
    got = ensemble_probabilities(members, x, 1)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got.sum(1), torch.ones(5))
    assert not torch.allclose(got, torch.stack(logits).mean(0).softmax(1), atol=1e-3)


def test_an_ensemble_of_one_is_its_network():
    (net,), x = nets(1), images()
    torch.testing.assert_close(ensemble_probabilities([net], x, 0), net(x).softmax(1))
