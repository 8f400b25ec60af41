"""The two networks: the small fast one of the 94 % speed record, and ResNet-18 for 32x32 pictures.

Both take uint8 pictures as they come from the data set and normalise them inside, so that a checkpoint is all that is
needed to classify a picture. Only `torch` is imported: copy this file anywhere.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class SumOverProcesses(torch.autograd.Function):
    """Adds a tensor up over all processes; its gradient is the sum of theirs, as each of them goes on with the sum."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        """(...) -> the same shape, the same numbers in every process."""
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        """(...) -> the same shape."""
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose statistics are those of the batch over all processes.

    With one process this is `nn.BatchNorm2d`. With several, the sums behind mean and variance are added up across
    processes inside the graph, so that N processes of batch B train exactly as one process of batch N*B does.
    (`nn.SyncBatchNorm` does the same but refuses CPU tensors.) Running statistics equal `nn.BatchNorm2d`'s.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the same shape."""
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        # all processes have the same running mean; measured from there, the difference of squares below keeps its digits
        x32 = x.to(torch.promote_types(x.dtype, torch.float32)) - self.running_mean.view(1, -1, 1, 1)
        count = x32.new_tensor([x32.numel() / self.num_features])
        sums = torch.cat([x32.sum((0, 2, 3)), x32.square().sum((0, 2, 3)), count])  # (2 * channels + 1,)
        sums = SumOverProcesses.apply(sums)
        total = sums[-1].detach()
        mean, square = (sums[:-1] / total).chunk(2)
        var = (square - mean.square()).clamp(min=0)  # rounding may take a constant channel's below zero
        with torch.no_grad():
            self.running_mean.add_(mean.detach(), alpha=self.momentum)
            self.running_var.mul_(1 - self.momentum).add_(var.detach() * total / (total - 1), alpha=self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return torch.addcmul((self.bias - mean * scale).view(1, -1, 1, 1), x32, scale.view(1, -1, 1, 1)).to(x.dtype)


def resize(images: Tensor, size: int) -> Tensor:
    """uint8 or float pictures (batch, channels, height, width), shrunk to `size` x `size` by antialiased interpolation.

    Returns float in 0..255, or `images` untouched where the size is right already.
    """
    if images.shape[-1] == size:
        return images
    return F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)


class Normalize(nn.Module):
    """uint8 pictures to zero-mean, unit-variance channels. Mean and standard deviation are set from the training data.

    Outside of training, pictures are first brought to the `size` in pixels that the network was last trained on (0: they
    stay as they are): a network that has only seen small pictures knows nothing of large ones. It is part of the state.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self.register_buffer("mean", torch.full((3, 1, 1), 0.5))
        self.register_buffer("std", torch.full((3, 1, 1), 0.25))

    def fit(self, images: Tensor) -> None:
        """Takes mean and deviation per channel from uint8 `images` (batch, 3, height, width)."""
        pixels = images.transpose(0, 1).flatten(1).float() / 255  # (3, batch * height * width)
        self.mean.copy_(pixels.mean(1).view(3, 1, 1))
        self.std.copy_(pixels.std(1).view(3, 1, 1))

    def get_extra_state(self) -> Tensor:
        """The size, for the state dict."""
        return torch.tensor(self.size)

    def set_extra_state(self, state: Tensor) -> None:
        """Takes the size back."""
        self.size = int(state)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width), uint8 or float in 0..255 -> (batch, 3, height, width), or `size` for both."""
        if self.size and not self.training:
            x = resize(x, self.size)
        return (x.to(self.mean.dtype) / 255 - self.mean) / self.std


class Whitening(nn.Conv2d):
    """A frozen 2x2 convolution that decorrelates the pixels of a patch (arXiv 2404.00498, section 3.2).

    Its 24 filters are the 12 eigenvectors of the patches' covariance, each divided by the square root of its
    eigenvalue, and their negatives (so that the activation after it loses nothing). Only the bias is trained.
    """

    def __init__(self, kernel_size: int = 2, eps: float = 5e-4) -> None:
        self.patch_size = 3 * kernel_size**2
        super().__init__(3, 2 * self.patch_size, kernel_size)
        self.eps = eps
        self.weight.requires_grad = False
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def fit(self, x: Tensor) -> None:
        """Sets the filters from normalised pictures `x` (batch, 3, height, width); 5,000 are enough."""
        k = self.kernel_size[0]
        patches = x.unfold(2, k, 1).unfold(3, k, 1)  # (batch, 3, height - k + 1, width - k + 1, k, k)
        patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, self.patch_size).double()
        eigenvalues, eigenvectors = torch.linalg.eigh(patches.T @ patches / len(patches))  # ascending, in columns
        filters = (eigenvectors / torch.sqrt(eigenvalues + self.eps)).T.flip(0)  # (patch, patch), largest first
        filters = filters.reshape(self.patch_size, 3, k, k).to(self.weight.dtype)
        self.weight.data.copy_(torch.cat([filters, -filters]))


def dirac_conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    """A 3x3 convolution without bias whose first `channels_in` filters start as the identity; the rest stay random."""
    conv = nn.Conv2d(channels_in, channels_out, 3, padding="same", bias=False)
    nn.init.dirac_(conv.weight.data[:channels_in])
    return conv


class SpeedBlock(nn.Module):
    """conv - pool - norm - GELU - conv - norm - GELU, `depth` convolutions in all; halves height and width.

    With three convolutions the input of the second is added to the output of the third (the 96 % network's residual).
    """

    def __init__(self, channels_in: int, channels_out: int, bn_momentum: float, depth: int = 2) -> None:
        super().__init__()
        self.convs = nn.ModuleList(dirac_conv(channels_in if i == 0 else channels_out, channels_out) for i in range(depth))
        # momentum in PyTorch's sense: the weight of the newest batch. High, because a run lasts few hundred steps.
        self.norms = nn.ModuleList(BatchNorm2d(channels_out, eps=1e-12, momentum=bn_momentum) for _ in range(depth))
        for norm in self.norms:
            norm.weight.requires_grad = False  # the next convolution can scale as well; frozen at 1
        self.activations = nn.ModuleList(nn.GELU() for _ in range(depth))  # modules, so that hooks can watch them
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels_in, height, width) -> (batch, channels_out, height // 2, width // 2)."""
        x = self.activations[0](self.norms[0](self.pool(self.convs[0](x))))
        skip = x
        for i in range(1, len(self.convs)):
            x = self.norms[i](self.convs[i](x))
            if i == 2:
                x = x + skip
            x = self.activations[i](x)
        return x


class SpeedNet(nn.Module):
    """The network of the CIFAR-10 speed records (Keller Jordan, "94% on CIFAR-10 in 3.29 Seconds", arXiv 2404.00498).

    Args:
        widths: channels of the three blocks.
        depths: convolutions in each of them, 2 or 3.
        bn_momentum: weight of the newest batch in the running statistics.
        num_classes: size of the output.
    """

    def __init__(
        self,
        widths: tuple[int, int, int] = (64, 256, 256),
        depths: tuple[int, int, int] = (2, 2, 2),
        bn_momentum: float = 0.4,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.whiten = Whitening()
        self.activation = nn.GELU()
        channels = [self.whiten.out_channels, *widths]
        self.blocks = nn.Sequential(
            *(
                SpeedBlock(*pair, bn_momentum, depth)
                for pair, depth in zip(itertools.pairwise(channels), depths, strict=True)
            )
        )
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        nn.init.normal_(self.head.weight)  # unit variance; `forward` divides by the width instead

    def fit_inputs(self, images: Tensor) -> None:
        """Sets normalisation and whitening from uint8 training pictures (batch, 3, height, width)."""
        self.normalize.fit(images)
        self.whiten.fit(self.normalize(images[:5000]))

    def features(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) uint8 -> (batch, widths[-1]): what the last layer reads."""
        x = self.activation(self.whiten(self.normalize(images)))  # (batch, 24, height - 1, width - 1)
        x = self.blocks(x)  # (batch, widths[-1], (height - 1) // 8, (width - 1) // 8)
        return x.amax((2, 3))  # the strongest response wherever it is

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) uint8 -> logits (batch, num_classes). Any height and width from 9 up."""
        x = self.features(images)
        return self.head(x) / x.shape[-1]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al., arXiv 1512.03385, figure 5 left)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = BatchNorm2d(channels_out)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels_in, height, width) -> (batch, channels_out, height / stride, width / stride)."""
        out = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(out + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 with the 3x3 stem and no first pooling that 32x32 pictures need; 11.2 million parameters."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.conv = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.norm = BatchNorm2d(64)
        self.relu = nn.ReLU()
        blocks: list[nn.Module] = []
        channels = 64
        for width, stride in [(64, 1), (128, 2), (256, 2), (512, 2)]:
            blocks += [BasicBlock(channels, width, stride), BasicBlock(width, width, 1)]
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(512, num_classes)

    def fit_inputs(self, images: Tensor) -> None:
        """Sets the normalisation from uint8 training pictures (batch, 3, height, width)."""
        self.normalize.fit(images)

    def features(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) uint8 -> (batch, 512): what the last layer reads."""
        x = self.relu(self.norm(self.conv(self.normalize(images))))  # (batch, 64, height, width)
        return self.blocks(x).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) uint8 -> logits (batch, num_classes)."""
        return self.head(self.features(images))


class FeatureNet(nn.Module):
    """A classifier without its last layer: what pictures are compared by, as in a Fréchet distance."""

    def __init__(self, net: SpeedNet | ResNet18) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) uint8 -> features (batch, width)."""
        return self.net.features(images)
