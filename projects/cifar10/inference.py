"""Inference: class probabilities of raw images, from one checkpoint or an ensemble of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.io.checkpoints import content_errors, load_module
from projects.cifar10.module import CIFAR10Module
from projects.cifar10.tta import predict_logits

BATCH_SIZE = 500  # images that are float at once


class ImageClassificationPipeline:
    """Ensemble of trained classifiers: the mean of their class probabilities, each with test-time augmentation.

    Probabilities, not logits, are averaged: networks trained apart have logits of different scale.

    Args:
        nets: Trained networks in eval mode, on one device.
        class_names: Name of each class.
        flips: For each network, whether test-time augmentation has horizontal flips; None for all of them.
    """

    def __init__(
        self, nets: Sequence[Callable[[Tensor], Tensor]], class_names: list[str], flips: Sequence[bool] | None = None
    ) -> None:
        self.nets = nets
        self.class_names = class_names
        self.flips = [True] * len(nets) if flips is None else flips

    @torch.inference_mode()
    def __call__(self, images: Tensor, tta: int = 2) -> Tensor:
        """Class probabilities (n, classes) of images (n, 3, height, width) uint8; `tta` as in `tta.tta_views`."""
        batches = []
        for batch in images.split(BATCH_SIZE):
            logits = [predict_logits(net, batch, tta, flip) for net, flip in zip(self.nets, self.flips, strict=True)]
            batches.append(torch.stack(logits).softmax(2).mean(0))
        return torch.cat(batches)


def load(*checkpoints: Path, device: str | torch.device = "cpu") -> ImageClassificationPipeline:
    """Pipeline of one or several checkpoints.

    Raises:
        UserError: A file is not a valid checkpoint of this project, or they were trained on different classes.
    """
    nets: list[nn.Module] = []
    class_names: list[list[str]] = []
    flips: list[bool] = []
    for path in checkpoints:
        module, checkpoint = load_module(path, CIFAR10Module, "cifar10")
        nets.append(module.net.to(device))
        with content_errors(path):
            class_names.append([str(name) for name in checkpoint["class_names"]])
        flips.append(checkpoint.get("horizontal_flip", True))
        if class_names[-1] != class_names[0]:
            classes = ", ".join(class_names[-1])
            raise UserError(f"checkpoint {path}: its classes are {classes}; {checkpoints[0]} has others")
    return ImageClassificationPipeline(nets, class_names[0], flips)


def load_features(checkpoint: str) -> nn.Module:
    """Feature extractor for Fréchet distances: a trained network without its last layer.

    Maps images (batch, 3, 32, 32) uint8 to features (batch, dim). Raises UserError if the file is not valid.
    """
    module, _ = load_module(Path(checkpoint), CIFAR10Module, "cifar10")
    return FeatureExtractor(module.net)


class FeatureExtractor(nn.Module):
    """A classifier without its last layer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) uint8 -> features (batch, dim)."""
        return self.net.features(images)  # type: ignore[operator]
