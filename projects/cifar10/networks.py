"""Convolutional network of the CIFAR-10 speed records (SpeedNet), with input normalization and whitening. Needs torch alone.

The network takes uint8 images as they come from the data set and normalizes them inside, so that a checkpoint is all that
is needed to classify an image.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from projects.cifar10.batch_norm import BatchNorm2d


class SpeedNet(nn.Module):
    """Network of the CIFAR-10 speed records (Keller Jordan, "94% on CIFAR-10 in 3.29 Seconds", arXiv 2404.00498).

    Args:
        block_channels: Output channels of the three blocks.
        convs_per_block: Convolutions in each block, 2 or 3.
        bn_momentum: Batch-norm momentum: weight of the newest batch in the running statistics.
        num_classes: Number of classes.
    """

    def __init__(
        self,
        block_channels: tuple[int, int, int],
        convs_per_block: tuple[int, int, int] = (2, 2, 2),
        bn_momentum: float = 0.4,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.whiten = Whitening()
        self.activation = nn.GELU()
        channels = itertools.pairwise([self.whiten.out_channels, *block_channels])
        blocks = zip(channels, convs_per_block, strict=True)
        self.blocks = nn.Sequential(*(SpeedBlock(*pair, bn_momentum, num_convs) for pair, num_convs in blocks))
        self.head = nn.Linear(block_channels[-1], num_classes, bias=False)
        nn.init.normal_(self.head.weight)  # unit variance; `forward` divides by the number of features instead

    def init_input_stats(self, images: Tensor) -> None:
        """Initializes normalization and whitening from uint8 training images (batch, 3, height, width)."""
        self.normalize.init_stats(images)
        self.whiten.init_filters(self.normalize(images[:5000]))

    def features(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) uint8 -> features (batch, block_channels[-1]), the input of the last layer."""
        x = self.activation(self.whiten(self.normalize(images)))  # (batch, 24, height - 1, width - 1)
        x = self.blocks(x)  # (batch, block_channels[-1], (height - 1) // 8, (width - 1) // 8)
        # Global max pooling. `amax` divides the gradient among equal values; compiled, it compares a bfloat16 maximum with
        # values that are computed anew in float32, finds none that is equal, and divides by zero.
        return x.flatten(2).max(2).values if torch.compiler.is_compiling() else x.amax((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) uint8 -> logits (batch, num_classes). Any height and width from 9 up."""
        x = self.features(images)
        return self.head(x) / x.shape[-1]


class CalibratedClassifier(nn.Module):
    """Classifier from raw images to calibrated class probabilities, for other programs.

    Args:
        net: Network that gives logits.
        temperature: What they are divided by.
    """

    def __init__(self, net: nn.Module, temperature: float) -> None:
        super().__init__()
        self.net, self.temperature = net, temperature

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) uint8 -> probabilities (batch, num_classes)."""
        return (self.net(images) / self.temperature).softmax(1)


class SpeedBlock(nn.Module):
    """conv - max pool - norm - GELU - conv - norm - GELU; halves height and width.

    A third convolution gets a residual connection (the 96 % network): its output is added to the input of the second.
    """

    def __init__(self, in_channels: int, out_channels: int, bn_momentum: float, num_convs: int = 2) -> None:
        super().__init__()
        channels = [in_channels, *[out_channels] * num_convs]
        self.convs = nn.ModuleList(dirac_conv(*pair) for pair in itertools.pairwise(channels))
        # momentum in PyTorch's sense: the weight of the newest batch. High, because a run lasts few hundred steps.
        self.norms = nn.ModuleList(BatchNorm2d(out_channels, eps=1e-12, momentum=bn_momentum) for _ in range(num_convs))
        for norm in self.norms:
            norm.weight.requires_grad = False  # the next convolution can scale as well; frozen at 1
        self.activations = nn.ModuleList(nn.GELU() for _ in range(num_convs))  # modules, so that hooks can watch them
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height // 2, width // 2)."""
        x = self.activations[0](self.norms[0](self.pool(self.convs[0](x))))
        residual = x
        for i in range(1, len(self.convs)):
            x = self.norms[i](self.convs[i](x))
            if i == 2:
                x = x + residual
            x = self.activations[i](x)
        return x


def dirac_conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    """3x3 convolution without bias, its first `in_channels` filters initialized as the identity, the rest at random."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding="same", bias=False)
    nn.init.dirac_(conv.weight.data[:in_channels])
    return conv


class Whitening(nn.Conv2d):
    """Whitening layer: a frozen 2x2 convolution that decorrelates the pixels of a patch (arXiv 2404.00498, section 3.2).

    Its 24 filters are the 12 eigenvectors of the patches' covariance, each divided by the square root of its
    eigenvalue, and their negatives (so that the activation after it loses nothing). Only the bias is trained.
    In place of directions without variance, which gray images have, the others are repeated.
    """

    def __init__(self, kernel_size: int = 2, eps: float = 5e-4) -> None:
        self.patch_size = 3 * kernel_size**2
        super().__init__(3, 2 * self.patch_size, kernel_size)
        self.eps = eps
        self.weight.requires_grad = False
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def init_filters(self, x: Tensor) -> None:
        """Initializes the filters from normalized images `x` (batch, 3, height, width); 5,000 are enough."""
        k = self.kernel_size[0]
        patches = x.unfold(2, k, 1).unfold(3, k, 1)  # (batch, 3, height - k + 1, width - k + 1, k, k)
        patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, self.patch_size).double()
        eigenvalues, eigenvectors = torch.linalg.eigh(patches.T @ patches / len(patches))  # ascending, in columns
        filters = (eigenvectors / torch.sqrt(eigenvalues + self.eps)).T.flip(0)  # (patch, patch), largest first
        # gray images have no variance in two thirds of the directions: channels of noise, which batch norm would blow up
        rank = max(1, int((eigenvalues > 1e-9 * eigenvalues[-1]).sum()))
        filters = filters[torch.arange(self.patch_size) % rank]
        filters = filters.reshape(self.patch_size, 3, k, k).to(self.weight.dtype)
        self.weight.data.copy_(torch.cat([filters, -filters]))


class Normalize(nn.Module):
    """Input normalization: uint8 images to zero-mean, unit-variance channels, by statistics of the training data.

    In eval mode, images are first resized to the `size` in pixels that the network was last trained on (0: not at all):
    a network that was trained on small images alone misclassifies large ones. The size is part of the state dict.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self.register_buffer("mean", torch.full((3, 1, 1), 0.5))
        self.register_buffer("std", torch.full((3, 1, 1), 0.25))

    def init_stats(self, images: Tensor) -> None:
        """Sets mean and standard deviation (1 for a constant channel) of each channel of uint8 `images` (batch, 3, h, w)."""
        pixels = images.transpose(0, 1).flatten(1).float() / 255  # (3, batch * height * width)
        self.mean.copy_(pixels.mean(1).view(3, 1, 1))
        std = torch.where(pixels.amin(1) < pixels.amax(1), pixels.std(1), 1.0)
        self.std.copy_(std.view(3, 1, 1))

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.size)

    def set_extra_state(self, state: Tensor) -> None:
        self.size = int(state)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width), uint8 or float in 0..255 -> (batch, 3, height, width), or `size` for both."""
        if self.size and not self.training:
            x = resize(x, self.size)
        return (x.to(self.mean.dtype) / 255 - self.mean) / self.std


def resize(images: Tensor, size: int) -> Tensor:
    """uint8 or float images (batch, channels, height, width), resized to `size` x `size` by antialiased interpolation.

    Returns float in 0..255, or `images` unchanged where they have that size.
    """
    if images.shape[-1] == size:
        return images
    return F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
