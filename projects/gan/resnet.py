"""Generators and discriminators: for points in the plane an MLP, for 32 x 32 pictures DCGAN and a residual pair.

A generator maps noise (batch, noise) and labels to samples; a discriminator maps samples and labels to logits (batch,),
higher for real. Labels are int64 (batch,), and None for a network made without classes. Points are (batch, 2); pictures are
(batch, 3, 32, 32) from -1 to 1.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

# Numbers that stand for a code. One that only said which (one-hot) would weigh as little as a single number of the noise: a
# generator that finds a ring of modes by the rest of the noise then goes all the way round it, through every gap.
CODE_WIDTH = 16


class PointGenerator(nn.Module):
    """An MLP from noise to points in the plane, a part of whose noise can be a choice among `codes`.

    Noise without gaps, mapped by a network without jumps, leaves points on the way from mode to mode, and to narrow that way
    the network must become steep, which takes long. A choice has gaps: each code is free to be anywhere, and one that is
    not needed where it is can move to a mode that is missing (mixture of latents: Gurumurthy et al., arXiv 1706.02071;
    why one connected latent cannot do: Khayatkhoei et al., arXiv 1806.00880).

    Args:
        noise: numbers that a point is made from.
        width: of the hidden layers.
        layers: how many hidden ones.
        classes: labels that it can be asked for; 0 for none.
        scale: the standard deviation of a coordinate of the data: the last layer's unit.
        codes: how many codes the first number of the noise chooses among, all equally likely; 0 for none.
    """

    def __init__(
        self, noise: int, width: int = 128, layers: int = 3, classes: int = 0, scale: float = 1.0, codes: int = 0
    ) -> None:
        super().__init__()
        self.label = nn.Embedding(classes, noise) if classes else None
        self.code = nn.Embedding(codes, CODE_WIDTH) if codes else None
        inputs = noise - 1 + CODE_WIDTH if codes else noise
        self.stack = mlp(inputs + (noise if classes else 0), width, layers, 2)
        self.scale, self.codes = scale, codes

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, noise) -> (batch, 2)."""
        x = noise
        if self.code is not None:
            chosen = (torch.special.ndtr(noise[:, 0]) * self.codes).long().clamp(max=self.codes - 1)
            x = torch.cat([self.code(chosen), noise[:, 1:]], 1)
        if self.label is not None:
            x = torch.cat([x, self.label(labels)], 1)
        return self.stack(x) * self.scale


class PointDiscriminator(nn.Module):
    """An MLP from points in the plane to logits, which sees their coordinates through waves too (see `waves`).

    Args:
        width: of the hidden layers.
        layers: how many hidden ones.
        classes: see `ProjectionHead`.
        scale: the standard deviation of a coordinate of the data; points are divided by it.
        octaves: waves for each coordinate.
    """

    def __init__(self, width: int = 128, layers: int = 3, classes: int = 0, scale: float = 1.0, octaves: int = 0) -> None:
        super().__init__()
        self.stack = mlp(2 + 4 * octaves, width, layers - 1, width)
        self.activation = nn.LeakyReLU(0.2)
        self.head = ProjectionHead(width, classes)
        self.scale, self.octaves = scale, octaves

    def forward(self, points: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, 2) -> (batch,)."""
        return self.head(self.activation(self.stack(waves(points / self.scale, self.octaves))), labels)


def waves(x: Tensor, octaves: int) -> Tensor:
    """(batch, n) -> (batch, n + 2 n octaves): numbers, then sines, then cosines of each number times pi, 2 pi, 4 pi ...

    Left to itself an MLP learns first what changes slowly, and takes long to tell numbers apart that are close together.
    With waves it has fine distances from the start (Fourier features: Tancik et al., arXiv 2006.10739).
    """
    if not octaves:
        return x
    frequencies = math.pi * 2.0 ** torch.arange(octaves, device=x.device, dtype=x.dtype)
    angles = (x[:, :, None] * frequencies).flatten(1)  # (batch, n octaves)
    return torch.cat([x, angles.sin(), angles.cos()], 1)


def mlp(inputs: int, width: int, layers: int, outputs: int) -> nn.Sequential:
    """`layers` hidden layers of `width` with leaky rectifiers between them, and a last layer without one."""
    widths = [inputs, *[width] * layers]
    hidden = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], outputs))


class ProjectionHead(nn.Module):
    """Logits from features: linear, plus the product with the label's embedding (Miyato et al., arXiv 1802.05637, eq. 3).

    Args:
        width: of the features.
        classes: labels that samples come with; 0 for none.
        spectral: whether the weights have spectral norm 1.
    """

    def __init__(self, width: int, classes: int, spectral: bool = False) -> None:
        super().__init__()
        self.linear = normed(nn.Linear(width, 1)) if spectral else nn.Linear(width, 1)
        label = nn.Embedding(classes, width) if classes else None
        if label is not None:
            nn.init.normal_(label.weight, std=width**-0.5)  # as large as a linear layer's: its product is a logit
        self.label = spectral_norm(label) if spectral and label is not None else label

    def forward(self, features: Tensor, labels: Tensor | None) -> Tensor:
        """(batch, width) -> (batch,)."""
        logits = self.linear(features).squeeze(1)
        if self.label is None:
            return logits
        return logits + (self.label(labels) * features).sum(1)


class DCGenerator(nn.Module):
    """DCGAN's generator for 32 x 32 (Radford et al., arXiv 1511.06434): transposed convolutions, batch norm, ReLU, tanh.

    Args:
        noise: numbers that a picture is made from.
        width: channels before the last layer; each layer below has twice as many.
        classes: labels that it can be asked for; 0 for none.
    """

    def __init__(self, noise: int = 100, width: int = 64, classes: int = 0) -> None:
        super().__init__()
        self.label = nn.Embedding(classes, noise) if classes else None
        inputs = noise * (2 if classes else 1)
        self.stack = nn.Sequential(
            nn.ConvTranspose2d(inputs, 4 * width, 4, 1, 0, bias=False),  # (batch, 4 width, 4, 4)
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False),  # (batch, 2 width, 8, 8)
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),  # (batch, width, 16, 16)
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False),  # (batch, 3, 32, 32)
            nn.Tanh(),
        )
        self.apply(dcgan_init)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, noise) -> (batch, 3, 32, 32)."""
        if self.label is not None:
            noise = torch.cat([noise, self.label(labels)], 1)
        return self.stack(noise[:, :, None, None])


class DCDiscriminator(nn.Module):
    """DCGAN's discriminator for 32 x 32: strided convolutions, leaky ReLU, batch norm or in its place spectral norm.

    Args:
        width: channels after the first layer; each layer above has twice as many.
        classes: see `ProjectionHead`.
        spectral: whether all weights have spectral norm 1 (Miyato et al., arXiv 1802.05957) and nothing mixes the batch.
    """

    def __init__(self, width: int = 64, classes: int = 0, spectral: bool = False) -> None:
        super().__init__()

        def layer(inputs: int, outputs: int, first: bool = False) -> list[nn.Module]:
            """Half the height and width."""
            conv = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=spectral)
            if spectral:
                return [normed(conv), nn.LeakyReLU(0.2)]
            return [conv, *([] if first else [nn.BatchNorm2d(outputs)]), nn.LeakyReLU(0.2)]

        self.stack = nn.Sequential(
            *layer(3, width, first=True),  # (batch, width, 16, 16)
            *layer(width, 2 * width),  # (batch, 2 width, 8, 8)
            *layer(2 * width, 4 * width),  # (batch, 4 width, 4, 4)
            nn.Flatten(),
        )
        self.head = ProjectionHead(4 * width * 16, classes, spectral)  # of all 4 x 4 places: the original's last convolution
        if not spectral:
            self.apply(dcgan_init)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, 3, 32, 32) -> (batch,)."""
        return self.head(self.stack(images), labels)


def dcgan_init(layer: nn.Module) -> None:
    """Draws a layer's weights as section 4 of Radford et al. does: narrow Gaussians."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, ProjectionHead) and layer.label is not None:
        nn.init.normal_(layer.label.get_parameter("weight"), 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)


class ConditionalNorm(nn.Module):
    """Batch norm whose scale and shift belong to the label (Dumoulin et al., arXiv 1610.07629); plain without classes."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=not classes)
        self.scale = nn.Embedding(classes, channels) if classes else None
        self.shift = nn.Embedding(classes, channels) if classes else None
        if self.scale is not None and self.shift is not None:
            nn.init.ones_(self.scale.weight)
            nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """(batch, channels, height, width) -> the same shape."""
        x = self.norm(x)
        if self.scale is None or self.shift is None:
            return x
        return x * self.scale(labels)[:, :, None, None] + self.shift(labels)[:, :, None, None]


class UpBlock(nn.Module):
    """Doubles height and width: norm, ReLU and convolution, twice, beside a shortcut (arXiv 1802.05957, table 4)."""

    def __init__(self, inputs: int, outputs: int, classes: int) -> None:
        super().__init__()
        self.norm1 = ConditionalNorm(inputs, classes)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = ConditionalNorm(outputs, classes)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """(batch, inputs, size, size) -> (batch, outputs, 2 size, 2 size)."""
        y = F.interpolate(F.relu(self.norm1(x, labels)), scale_factor=2)
        y = self.conv2(F.relu(self.norm2(self.conv1(y), labels)))
        return y + F.interpolate(self.shortcut(x), scale_factor=2)  # a 1 x 1 convolution costs a quarter before enlarging


class ResGenerator(nn.Module):
    """The residual generator of SNGAN for 32 x 32 (Miyato et al., table 4).

    Args:
        noise: numbers that a picture is made from.
        width: channels at full size.
        classes: labels that it can be asked for; 0 for none.
        pyramid: whether there are twice as many at half the size and four times as many below; else, as in the paper, the
            same throughout. A convolution at full size costs sixteen times one at 8 x 8: most of the time goes where least
            is decided.
    """

    def __init__(self, noise: int = 128, width: int = 128, classes: int = 0, pyramid: bool = False) -> None:
        super().__init__()
        widths = (4 * width, 4 * width, 2 * width, width) if pyramid else (width,) * 4  # at 4, 8, 16 and 32
        self.first = nn.Linear(noise, widths[0] * 4 * 4)
        self.blocks = nn.ModuleList(UpBlock(inputs, outputs, classes) for inputs, outputs in pairwise(widths))
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        self.apply(xavier_init)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, noise) -> (batch, 3, 32, 32)."""
        x = self.first(noise).view(len(noise), -1, 4, 4)
        for block in self.blocks:
            x = block(x, labels)
        return torch.tanh(self.last(F.relu(self.norm(x))))


class DownBlock(nn.Module):
    """A residual block with spectral norm.

    Args:
        inputs: channels in.
        outputs: channels out.
        down: whether height and width are halved.
        first: whether it is the network's first, which sees the picture itself: no rectifier before its first convolution.
    """

    def __init__(self, inputs: int, outputs: int, down: bool, first: bool = False) -> None:
        super().__init__()
        self.down, self.first = down, first
        self.conv1 = normed(nn.Conv2d(inputs, outputs, 3, padding=1))
        self.conv2 = normed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = normed(nn.Conv2d(inputs, outputs, 1)) if down or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, size, size) -> (batch, outputs, size, size), or half that size."""
        y = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if not self.down:
            return y + self.shortcut(x)
        return F.avg_pool2d(y, 2) + self.shortcut(F.avg_pool2d(x, 2))  # linear both: pooled first, a quarter of the work


class ResDiscriminator(nn.Module):
    """The residual discriminator of SNGAN for 32 x 32 (Miyato et al., table 4): spectral norm throughout, summed features.

    Args:
        width: channels of the first block.
        classes: see `ProjectionHead`.
        pyramid: whether the second block has twice as many and the others four times; see `ResGenerator`.
    """

    def __init__(self, width: int = 128, classes: int = 0, pyramid: bool = False) -> None:
        super().__init__()
        middle, top = (2 * width, 4 * width) if pyramid else (width, width)
        self.blocks = nn.Sequential(
            DownBlock(3, width, down=True, first=True),  # (batch, width, 16, 16)
            DownBlock(width, middle, down=True),  # (batch, middle, 8, 8)
            DownBlock(middle, top, down=False),  # (batch, top, 8, 8)
            DownBlock(top, top, down=False),
        )
        self.head = ProjectionHead(top, classes, spectral=True)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, 3, 32, 32) -> (batch,)."""
        return self.head(F.relu(self.blocks(images)).sum((2, 3)), labels)


@torch.no_grad()
def take_statistics(generator: nn.Module, noise: Tensor, labels: Tensor | None, batch_size: int) -> None:
    """Takes the means and variances that batch norm uses outside of training anew, from samples of the weights as they are.

    Averaged weights belong to no statistics that were seen while they were averaged ("standing statistics": Brock et al.,
    arXiv 1809.11096, appendix C).

    Args:
        generator: a network from noise and labels.
        noise: (count, noise).
        labels: (count,), or None.
        batch_size: of each forward pass; the statistics are the means over the passes.
    """
    norms = [layer for layer in generator.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # all passes weigh the same
        norm.train()
    parts = [None] * len(noise) if labels is None else labels.split(batch_size)
    for part, told in zip(noise.split(batch_size), parts, strict=False):
        generator(part, told)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def xavier_init(layer: nn.Module) -> None:
    """Glorot's uniform weights for convolutions and linear layers."""
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def normed(layer: nn.Module) -> nn.Module:
    """A layer that begins with Glorot's weights and always divides them by their largest singular value."""
    xavier_init(layer)  # before the division: from then on `weight` is a result, which no initialisation reaches
    return spectral_norm(layer)
