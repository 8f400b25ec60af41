"""DCGAN (Radford et al., arXiv 1511.06434): generator and discriminator of 32 x 32 images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from projects.gan.layers import ProjectionHead, spectral_normalized


class DCGANGenerator(nn.Module):
    """DCGAN generator: transposed convolutions, batch normalization, ReLU, tanh. With 0 classes it ignores labels."""

    def __init__(self, latent_dim: int = 100, channels: int = 64, num_classes: int = 0) -> None:
        super().__init__()
        self.class_embedding = nn.Embedding(num_classes, latent_dim) if num_classes else None
        in_channels = latent_dim * (2 if num_classes else 1)
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(in_channels, 4 * channels, 4, 1, 0, bias=False),  # (batch, 4 channels, 4, 4)
            nn.BatchNorm2d(4 * channels),
            nn.ReLU(),
            nn.ConvTranspose2d(4 * channels, 2 * channels, 4, 2, 1, bias=False),  # (batch, 2 channels, 8, 8)
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * channels, channels, 4, 2, 1, bias=False),  # (batch, channels, 16, 16)
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.ConvTranspose2d(channels, 3, 4, 2, 1, bias=False),  # (batch, 3, 32, 32)
            nn.Tanh(),
        )
        self.apply(dcgan_init)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latent vectors (batch, latent_dim), labels (batch,) -> images (batch, 3, 32, 32) in [-1, 1]."""
        if self.class_embedding is not None:
            z = torch.cat([z, self.class_embedding(labels)], 1)
        return self.layers(z[:, :, None, None])


class DCGANDiscriminator(nn.Module):
    """DCGAN discriminator: strided convolutions and leaky ReLU, with batch normalization or spectral normalization."""

    def __init__(self, channels: int = 64, num_classes: int = 0, spectral: bool = False) -> None:
        super().__init__()

        def block(in_channels: int, out_channels: int, first: bool = False) -> list[nn.Module]:
            """Strided convolution that halves height and width."""
            conv = nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=spectral)
            if spectral:
                return [spectral_normalized(conv), nn.LeakyReLU(0.2)]
            return [conv, *([] if first else [nn.BatchNorm2d(out_channels)]), nn.LeakyReLU(0.2)]

        self.layers = nn.Sequential(
            *block(3, channels, first=True),  # (batch, channels, 16, 16)
            *block(channels, 2 * channels),  # (batch, 2 channels, 8, 8)
            *block(2 * channels, 4 * channels),  # (batch, 4 channels, 4, 4)
            nn.Flatten(),
        )
        self.head = ProjectionHead(4 * channels * 16, num_classes, spectral)  # the original's last 4 x 4 convolution
        if not spectral:
            self.apply(dcgan_init)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (batch, 3, 32, 32), labels (batch,) -> logits (batch,)."""
        return self.head(self.layers(images), labels)


def dcgan_init(layer: nn.Module) -> None:
    """DCGAN initialization: normal with standard deviation 0.02, around 0 for weights, around 1 for batch normalization."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, ProjectionHead) and layer.embedding is not None:
        nn.init.normal_(layer.embedding.get_parameter("weight"), 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)
