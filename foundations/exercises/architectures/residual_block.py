"""Exercise residual_block: the sum, the shortcut, and where the ReLU stands."""

import random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from foundations.comparing import check_equal, check_that, difference
from foundations.exercise import Exercise
from foundations.modules import check_gradients_of, check_state_dict, load_same

exercise = Exercise(
    title="Residual block: two convolutions that learn what to add to their input",
    level="core",
    minutes=20,
    link="projects.cifar10.resnet:BasicBlock",
    why="eight of them make the ResNet-18 that is compared with the fast network",
    hints=(
        "Two convolutions, each with a normalization; the input is added before the last ReLU.",
        "relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut): the shortcut is x, or downsample(x) where the shapes differ.",
        "if stride != 1 or in_channels != out_channels: self.downsample = nn.Sequential("
        "Conv2d(in_channels, out_channels, 1, stride, bias=False), BatchNorm(out_channels))",
    ),
    source="torchvision.models.resnet:BasicBlock",
    look_at="Its nn.ReLU works in place, and yet the identity stays as it is. On what is it called each time?",
    uses=("conv2d_pooling", "batch_layer_norm"),
)

SHAPES = [(1, 1, 1), (2, 2, 1), (2, 3, 1), (2, 2, 2), (1, 3, 2), (3, 2, 3)]


class Reference(nn.Module):
    """As torchvision has it."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        if stride != 1 or in_channels != out_channels:
            self.downsample: Any = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        else:
            self.downsample = None

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (out + (x if self.downsample is None else self.downsample(x))).relu()


def pair(answer: ModuleType, *sizes: int) -> tuple[nn.Module, nn.Module]:
    """Both blocks with the same weights, scales and statistics, none of them as at the start."""
    theirs = Reference(*sizes)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return load_same(answer.ResidualBlock(*sizes), theirs)


@exercise.property("state dict")
def state_dict(answer: ModuleType, rng: random.Random) -> None:
    for sizes in SHAPES:
        check_state_dict(answer.ResidualBlock(*sizes), Reference(*sizes))
    check_state_dict(answer.ResidualBlock(2, 2), Reference(2, 2))


@exercise.property("values in evaluation")
def values(answer: ModuleType, rng: random.Random) -> None:
    for n, (sizes, shape) in enumerate(zip(SHAPES, [(1, 2), (2, 2), (3, 2), (3, 4), (4, 3), (6, 5)], strict=True)):
        ours, theirs = (block.eval() for block in pair(answer, *sizes))
        x = torch.randn(n % 3 + 1, sizes[0], *shape)
        check_equal(ours, x, expected=theirs(x).detach(), rtol=1e-4, atol=1e-5)


@exercise.property("training: values, statistics, gradients")
def training(answer: ModuleType, rng: random.Random) -> None:
    for sizes in [(2, 2, 1), (2, 3, 2)]:
        ours, theirs = pair(answer, *sizes)
        x = torch.randn(3, 4, sizes[0], 5).transpose(1, 2)
        check_equal(ours, x, expected=theirs(x).detach(), rtol=1e-3, atol=1e-4)
        for name, want in theirs.state_dict().items():
            got = ours.state_dict()[name]
            reason = difference(got, want, 1e-3, 1e-4)
            check_that(not reason, f"{name} after a batch: {reason}", want, got, in_channels=sizes[0], stride=sizes[2])
        check_gradients_of(ours, theirs, x, rtol=1e-5)


def block(**faults: Any) -> type:
    """The block with one of the known faults."""

    class ResidualBlock(nn.Module):
        def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
            super().__init__()
            first, second = (1, stride) if faults.get("stride_second") else (stride, 1)
            bias = bool(faults.get("bias"))
            self.conv1 = nn.Conv2d(in_channels, out_channels, 3, first, 1, bias=bias)
            self.bn1 = nn.BatchNorm2d(out_channels)
            self.conv2 = nn.Conv2d(out_channels, out_channels, 3, second, 1, bias=bias)
            self.bn2 = nn.BatchNorm2d(out_channels)
            self.downsample = None
            if (stride != 1 and not faults.get("channels_only")) or in_channels != out_channels:
                step = 1 if faults.get("shortcut_without_stride") else stride
                conv = nn.Conv2d(in_channels, out_channels, 1, step, bias=False)
                self.downsample = nn.Sequential(conv, *([] if faults.get("bare") else [nn.BatchNorm2d(out_channels)]))

        def forward(self, x: Tensor) -> Tensor:
            identity = x
            if faults.get("in_place"):
                x = torch.relu_(x)
            out = torch.relu(self.bn1(self.conv1(x)))
            out = self.bn2(self.conv2(out))
            if faults.get("relu_before"):
                out = torch.relu(out)
            out = out + (identity if self.downsample is None else self.downsample(identity))
            return out if faults.get("relu_before") or faults.get("no_relu") else torch.relu(out)

    return ResidualBlock


exercise.wrong("ResidualBlock", "The shortcut's convolution has no normalization: downsample is a convolution and a norm.")(
    block(bare=True)
)
exercise.wrong(
    "ResidualBlock", "A convolution before a batch normalization needs no bias: the norm subtracts it with the mean."
)(block(bias=True))
exercise.wrong(
    "ResidualBlock", "Without a downsample for stride 2 the shortcut is as large as x, and the sum cannot be made."
)(block(channels_only=True))
exercise.wrong(
    "ResidualBlock", "The last ReLU stands before the sum: the block can then only add, and its output can be negative."
)(block(relu_before=True))
exercise.wrong("ResidualBlock", "The ReLU after the sum is missing.")(block(no_relu=True))
exercise.wrong(
    "ResidualBlock",
    "A ReLU in place has changed x, which the shortcut and the caller still need: relu_ overwrites its input.",
)(block(in_place=True))
exercise.wrong("ResidualBlock", "The shortcut's convolution lacks the stride: it stays as large as x.")(
    block(shortcut_without_stride=True)
)
exercise.wrong(
    "ResidualBlock", "The stride belongs to the first convolution; the shapes are the same, the numbers are not."
)(block(stride_second=True))
exercise.also_right("ResidualBlock")(block())


@exercise.also_right("ResidualBlock")
class Sequential(nn.Module):
    """Modules made in another order; in place where it does no harm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        same = stride == 1 and in_channels == out_channels
        shortcut = [nn.Conv2d(in_channels, out_channels, (1, 1), stride, bias=False), nn.BatchNorm2d(out_channels)]
        self.downsample = nn.Identity() if same else nn.Sequential(*shortcut)
        self.bn2, self.bn1 = nn.BatchNorm2d(out_channels), nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding="same", bias=False)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.downsample(x)
        return self.activation(out)
