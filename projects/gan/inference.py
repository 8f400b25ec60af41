"""Samples from a run's checkpoint: noise of several kinds, and what the averaged generator makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError
from common.io.checkpoints import check_project, read_checkpoint
from projects.gan.module import GANModule

BATCH = 500


@dataclass
class Sampler:
    """A generator and what one has to know to use it.

    Args:
        net: maps noise (batch, noise) and labels (batch,) to samples.
        noise: numbers that a sample is made from.
        class_names: the labels that it can be asked for; empty if it was trained without.
        sample_kind: `points` or `pictures`.
        data_source: what it was trained on.
    """

    net: Callable[[Tensor, Tensor | None], Tensor]
    noise: int
    class_names: list[str]
    sample_kind: str
    data_source: str


def load_sampler(path: Path, device: torch.device) -> Sampler:
    """The generator of a run's checkpoint, the averaged one if there is one. Raises UserError if the file is bad."""
    checkpoint = read_checkpoint(path)
    check_project(checkpoint, "gan", path)
    try:
        h = checkpoint["hyper_parameters"]
        module = GANModule(**h)
        module.load_state_dict(checkpoint["state_dict"])
        names = list(checkpoint["class_names"]) if h["conditional"] else []
        module.to(device).eval().settle()
        return Sampler(module, h["noise"], names, h["sample_kind"], checkpoint["data_source"])
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"checkpoint {path}: written by another version of this project ({reason})") from error


@torch.inference_mode()
def make_samples(net: Callable[[Tensor, Tensor | None], Tensor], noise: Tensor, labels: Tensor) -> Tensor:
    """Samples of noise (count, noise) and labels (count,), in batches; on the noise's device, in float32."""
    parts = zip(noise.split(BATCH), labels.split(BATCH), strict=True)
    return torch.cat([net(part, told).float() for part, told in parts])


def draw_noise(count: int, width: int, seed: int, truncation: float | None = None) -> Tensor:
    """Standard normal numbers (count, width), on the CPU; with `truncation`, those beyond it are drawn again.

    Less noise is more like the average sample: better and less varied (Brock et al., arXiv 1809.11096, section 3.1).
    """
    generator = torch.Generator().manual_seed(seed)
    if truncation is None:
        return torch.randn(count, width, generator=generator)
    return torch.nn.init.trunc_normal_(torch.empty(count, width), a=-truncation, b=truncation, generator=generator)


def paths_between(starts: Tensor, ends: Tensor, steps: int) -> Tensor:
    """Noise (pairs, steps, width) on the great circles from `starts` (pairs, width) to `ends`, both included.

    On the straight line between two normal vectors of many dimensions the middle is shorter than any vector that the
    generator has ever been given; on the circle it is as long (White, arXiv 1609.04468).
    """
    cosine = torch.nn.functional.cosine_similarity(starts, ends).clamp(-1, 1)
    angle = cosine.acos().clamp(1e-4, math.pi - 1e-4)[:, None, None]  # (pairs, 1, 1)
    share = torch.linspace(0, 1, steps, device=starts.device)[None, :, None]  # (1, steps, 1)
    left, right = ((1 - share) * angle).sin(), (share * angle).sin()
    return (left * starts[:, None] + right * ends[:, None]) / angle.sin()


def label_cycle(count: int, classes: int, device: torch.device) -> Tensor:
    """Labels 0, 1, 2 ... over and over, (count,); zeros where there are no classes."""
    return torch.arange(count, device=device) % max(1, classes)


def asked_labels(names: Sequence[str], asked: str | None, count: int, device: torch.device) -> Tensor:
    """Labels (count,) of the class `asked`, or of all in turn. Raises UserError if the generator does not know it."""
    if asked is None:
        return label_cycle(count, len(names), device)
    if asked not in names:
        known = f"its classes are {', '.join(names)}" if names else "it was trained without classes"
        raise UserError(f"--class_name {asked}: {known}")
    return torch.full((count,), list(names).index(asked), device=device)
