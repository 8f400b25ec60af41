"""Test-time augmentation and ensembles: the mean of several opinions

A network asked about an image and about its mirror image, or several networks asked once, err in different places.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def make_ensemble(make: Callable[[], nn.Module], seeds: Sequence[int]) -> list[nn.Module]:
    """One model for each seed, made right after `torch.manual_seed(seed)`.

    Args:
        make: Makes a model, with weights from torch's global generator.
        seeds: Seeds.

    Returns:
        The models. The global generator is afterwards as if nothing had been sampled.
    """
    models = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            models.append(make())
    return models


def predict_classes(models: Sequence[nn.Module], images: Tensor) -> Tensor:
    """Class probabilities: the mean over the models, and over each image and its horizontal flip.

    The models predict in evaluation mode. Afterwards each of their modules is in the mode that it was in.

    Args:
        models: Each maps images to logits (N, C).
        images: (N, channels, H, W).

    Returns:
        (N, C), without a graph.

    Example:
        Probabilities [0.8, 0.2] of the image and [0.6, 0.4] of its flip give [0.7, 0.3].
    """
    views = (images, images.flip(-1))
    return torch.stack([_logits(model, view).softmax(1) for model in models for view in views]).mean(0)


def predict_maps(models: Sequence[nn.Module], images: Tensor) -> Tensor:
    """Probabilities of the class of each pixel: the mean over the models, and over each image and its horizontal flip.

    Args:
        models: Each maps images to logits (N, C, H, W).
        images: (N, channels, H, W).

    Returns:
        (N, C, H, W), without a graph: entry [n, :, i, j] is about the pixel images[n, :, i, j].
    """
    maps = []
    for model in models:
        maps.append(_logits(model, images).softmax(1))
        maps.append(_logits(model, images.flip(-1)).softmax(1).flip(-1))
    return torch.stack(maps).mean(0)


def paired_gain(before: Tensor, after: Tensor) -> tuple[float, float]:
    """What a trick buys: mean and standard deviation, over seeds, of each seed's own gain.

    Args:
        before: (S,) scores without it, S at least 2.
        after: (S,) scores with it, of the same seeds in the same order.

    Returns:
        The mean gain and the standard deviation of the gains (dividing by S - 1).

    Example:
        before = [0.7, 0.9] and after = [0.8, 1.0] give 0.1 and 0.0.
    """
    gains = after - before
    return gains.mean().item(), gains.std().item()


@torch.no_grad()
def _logits(model: nn.Module, images: Tensor) -> Tensor:
    training = [module for module in model.modules() if module.training]
    model.eval()
    logits = model(images)
    for module in training:
        module.training = True
    return logits
