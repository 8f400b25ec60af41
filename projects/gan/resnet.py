"""ResNet of SNGAN (Miyato et al., arXiv 1802.05957, table 4): generator and discriminator of 32 x 32 images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from projects.gan.layers import ProjectionHead, spectral_normalized, xavier_init


class ConditionalBatchNorm2d(nn.Module):
    """Conditional batch normalization: scale and shift are the label's (arXiv 1610.07629); plain with 0 classes."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=not num_classes)
        self.scale = nn.Embedding(num_classes, channels) if num_classes else None
        self.shift = nn.Embedding(num_classes, channels) if num_classes else None
        if self.scale is not None and self.shift is not None:
            nn.init.ones_(self.scale.weight)
            nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Feature maps (batch, channels, height, width), labels (batch,) -> the same shape."""
        x = self.norm(x)
        if self.scale is None or self.shift is None:
            return x
        return x * self.scale(labels)[:, :, None, None] + self.shift(labels)[:, :, None, None]


class UpsampleBlock(nn.Module):
    """Residual block that doubles height and width: norm, ReLU and convolution, twice, beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm1 = ConditionalBatchNorm2d(in_channels, num_classes)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = ConditionalBatchNorm2d(out_channels, num_classes)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """(batch, in_channels, size, size) -> (batch, out_channels, 2 size, 2 size)."""
        y = F.interpolate(F.relu(self.norm1(x, labels)), scale_factor=2)
        y = self.conv2(F.relu(self.norm2(self.conv1(y), labels)))
        return y + F.interpolate(self.shortcut(x), scale_factor=2)  # a 1 x 1 convolution costs a quarter before upsampling


class ResNetGenerator(nn.Module):
    """ResNet generator with batch normalization; for the options see `ResNetConfig`. With 0 classes it ignores labels."""

    def __init__(
        self,
        latent_dim: int = 128,
        channels: int = 128,
        num_classes: int = 0,
        channel_multipliers: Sequence[int] = (1, 1, 1, 1),
    ) -> None:
        super().__init__()
        dims = [channels * multiplier for multiplier in reversed(channel_multipliers)]
        self.first = nn.Linear(latent_dim, dims[0] * 4 * 4)
        self.blocks = nn.ModuleList(UpsampleBlock(a, b, num_classes) for a, b in pairwise(dims))
        self.norm = nn.BatchNorm2d(dims[-1])
        self.last = nn.Conv2d(dims[-1], 3, 3, padding=1)
        self.apply(xavier_init)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latent vectors (batch, latent_dim), labels (batch,) -> images (batch, 3, 32, 32) in [-1, 1]."""
        x = self.first(z).view(len(z), -1, 4, 4)
        for block in self.blocks:
            x = block(x, labels)
        return torch.tanh(self.last(F.relu(self.norm(x))))


class DownsampleBlock(nn.Module):
    """Residual block with spectral normalization; `down` halves the size, `first` (on the image) has no first ReLU."""

    def __init__(self, in_channels: int, out_channels: int, down: bool, first: bool = False) -> None:
        super().__init__()
        self.down, self.first = down, first
        self.conv1 = spectral_normalized(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.conv2 = spectral_normalized(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        has_shortcut = down or in_channels != out_channels
        self.shortcut = spectral_normalized(nn.Conv2d(in_channels, out_channels, 1)) if has_shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, size, size) -> (batch, out_channels, size, size), or half that size."""
        y = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if not self.down:
            return y + self.shortcut(x)
        return F.avg_pool2d(y, 2) + self.shortcut(F.avg_pool2d(x, 2))  # linear both: pooled first, a quarter of the work


class ResNetDiscriminator(nn.Module):
    """ResNet discriminator: spectral normalization throughout, global sum pooling, projection head."""

    def __init__(self, channels: int = 128, num_classes: int = 0, channel_multipliers: Sequence[int] = (1, 1, 1, 1)) -> None:
        super().__init__()
        a, b, c, d = (channels * multiplier for multiplier in channel_multipliers)
        self.blocks = nn.Sequential(
            DownsampleBlock(3, a, down=True, first=True),  # (batch, a, 16, 16)
            DownsampleBlock(a, b, down=True),  # (batch, b, 8, 8)
            DownsampleBlock(b, c, down=False),  # (batch, c, 8, 8)
            DownsampleBlock(c, d, down=False),  # (batch, d, 8, 8)
        )
        self.head = ProjectionHead(d, num_classes, spectral=True)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (batch, 3, 32, 32), labels (batch,) -> logits (batch,)."""
        return self.head(F.relu(self.blocks(images)).sum((2, 3)), labels)
