"""Residual block: two convolutions that learn what to add to their input

The sum with the input lets gradients pass unchanged, so that very deep networks can be trained.
"""

import torch
from architectures.conv2d_pooling import Conv2d
from networks.batch_layer_norm import BatchNorm
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Basic block of ResNet-18 and -34 (He et al., arXiv 1512.03385): relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)).

    The state dict of torchvision's BasicBlock loads here. Both convolutions are 3 x 3 with padding 1 and no bias; the first
    has the stride.

    Attributes:
        conv1, bn1: First convolution and its batch normalization.
        conv2, bn2: Second convolution and its batch normalization.
        downsample: nn.Sequential of a 1 x 1 convolution with the stride, without bias, and a batch normalization, where
            `stride` is not 1 or the channels change; else None: the shortcut is x itself.

    Example:
        ResidualBlock(64, 128, 2) takes (N, 64, 32, 32) to (N, 128, 16, 16).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = BatchNorm(out_channels)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = BatchNorm(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            conv = Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, BatchNorm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W'), H' = (H - 1) // stride + 1, W' likewise."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + shortcut)
