"""Inference: samples of a trained generator, from latent vectors of several kinds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError
from common.io.checkpoints import PathLike, content_errors, load_module
from projects.gan.module import GANModule

BATCH_SIZE = 500


class GeneratorPipeline:
    """Samples of a trained generator, the EMA generator if there is one.

    Args:
        module: The trained module, its batch-norm statistics up to date.
        class_names: Name of each label.
        data_source: Name of the training data.
        trained_labels: Labels of the samples trained on; unset, all; empty for an unconditional generator.
    """

    def __init__(
        self, module: GANModule, class_names: Sequence[str], data_source: str, trained_labels: Sequence[int] | None = None
    ) -> None:
        self.module = module
        labels = range(len(class_names)) if trained_labels is None else trained_labels
        self.classes = {class_names[label]: label for label in labels}
        self.data_source = data_source
        self.latent_dim: int = module.hparams["latent_dim"]

    def __call__(self, count: int, class_name: str | None = None, seed: int = 0, truncation: float | None = None) -> Tensor:
        """`count` samples: points (count, 2), or images (count, 3, 32, 32) in [-1, 1].

        Args:
            count: Number of samples.
            class_name: Class of a class-conditional generator; None for all in turn.
            seed: Seed of the latent vectors.
            truncation: Truncation trick, see `sample_latents`; None for none.

        Raises UserError for a negative count, a truncation of 0 or less, or a class that the generator does not have.
        """
        if count < 0:
            raise UserError(f"count {count}: use 0 or more samples")
        if truncation is not None and not truncation > 0:
            raise UserError(f"truncation {truncation}: use a bound above 0, or None")
        return self.generate(sample_latents(count, self.latent_dim, seed, truncation), self.labels(class_name, count))

    @torch.inference_mode()
    def generate(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Samples, on the CPU, of latent vectors (count, latent_dim) and labels (count,); unset, all classes in turn."""
        labels = self.labels(None, len(z)) if labels is None else labels
        module, was_training = self.module, self.module.training
        module.eval()
        weight = next(module.generator.parameters())
        batches = zip(z.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True)
        samples = torch.cat([module(a.to(weight), b.to(weight.device)).float().cpu() for a, b in batches])
        module.train(was_training)
        return samples

    def labels(self, class_name: str | None, count: int) -> Tensor:
        """Labels (count,) of a class, or of all in turn. Raises UserError for a class that the generator does not have."""
        if class_name is None:
            labels = torch.tensor(list(self.classes.values()) or [0])
            return labels[torch.arange(count) % len(labels)]
        if class_name not in self.classes:
            known = f"it was trained on {', '.join(self.classes)}" if self.classes else "it was trained without classes"
            raise UserError(f"--class_name {class_name}: {known}")
        return torch.full((count,), self.classes[class_name])


def load(checkpoint: PathLike, device: str | torch.device = "cpu") -> GeneratorPipeline:
    """Generator of samples from a run's checkpoint.

    Args:
        checkpoint: Checkpoint of a run.
        device: Where to compute.

    Raises:
        UserError: The file is not a valid checkpoint of this project.

    Example:
        >>> generator = load("best.ckpt", device="cpu")
        >>> samples = generator(16, seed=0)  # (16, 2) points, or (16, 3, 32, 32) images in [-1, 1]
        >>> len(samples)
        16
    """
    module, saved = load_module(checkpoint, GANModule, "gan")
    module.to(device).update_bn()
    trained_labels = saved.get("trained_labels") if module.hparams["conditional"] else []
    with content_errors(Path(checkpoint), saved):
        return GeneratorPipeline(module, saved["class_names"], str(saved["data_source"]), trained_labels)


def sample_latents(count: int, latent_dim: int, seed: int, truncation: float | None = None) -> Tensor:
    """Latent vectors z ~ N(0, I) (count, latent_dim), on the CPU; by the truncation trick no element is beyond `truncation`.

    Truncated vectors are more like the average one: samples are better and less varied (Brock et al., arXiv 1809.11096,
    section 3.1).
    """
    generator = torch.Generator().manual_seed(seed)
    if truncation is None:
        return torch.randn(count, latent_dim, generator=generator)
    return torch.nn.init.trunc_normal_(torch.empty(count, latent_dim), a=-truncation, b=truncation, generator=generator)


def slerp(starts: Tensor, ends: Tensor, steps: int) -> Tensor:
    """Spherical linear interpolation (pairs, steps, latent_dim) from `starts` (pairs, latent_dim) to `ends`, both included.

    On the straight line between two normal vectors of many dimensions the middle is shorter than any vector of the training;
    on the great circle it is as long (White, arXiv 1609.04468).
    """
    cosine = torch.nn.functional.cosine_similarity(starts, ends).clamp(-1, 1)
    angle = cosine.acos().clamp(1e-4, math.pi - 1e-4)[:, None, None]  # (pairs, 1, 1)
    t = torch.linspace(0, 1, steps, device=starts.device)[None, :, None]  # (1, steps, 1)
    start_weight, end_weight = ((1 - t) * angle).sin(), (t * angle).sin()
    return (start_weight * starts[:, None] + end_weight * ends[:, None]) / angle.sin()


def interpolate(rows: int, steps: int, latent_dim: int, seed: int, truncation: float | None = None) -> Tensor:
    """Latent vectors (rows * steps, latent_dim): each row leads from one random vector to another."""
    ends = sample_latents(2 * rows, latent_dim, seed, truncation)
    return slerp(ends[:rows], ends[rows:], steps).flatten(0, 1)
