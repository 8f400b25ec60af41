"""Multilayer perceptrons (MLPs): generator and discriminator of points in the plane."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

# Dimension of a latent code. A one-hot code would weigh as little as a single latent dimension: a generator that finds a
# ring of modes by the rest of the latent vector then goes all the way round it, through every gap.
CODE_DIM = 16


class MLPGenerator(nn.Module):
    """MLP generator of points, whose latent vector may be part discrete; for the options see `MLPConfig`.

    A continuous network maps a latent space without gaps to samples without gaps: points between the modes remain, and to
    narrow these bridges the network must become steep, which takes long. Latent codes have gaps: each is free to be
    anywhere, and one that is not needed where it is can move to a mode that is missing (mixture of latents: Gurumurthy et
    al., arXiv 1706.02071; why one connected latent space cannot do: Khayatkhoei et al., arXiv 1806.00880).

    Args:
        data_std: Standard deviation of the data's coordinates: the last layer's unit.
    """

    def __init__(
        self, latent_dim: int, hidden_dim: int = 128, num_layers: int = 3, data_std: float = 1.0, num_latent_codes: int = 0
    ) -> None:
        super().__init__()
        self.codes = nn.Embedding(num_latent_codes, CODE_DIM) if num_latent_codes else None
        self.layers = mlp(latent_dim - 1 + CODE_DIM if num_latent_codes else latent_dim, hidden_dim, num_layers, 2)
        self.data_std, self.num_latent_codes = data_std, num_latent_codes

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latent vectors (batch, latent_dim) -> points (batch, 2); labels are ignored."""
        if self.codes is not None:
            uniform = torch.special.ndtr(z[:, 0])  # the normal distribution function: all codes are equally likely
            index = (uniform * self.num_latent_codes).long().clamp(max=self.num_latent_codes - 1)
            z = torch.cat([self.codes(index), z[:, 1:]], 1)
        return self.layers(z) * self.data_std


class MLPDiscriminator(nn.Module):
    """MLP discriminator of points, on Fourier features of their coordinates; for the options see `MLPConfig`.

    Args:
        data_std: Standard deviation of the data's coordinates; points are divided by it.
    """

    def __init__(self, hidden_dim: int = 128, num_layers: int = 3, data_std: float = 1.0, fourier_octaves: int = 0) -> None:
        super().__init__()
        self.layers = mlp(2 + 4 * fourier_octaves, hidden_dim, num_layers, 1)
        self.data_std, self.fourier_octaves = data_std, fourier_octaves

    def forward(self, points: Tensor, labels: Tensor | None = None) -> Tensor:
        """Points (batch, 2) -> logits (batch,); labels are ignored."""
        return self.layers(fourier_features(points / self.data_std, self.fourier_octaves)).squeeze(1)


def fourier_features(x: Tensor, octaves: int) -> Tensor:
    """Fourier features (batch, n + 2 n octaves) of x (batch, n): x itself, then its sines and cosines at pi, 2 pi, 4 pi ...

    An MLP learns slowly varying functions first, and takes long to tell close points apart. With Fourier features it
    resolves small distances from the start (Tancik et al., arXiv 2006.10739).
    """
    if not octaves:
        return x
    frequencies = math.pi * 2.0 ** torch.arange(octaves, device=x.device, dtype=x.dtype)
    angles = (x[:, :, None] * frequencies).flatten(1)  # (batch, n octaves)
    return torch.cat([x, angles.sin(), angles.cos()], 1)


def mlp(in_features: int, hidden_dim: int, num_layers: int, out_features: int) -> nn.Sequential:
    """MLP of `num_layers` hidden layers with leaky ReLUs, and a linear last layer."""
    dims = [in_features, *[hidden_dim] * num_layers]
    hidden = [layer for a, b in pairwise(dims) for layer in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
    return nn.Sequential(*hidden, nn.Linear(dims[-1], out_features))
