"""Logits of pictures: averaged over views of each picture, and over several networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from projects.cifar10.augment import test_views


@torch.no_grad()
def predict_logits(net: Callable[[Tensor], Tensor], images: Tensor, tta: int = 2) -> Tensor:
    """The weighted mean of the logits of the views of each picture (see `augment.test_views`).

    Args:
        net: maps (batch, 3, height, width) uint8 to logits (batch, classes).
        images: (batch, 3, height, width) uint8.
        tta: 0 for the picture alone, 1 with its mirror image, 2 with shifts as well.
    """
    logits = [weight * net(view).float() for weight, view in test_views(images, tta)]
    return torch.stack(logits).sum(0)  # (batch, classes)


def ensemble_probabilities(nets: Sequence[Callable[[Tensor], Tensor]], images: Tensor, tta: int = 2) -> Tensor:
    """The mean class probabilities (batch, classes) of several networks, each with its views.

    Probabilities, not logits, are averaged: networks trained apart have logits of different scale.
    """
    return torch.stack([predict_logits(net, images, tta).softmax(1) for net in nets]).mean(0)
