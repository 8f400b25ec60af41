"""Networks of a GAN: the pair of generator and discriminator that the options describe."""

from __future__ import annotations

import torch
from torch import nn

from projects.gan.config import DCGANConfig, MLPConfig, ResNetConfig
from projects.gan.dcgan import DCGANDiscriminator, DCGANGenerator
from projects.gan.mlp import MLPDiscriminator, MLPGenerator
from projects.gan.resnet import ResNetDiscriminator, ResNetGenerator


def build_networks(
    config: MLPConfig | DCGANConfig | ResNetConfig, latent_dim: int, num_classes: int, data_std: float
) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator; `num_classes` 0 for unconditional ones, `data_std` of the points' coordinates."""
    if isinstance(config, MLPConfig):
        dims = config.hidden_dim, config.num_layers, data_std
        return MLPGenerator(latent_dim, *dims, config.num_latent_codes), MLPDiscriminator(*dims, config.fourier_octaves)
    generator: nn.Module
    discriminator: nn.Module
    if isinstance(config, DCGANConfig):
        generator = DCGANGenerator(latent_dim, config.channels, num_classes)
        discriminator = DCGANDiscriminator(config.channels, num_classes, config.spectral_norm)
    else:
        generator = ResNetGenerator(latent_dim, config.channels, num_classes, config.channel_multipliers)
        discriminator = ResNetDiscriminator(config.channels, num_classes, config.channel_multipliers)
    return generator.to(memory_format=torch.channels_last), discriminator.to(memory_format=torch.channels_last)
