"""Networks whose features generated pictures are judged by. A figure belongs to its features, so they have a name."""

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
POOLED = 8  # pixels a side
FEATURE_BATCH = 32  # pictures at once: Inception enlarges each of them to 22 MB in its first layers


@dataclass
class Features:
    """`net` maps pictures (batch, 3, 32, 32) uint8 to features (batch, width); `name` stands beside every figure."""

    net: nn.Module
    name: str
    width: int


class PooledPixels(nn.Module):
    """The picture itself at 8 x 8 pixels: knows colours and coarse shapes, needs no weights."""

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, size, size) uint8 -> (batch, 192) from 0 to 1."""
        return F.adaptive_avg_pool2d(images.float() / 255, POOLED).flatten(1)


def load_features(features: str, checkpoint: str | None) -> Features:
    """The features that an option names, ready to be used.

    Args:
        features: `pixels`; `inception`, the network of published figures, in its TensorFlow form; or a function,
            `PACKAGE.MODULE:FUNCTION`, that takes a checkpoint's path and returns a module from (batch, 3, 32, 32) uint8 to
            (batch, width).
        checkpoint: a file: Inception's weights, else they are downloaded; or what the function takes.

    Raises:
        UserError: no such features, or what they need is missing.
    """
    if features == "pixels" and checkpoint is not None:
        raise UserError("--model.features_checkpoint: pixels have no weights; name the --model.features that it is of")
    if features == "pixels":
        net: Any = PooledPixels()
        name = f"pixels at {POOLED} x {POOLED}"
    elif features == "inception":
        net, name = inception(checkpoint), "Inception (FID)"
    else:
        net, name = imported(features, checkpoint), features if checkpoint is None else f"{features}({checkpoint})"
    probe = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    try:
        with torch.no_grad():
            rows, width = net.eval().requires_grad_(False)(probe).shape
        if rows != len(probe):
            raise ValueError(f"{rows} rows for {len(probe)} pictures")
    except Exception as error:  # what another's network raises is its own affair
        raise UserError(f"--model.features {features}: no features (batch, width) of pictures: {explain(error)}") from error
    return Features(net, name, width)


def imported(path: str, checkpoint: str | None) -> nn.Module:
    """What the function `PACKAGE.MODULE:FUNCTION` returns for `checkpoint`. Raises UserError if it cannot be had."""
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
    except Exception as error:  # the same
        raise UserError(f"--model.features {path}: it cannot load {checkpoint}: {explain(error)}") from error


def inception(weights: str | None) -> nn.Module:
    """Inception-v3 as the first FID had it, pictures resized to 299 x 299 as published figures are. Raises UserError."""
    from torchmetrics.image.fid import NoTrainInceptionV3

    downloaded = any(Path(torch.hub.get_dir(), "checkpoints").glob(INCEPTION_FILE))
    if weights is None and not downloaded and not reachable(INCEPTION_SERVER):
        raise UserError(
            f"--model.features inception: its weights cannot be downloaded ({INCEPTION_SERVER}); "
            "give the file with --model.features_checkpoint, or use other features"
        )
    try:
        # without antialiasing: the resize of the network that published figures come from
        return NoTrainInceptionV3("inception-v3-compat", ["2048"], weights, antialias=False)
    except ModuleNotFoundError as error:
        raise UserError('--model.features inception: run `pip install "lightning-capstones[fid]"`') from error
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise UserError(f"--model.features inception: weights that cannot be read: {explain(error)}") from error
