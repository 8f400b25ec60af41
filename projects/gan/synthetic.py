"""Gaussian mixtures in the plane: the synthetic data of PacGAN (Lin et al., arXiv 1712.04086, section 4.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GaussianMixture:
    """Mixture of equally likely, isotropic Gaussians with means `modes` (modes, 2) and standard deviation `mode_std`."""

    modes: Tensor
    mode_std: float

    @property
    def data_std(self) -> float:
        """Standard deviation of a coordinate of the whole mixture, in the networks its natural unit."""
        return float((self.modes.square().mean() + self.mode_std**2).sqrt())

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Samples: points (count, 2) and the mode (count,) int64 that each comes from."""
        index = torch.randint(len(self.modes), (count,), generator=generator)
        return self.modes[index] + self.mode_std * torch.randn(count, 2, generator=generator), index


def ring8() -> GaussianMixture:
    """Ring of eight modes: radius 1, standard deviation 0.01."""
    angles = torch.arange(8) * (math.pi / 4)
    return GaussianMixture(torch.stack([angles.cos(), angles.sin()], 1), 0.01)


def grid25() -> GaussianMixture:
    """Grid of 25 modes: {-4, -2, 0, 2, 4}², standard deviation 0.05."""
    ticks = torch.arange(-4.0, 5.0, 2.0)
    return GaussianMixture(torch.cartesian_prod(ticks, ticks), 0.05)


MIXTURES = {"ring8": ring8, "grid25": grid25}
