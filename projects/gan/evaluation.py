"""Evaluation of a generator: a fake for every held-out sample, and the metrics of both sets."""

from __future__ import annotations

import torch
from torch import Tensor

from common.nn.device import full_float32
from projects.gan.data import GANBatch, as_uint8
from projects.gan.features import FEATURE_BATCH_SIZE, FeatureExtractor
from projects.gan.metrics import (
    FeatureMetrics,
    all_gather_rows,
    discriminator_metrics,
    distance_to_mixture,
    mode_coverage,
    mode_spread,
)
from projects.gan.synthetic import GaussianMixture

# of the latent vectors: the same in every validation, so that curves are smooth, and others in the test
LATENT_SEEDS = {"val": 20_000, "test": 20_001}


class Evaluator:
    """Evaluation of a pass over `num_samples` of a split: points by their mixture, or images (no `mixture`) by features."""

    def __init__(
        self,
        split: str,
        num_samples: int,
        latent_dim: int,
        mixture: GaussianMixture | None,
        features: FeatureExtractor | None,
        device: torch.device,
    ) -> None:
        generator = torch.Generator().manual_seed(LATENT_SEEDS[split])
        self.latents = torch.randn(num_samples, latent_dim, generator=generator).to(device)
        self.mixture, self.features = mixture, features
        self.feature_metrics = None if features is None else FeatureMetrics(features.num_features, device)
        self.points: list[Tensor] = []
        self.real_logits: list[Tensor] = []
        self.fake_logits: list[Tensor] = []

    def update(self, batch: GANBatch, fake: Tensor, logits: tuple[Tensor, Tensor]) -> None:
        """Adds a batch of real samples, as many fakes, and the discriminator's logits (batch,) of both."""
        self.real_logits.append(logits[0].float())
        self.fake_logits.append(logits[1].float())
        if self.features is None or self.feature_metrics is None:
            self.points.append(fake)
            return
        with full_float32(fake.device):
            for samples, real in [(batch.samples, True), (fake, False)]:
                for images in as_uint8(samples).split(FEATURE_BATCH_SIZE):
                    self.feature_metrics.update(self.features.net(images), real)

    def compute(self, boundary: float | None) -> dict[str, float]:
        """Metrics of the discriminator and of the fakes, the same in every process; for `boundary` see `AdversarialLoss`."""
        real, fake = (all_gather_rows(torch.cat(logits)) for logits in (self.real_logits, self.fake_logits))
        metrics = {name: float(value) for name, value in discriminator_metrics(real, fake, boundary).items()}
        if self.mixture is not None:
            points = all_gather_rows(torch.cat(self.points))
            for metric in (mode_coverage, mode_spread, distance_to_mixture):
                metrics |= metric(points, self.mixture)
            return metrics
        assert self.feature_metrics is not None
        return metrics | self.feature_metrics.compute()
