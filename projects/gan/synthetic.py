"""Points in the plane from a mixture of narrow Gaussians, and how much of the mixture a generator has found.

The two mixtures and the protocol are those of PacGAN (Lin et al., arXiv 1712.04086, section 4.1): 2,500 generated points; a
point has high quality if it is within three standard deviations of the nearest mode; a mode is covered if at least one
point of high quality is nearest to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

REACH = 3.0  # standard deviations


@dataclass(frozen=True)
class Mixture:
    """Equally likely modes (modes, 2), each a round Gaussian of standard deviation `sigma`."""

    modes: Tensor
    sigma: float

    @property
    def scale(self) -> float:
        """The standard deviation of a coordinate of the whole mixture: what makes it a network's natural unit."""
        return float((self.modes.square().mean() + self.sigma**2).sqrt())

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` points (count, 2) and the mode (count,) int64 that each is from."""
        which = torch.randint(len(self.modes), (count,), generator=generator)
        return self.modes[which] + self.sigma * torch.randn(count, 2, generator=generator), which


def ring8() -> Mixture:
    """Eight modes on a circle of radius 1, with sigma 0.01."""
    angles = torch.arange(8) * (math.pi / 4)
    return Mixture(torch.stack([angles.cos(), angles.sin()], 1), 0.01)


def grid25() -> Mixture:
    """25 modes at {-4, -2, 0, 2, 4}^2, with sigma 0.05."""
    ticks = torch.arange(-4.0, 5.0, 2.0)
    return Mixture(torch.cartesian_prod(ticks, ticks), 0.05)


MIXTURES = {"ring8": ring8, "grid25": grid25}


def mode_counts(points: Tensor, mixture: Mixture) -> Tensor:
    """How many of `points` (n, 2) are of high quality, by their nearest mode: (modes,) int64."""
    distance, nearest = torch.cdist(points.double(), mixture.modes.double().to(points.device)).min(1)
    return torch.bincount(nearest[distance <= REACH * mixture.sigma], minlength=len(mixture.modes))


def coverage(points: Tensor, mixture: Mixture) -> dict[str, float]:
    """How much of the mixture `points` (n, 2), at least one, have found.

    Returns:
        modes: covered ones.
        high_quality: share of the points, of 1.
        reverse_kl: of the high-quality points' distribution over the modes from the uniform one, in nats; it is log(modes)
            for points at a single mode, and for none at all.
        distance: total variation between the points and the mixture, over the modes and one bin for all that is near none:
            0 is perfect, 1 is nothing right. Both quality and balance count in it.
    """
    counts = mode_counts(points, mixture).double()
    modes, found = len(counts), float(counts.sum())
    share = counts / max(found, 1.0)
    near = 1 - math.exp(-0.5 * REACH**2)  # of the mixture's own points: 98.9 %
    off = (counts / len(points) - near / modes).abs().sum() + abs((1 - found / len(points)) - (1 - near))
    return {
        "modes": float((counts > 0).sum()),
        "high_quality": found / len(points),
        "reverse_kl": float(torch.xlogy(share, share * modes).sum()) if found else math.log(modes),
        "distance": float(0.5 * off),
    }
