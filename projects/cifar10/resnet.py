"""ResNet-18 for 32x32 images (He et al., arXiv 1512.03385), the textbook network. Needs torch alone."""

from __future__ import annotations

from torch import Tensor, nn

from projects.cifar10.batch_norm import BatchNorm2d
from projects.cifar10.networks import Normalize


class BasicBlock(nn.Module):
    """Residual block: two 3x3 convolutions around a shortcut (He et al., arXiv 1512.03385, figure 5 left)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = BatchNorm2d(out_channels)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height / stride, width / stride)."""
        out = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(out + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 with the 3x3 stem and no first pooling that 32x32 images need; 11.2 million parameters."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.conv = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.norm = BatchNorm2d(64)
        self.relu = nn.ReLU()
        blocks: list[nn.Module] = []
        in_channels = 64
        for channels, stride in [(64, 1), (128, 2), (256, 2), (512, 2)]:
            blocks += [BasicBlock(in_channels, channels, stride), BasicBlock(channels, channels, 1)]
            in_channels = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(512, num_classes)

    def init_input_stats(self, images: Tensor) -> None:
        """Initializes the normalization from uint8 training images (batch, 3, height, width)."""
        self.normalize.init_stats(images)

    def features(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) uint8 -> features (batch, 512), the input of the last layer."""
        x = self.relu(self.norm(self.conv(self.normalize(images))))  # (batch, 64, height, width)
        return self.blocks(x).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) uint8 -> logits (batch, num_classes)."""
        return self.head(self.features(images))
