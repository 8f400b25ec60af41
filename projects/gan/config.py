"""Network configurations: the options of each pair of generator and discriminator, one dataclass per architecture."""

from __future__ import annotations

from dataclasses import dataclass

from jsonargparse.typing import NonNegativeInt, PositiveInt


@dataclass(frozen=True)
class MLPConfig:
    """Options of the MLP pair, for points in the plane.

    Args:
        hidden_dim: Units of each hidden layer.
        num_layers: Number of hidden layers.
        fourier_octaves: Octaves of Fourier features of each coordinate in the discriminator (Tancik et al., arXiv
            2006.10739); 0 for the raw coordinates.
        num_latent_codes: Entries of a learned embedding that the first latent dimension selects from; 0 for a purely
            continuous latent.
    """

    hidden_dim: PositiveInt = 128
    num_layers: PositiveInt = 3
    fourier_octaves: NonNegativeInt = 6
    num_latent_codes: NonNegativeInt = 256


@dataclass(frozen=True)
class DCGANConfig:
    """Options of the DCGAN pair (Radford et al., arXiv 1511.06434), for 32 x 32 images.

    Args:
        channels: Feature maps at 16 x 16 pixels; each halving of the size doubles them.
        spectral_norm: Spectral normalization in the discriminator, in place of batch normalization (Miyato et al., arXiv
            1802.05957). Gradient penalties need it.
    """

    channels: PositiveInt = 64
    spectral_norm: bool = False


@dataclass(frozen=True)
class ResNetConfig:
    """Options of SNGAN's ResNet pair (Miyato et al., arXiv 1802.05957, table 4), for 32 x 32 images.

    Args:
        channels: Feature maps at full size.
        channel_multipliers: Multiples of `channels` in the discriminator's four blocks and, backwards, at the generator's
            sizes 4, 8, 16 and 32. The paper's are 1, 1, 1, 1. A convolution at full size costs sixteen times one at 8 x 8:
            with 1, 2, 4, 4 most channels are where they are cheap.
    """

    channels: PositiveInt = 128
    channel_multipliers: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (1, 1, 1, 1)
