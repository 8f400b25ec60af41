"""Feature extractors for image metrics. A Fréchet distance belongs to its features, so they have a name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data.sources import explain
from common.errors import UserError
from common.io.connectivity import reachable

INCEPTION_SERVER = "https://github.com"
INCEPTION_FILE = "weights-inception-2015-12-05-*.pth"  # where torch.hub keeps what it has downloaded
POOLED_SIZE = 8  # pixels a side
FEATURE_BATCH_SIZE = 32  # Inception enlarges each image to 22 MB in its first layers


@dataclass
class FeatureExtractor:
    """Feature extractor: `net` maps images (batch, 3, 32, 32) uint8 to features (batch, num_features)."""

    net: nn.Module
    name: str
    num_features: int


class PooledPixels(nn.Module):
    """Average-pooled pixels: the image itself at 8 x 8, which knows colors and coarse shapes and needs no weights."""

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, 3, size, size) uint8 -> (batch, 192) in [0, 1]."""
        return F.adaptive_avg_pool2d(images.float() / 255, POOLED_SIZE).flatten(1)


def load_features(features: str, checkpoint: str | None) -> FeatureExtractor:
    """Feature extractor of an option's value, frozen and in eval mode.

    Args:
        features: `pixels`; `inception`, the network of published FIDs, in its TensorFlow form; or a function,
            `PACKAGE.MODULE:FUNCTION`, that takes a checkpoint's path and returns a module from (batch, 3, 32, 32) uint8 to
            (batch, num_features).
        checkpoint: File with Inception's weights, which are else downloaded; or the function's argument.

    Raises:
        UserError: There are no such features, or what they need is missing.
    """
    if features == "pixels" and checkpoint is not None:
        raise UserError("--model.features_checkpoint: pixels have no weights; name the --model.features that it is of")
    if features == "pixels":
        net: Any = PooledPixels()
        name = f"pixels at {POOLED_SIZE} x {POOLED_SIZE}"
    elif features == "inception":
        net, name = load_inception(checkpoint), "Inception (FID)"
    else:
        net, name = call_loader(features, checkpoint), features if checkpoint is None else f"{features}({checkpoint})"
    probe = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    try:
        with torch.no_grad():
            probed = net.eval().requires_grad_(False)(probe)
        rows, num_features = probed.shape
        if rows != len(probe):
            raise ValueError(f"{rows} rows for {len(probe)} images")
        if not torch.isfinite(probed).all():
            raise ValueError("they are not finite")
    except Exception as error:  # a user's network may raise anything
        message = f"--model.features {features}: no features (batch, num_features) of images: {explain(error)}"
        raise UserError(message) from error
    return FeatureExtractor(net, name, num_features)


def call_loader(path: str, checkpoint: str | None) -> nn.Module:
    """Module that the function `PACKAGE.MODULE:FUNCTION` returns for `checkpoint`. Raises UserError if there is none."""
    module, _, function = path.partition(":")
    try:
        load = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"--model.features {path}: use pixels, inception, or PACKAGE.MODULE:FUNCTION ({error})") from error
    if checkpoint is None:
        raise UserError(f"--model.features {path}: add --model.features_checkpoint FILE")
    try:
        return load(checkpoint)
    except UserError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise UserError(f"--model.features {path}: it cannot load {checkpoint}: {explain(error)}") from error


def load_inception(weights: str | None) -> nn.Module:
    """Inception-v3 of the original FID, on images resized to 299 x 299. Raises UserError without weights or package."""
    from torchmetrics.image.fid import NoTrainInceptionV3

    downloaded = any(Path(torch.hub.get_dir(), "checkpoints").glob(INCEPTION_FILE))
    if weights is None and not downloaded and not reachable(INCEPTION_SERVER):
        raise UserError(
            f"--model.features inception: its weights cannot be downloaded ({INCEPTION_SERVER}); "
            "give the file with --model.features_checkpoint, or use other features"
        )
    try:
        # without antialiasing: the resize of the network that published FIDs come from
        return NoTrainInceptionV3("inception-v3-compat", ["2048"], weights, antialias=False)
    except ModuleNotFoundError as error:
        raise UserError('--model.features inception: run `pip install "lightning-capstones[fid]"`') from error
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise UserError(f"--model.features inception: weights that cannot be read: {explain(error)}") from error
