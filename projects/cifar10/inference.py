"""Inference: class probabilities of raw images, from one checkpoint or an ensemble of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from common.data.inputs import check_images
from common.errors import UserError
from common.io.checkpoints import PathLike, checkpoint_paths, content_errors, load_module
from projects.cifar10.config import IMAGE_SIZE
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
        device: Where to compute.
        temperatures: For each network, the temperature that its logits are divided by; None for 1.
    """

    def __init__(
        self,
        nets: Sequence[Callable[[Tensor], Tensor]],
        class_names: list[str],
        flips: Sequence[bool] | None = None,
        device: str | torch.device = "cpu",
        temperatures: Sequence[float] | None = None,
    ) -> None:
        self.nets = nets
        self.class_names = class_names
        self.flips = [True] * len(nets) if flips is None else flips
        self.device = device
        self.temperatures = [1.0] * len(nets) if temperatures is None else temperatures

    @torch.inference_mode()
    def __call__(self, images: Tensor | Sequence[Tensor], tta: int = 2) -> Tensor:
        """Calibrated class probabilities (n, classes) of images, each (3, 32, 32) uint8; `tta` as in `tta.tta_views`.

        Raises UserError for images of another shape or type.
        """
        check_images(images, IMAGE_SIZE)
        batches = [torch.empty(0, len(self.class_names))]
        for start in range(0, len(images), BATCH_SIZE):
            rows = images[start : start + BATCH_SIZE]
            batch = (rows if isinstance(rows, Tensor) else torch.stack(list(rows))).to(self.device)  # (batch, 3, h, w)
            networks = zip(self.nets, self.flips, self.temperatures, strict=True)
            logits = [predict_logits(net, batch, tta, flip) / temperature for net, flip, temperature in networks]
            batches.append(torch.stack(logits).softmax(2).mean(0).cpu())
        return torch.cat(batches)


def load(checkpoint: PathLike | Sequence[PathLike], device: str | torch.device = "cpu") -> ImageClassificationPipeline:
    """Classifier of images from a run's checkpoint, or from several.

    Args:
        checkpoint: Checkpoint of a run; of several the probabilities are averaged.
        device: Where to compute.

    Raises:
        UserError: A file is not a valid checkpoint of this project, or they were trained on different classes.

    Example:
        >>> classifier = load("best.ckpt", device="cpu")
        >>> probabilities = classifier(images)  # (n, 3, 32, 32) uint8 -> (n, classes), calibrated
        >>> names = [classifier.class_names[label] for label in probabilities.argmax(1)]
        >>> len(names) == len(images)
        True
    """
    checkpoints = checkpoint_paths(checkpoint)
    nets: list[nn.Module] = []
    class_names: list[list[str]] = []
    flips: list[bool] = []
    temperatures: list[float] = []
    for path in checkpoints:
        module, saved = load_module(path, CIFAR10Module, "cifar10")
        nets.append(module.net.to(device))
        with content_errors(path, saved):
            class_names.append([str(name) for name in saved["class_names"]])
        flips.append(saved.get("horizontal_flip", True))
        temperatures.append(module.temperature.item())
        if class_names[-1] != class_names[0]:
            classes = ", ".join(class_names[-1])
            raise UserError(f"checkpoint {path}: its classes are {classes}; {checkpoints[0]} has others")
    return ImageClassificationPipeline(nets, class_names[0], flips, device, temperatures)


def load_features(checkpoint: PathLike) -> nn.Module:
    """Feature extractor for Fréchet distances: a trained network without its last layer.

    Maps images (batch, 3, 32, 32) uint8 to features (batch, dim). Raises UserError if the file is not valid.
    """
    module, _ = load_module(checkpoint, CIFAR10Module, "cifar10")
    return FeatureExtractor(module.net)


class FeatureExtractor(nn.Module):
    """A classifier without its last layer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) uint8 -> features (batch, dim)."""
        return self.net.features(images)  # type: ignore[operator]
