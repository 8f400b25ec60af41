"""Convolution by unfolding, and max pooling: windows, then one matrix product, or one maximum

A convolution is a small linear layer applied to every window of an image. Written as one large matrix it is mostly zeros.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def windows(x: Tensor, kernel_size: int, stride: int = 1, padding: int = 0, value: float = 0.0) -> Tensor:
    """All windows of kernel_size x kernel_size pixels, `stride` apart, of the padded images.

    Args:
        x: (N, C, H, W).
        kernel_size: Height and width of a window, k.
        stride: Step from one window to the next.
        padding: Rows and columns that are added on each of the four sides.
        value: What these hold.

    Returns:
        (N, C, H', W', k, k), H' = (H + 2 padding - k) // stride + 1, W' likewise.

    Example:
        [[0, 1, 2], [3, 4, 5], [6, 7, 8]] with kernel_size 2 has the windows [[0, 1], [3, 4]] and [[1, 2], [4, 5]] above,
        [[3, 4], [6, 7]] and [[4, 5], [7, 8]] below.
    """
    padded = F.pad(x, (padding, padding, padding, padding), value=value)
    return padded.unfold(2, kernel_size, stride).unfold(3, kernel_size, stride)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolution: each output is the sum of a window times a filter, over all input channels, plus the filter's bias.

    Args:
        x: (N, C, H, W).
        weight: Filters (O, C, k, k). They are not flipped.
        bias: (O,), or None.
        stride: Step from one window to the next.
        padding: Zeros on each side.

    Returns:
        (N, O, H', W').
    """
    patches = windows(x, weight.shape[-1], stride, padding).permute(0, 2, 3, 1, 4, 5).flatten(3)  # (N, H', W', C * k * k)
    y = (patches @ weight.flatten(1).t()).permute(0, 3, 1, 2)
    return y if bias is None else y + bias[:, None, None]


class Conv2d(nn.Module):
    """Convolution as a module: the state dict of torch.nn.Conv2d loads here.

    Attributes:
        weight: Parameter (out_channels, in_channels, k, k), uniform within 1 / sqrt(in_channels * k * k) at the start.
        bias: Parameter (out_channels,), of the same distribution, or None.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        bound = (in_channels * kernel_size**2) ** -0.5
        shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W')."""
        return conv2d(x, self.weight, self.bias, self.stride, self.padding)


def max_pool2d(x: Tensor, kernel_size: int, stride: int, padding: int = 0) -> Tensor:
    """Largest value of each window, channel by channel; the padding never wins.

    Args:
        x: (N, C, H, W).
        kernel_size: Height and width of a window.
        stride: Step from one window to the next.
        padding: Rows and columns on each side, at most half of the kernel size.

    Returns:
        (N, C, H', W').
    """
    return windows(x, kernel_size, stride, padding, value=-torch.inf).amax((4, 5))


def dense_matrix(weight: Tensor, height: int, width: int, stride: int = 1, padding: int = 0) -> Tensor:
    """Weight of the linear layer that does the same as a convolution without bias to images of height x width.

    Args:
        weight: Filters (O, C, k, k).
        height: H.
        width: W.
        stride: Step from one window to the next.
        padding: Zeros on each side.

    Returns:
        M (O * H' * W', C * H * W), of the dtype of `weight`: for each image x (C, H, W), M @ x.flatten() is the flattened
        output.
    """
    pixels = weight.shape[1] * height * width
    images = torch.eye(pixels, dtype=weight.dtype, device=weight.device)  # one pixel of each is 1: what becomes of it?
    return conv2d(images.view(pixels, -1, height, width), weight, None, stride, padding).flatten(1).t()
