"""Exercise conv2d_pooling: windows, a matrix product, a maximum, and the dense matrix that does the same."""

import random
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundations.comparing import call, check_device, check_equal, check_gradients, check_that
from foundations.exercise import Exercise
from foundations.modules import check_gradients_of, check_state_dict, load_same

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
POOLINGS = (
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_pool2d_with_indices",
    "adaptive_max_pool2d",
    "max_pool1d_with_indices",
)
BARRED = (
    *(*CONVOLUTIONS, *POOLINGS, "_convolution", "mkldnn_convolution", "fractional_max_pool2d", "lp_pool2d", "conv_tbc"),
    *("torch.nn.modules.conv._ConvNd", "torch.nn.modules.pooling._MaxPoolNd", "torch.nn.modules.pooling._AdaptiveMaxPoolNd"),
)

exercise = Exercise(
    title="Convolution by unfolding, and max pooling: windows, then one matrix product, or one maximum",
    level="core",
    minutes=30,
    link="projects.cifar10.networks:Whitening",
    why="its filters are computed from all windows of the training images, cut out by two calls of unfold",
    hints=(
        "Cut the windows once; a convolution then is a matrix product of flat windows and flat filters, pooling a maximum.",
        "Windows (N, H', W', C * k * k) times filters (C * k * k, O), then the channels back to second place. The dense "
        "matrix: convolve images of which one pixel is 1; each result is a column.",
        "F.pad(x, 4 * (p,), value=value).unfold(2, k, stride).unfold(3, k, stride); permute(0, 2, 3, 1, 4, 5).flatten(3).",
    ),
    source="torch._decomp.decompositions:im2col",
    look_at="The same windows by two index tensors. Find the formula of the output's size, and where dilation comes in.",
    barred=BARRED,
)

# n, c, height, width, kernel, stride, padding: the small ones first
CASES = [
    (1, 1, 3, 3, 2, 1, 0),
    (1, 1, 2, 3, 1, 1, 0),
    (1, 1, 3, 4, 2, 2, 0),
    (1, 1, 2, 2, 2, 1, 1),
    (1, 2, 3, 4, 2, 1, 0),
    (2, 3, 5, 4, 3, 2, 1),
    (3, 3, 3, 3, 1, 1, 0),
]


def cut(x: Tensor, kernel: int, stride: int, padding: int, value: float) -> Tensor:
    """Windows, one after the other."""
    n, c, height, width = x.shape
    image = x.new_full((n, c, height + 2 * padding, width + 2 * padding), value)
    image[:, :, padding : padding + height, padding : padding + width] = x
    tops = range(0, height + 2 * padding - kernel + 1, stride)
    lefts = range(0, width + 2 * padding - kernel + 1, stride)
    rows = [torch.stack([image[:, :, i : i + kernel, j : j + kernel] for j in lefts], 2) for i in tops]
    return torch.stack(rows, 2)


def convolve(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """torch's."""
    return F.conv2d(x, weight, bias, stride, padding)


@exercise.property("windows")
def windows(answer: ModuleType, rng: random.Random) -> None:
    for n, c, height, width, kernel, stride, padding in CASES:
        x = torch.arange(1.0, 1 + n * c * height * width).view(n, c, height, width)
        expected = cut(x, kernel, stride, padding, -7.0)
        check_equal(answer.windows, x, kernel, stride, padding, -7.0, expected=expected)
    x = torch.ones(1, 1, 2, 3)
    check_equal(answer.windows, x, 2, expected=cut(x, 2, 1, 0, 0.0))
    check_equal(answer.windows, x, 2, 1, 1, expected=cut(x, 2, 1, 1, 0.0))


@exercise.property("max pooling")
def pooling(answer: ModuleType, rng: random.Random) -> None:
    for n, c, height, width, kernel, stride, padding in CASES:
        x, padding = torch.randn(n, c, height, width) - 2.0, min(padding, kernel // 2)
        expected = F.max_pool2d(x, kernel, stride, padding)
        check_equal(answer.max_pool2d, x, kernel, stride, padding, expected=expected)
    x = torch.randn(2, 4, 3, 2).transpose(1, 3)
    check_equal(answer.max_pool2d, x, 2, 1, 1, expected=F.max_pool2d(x, 2, 1, 1))
    check_equal(answer.max_pool2d, x, 2, 1, expected=F.max_pool2d(x, 2, 1))
    check_gradients(answer.max_pool2d, F.max_pool2d, torch.randn(2, 2, 4, 5), 2, 2, 1)


@exercise.property("convolution")
def convolution(answer: ModuleType, rng: random.Random) -> None:
    for n, c, height, width, kernel, stride, padding in CASES:
        x, weight = torch.randn(n, c, height, width), torch.randn(c // 2 + 1, c, kernel, kernel)
        expected = F.conv2d(x, weight, None, stride, padding)
        check_equal(answer.conv2d, x, weight, None, stride, padding, expected=expected, atol=1e-5)


@exercise.property("a bias for each filter")
def biases(answer: ModuleType, rng: random.Random) -> None:
    for out, size in [(1, 2), (2, 2), (3, 4)]:
        x, weight, bias = torch.randn(1, 2, size, size), torch.randn(out, 2, 1, 1), torch.randn(out)
        check_equal(answer.conv2d, x, weight, bias, expected=F.conv2d(x, weight, bias), atol=1e-5)


@exercise.property("any memory layout, large values, gradients")
def gradients(answer: ModuleType, rng: random.Random) -> None:
    x, weight = 1e4 * torch.randn(2, 4, 3, 2).transpose(1, 3), torch.randn(3, 3, 2, 2).transpose(0, 1)[:, :2]
    check_equal(answer.conv2d, x, weight, None, 1, 1, expected=F.conv2d(x, weight, None, 1, 1), rtol=1e-4, atol=1e-1)
    check_gradients(answer.conv2d, convolve, torch.randn(2, 2, 4, 5), torch.randn(3, 2, 2, 2), torch.randn(3), 2, 1)
    check_device(answer.conv2d, torch.randn(2, 2, 3, 3), torch.randn(3, 2, 2, 2), torch.randn(3), 1, 1)


@exercise.property("the module")
def module(answer: ModuleType, rng: random.Random) -> None:
    check_state_dict(answer.Conv2d(3, 32, 3, bias=False), nn.Conv2d(3, 32, 3, bias=False))
    for options in [(2, 3, 2), (1, 2, 3, 2), (2, 2, 3, 2, 1), (3, 1, 2, 1, 1, False), (2, 4, 1, 2, 0, False)]:
        theirs = nn.Conv2d(*options[:5], bias=options[5] if len(options) > 5 else True)
        ours, theirs = load_same(answer.Conv2d(*options), theirs)
        x = torch.randn(2, options[0], 4, 5)
        check_equal(ours, x, expected=theirs(x).detach(), atol=1e-5)
        check_gradients_of(ours, theirs, x)
    for channels, size in [(3, 3), (16, 1)]:
        layer, bound = answer.Conv2d(channels, 100, size), (channels * size**2) ** -0.5
        for name, parameter in layer.named_parameters():
            largest = parameter.abs().max().item()
            fits = 0.8 * bound <= largest <= 1.0001 * bound and abs(parameter.std().item() * 3**0.5 / bound - 1) < 0.3
            check_that(fits, f"{name} is not uniform in [-{bound:.3g}, {bound:.3g}]", bound, largest, kernel_size=size)


@exercise.property("the dense matrix")
def dense(answer: ModuleType, rng: random.Random) -> None:
    for _, c, height, width, kernel, stride, padding in CASES:
        weight, x = torch.randn(2, c, kernel, kernel), torch.randn(c, height, width)
        expected = F.conv2d(x[None], weight, None, stride, padding).flatten()
        matrix = call(answer.dense_matrix, weight, height, width, stride, padding)
        shape = (len(expected), x.numel())
        inputs = {"weight": weight, "height": height, "width": width, "stride": stride, "padding": padding}
        check_that(matrix.shape == shape, f"shape {tuple(matrix.shape)} in place of {shape}", None, matrix, **inputs)
        good = torch.allclose(matrix @ x.flatten(), expected, rtol=1e-4, atol=1e-5)
        check_that(good, "M @ x.flatten() is not the flattened output", expected, matrix @ x.flatten(), **inputs)
    double = call(answer.dense_matrix, torch.ones(1, 1, 2, 2, dtype=torch.float64), 2, 3)
    expected = torch.tensor([[1.0, 1, 0, 1, 1, 0], [0, 1, 1, 0, 1, 1]], dtype=torch.float64)
    check_that(double.dtype == expected.dtype, "another dtype than the filters'", expected.dtype, double.dtype)
    check_device(answer.dense_matrix, torch.ones(1, 1, 2, 2), 2, 3)
    check_that(torch.equal(double, expected), "of ones, for images of 2 x 3", expected, double)


@exercise.wrong(
    "conv2d", "The kernel is flipped, as in mathematics: what deep learning calls a convolution multiplies without flipping."
)
def flipped(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    return F.conv2d(x, weight.flip(2, 3), bias, stride, padding)


@exercise.wrong("conv2d", "Windows are flattened as (k, k, channel), filters as (channel, k, k): both must agree.")
def channels_last(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    patches = cut(x, weight.shape[-1], stride, padding, 0.0).permute(0, 2, 3, 4, 5, 1).flatten(3)
    y = (patches @ weight.flatten(1).t()).permute(0, 3, 1, 2)
    return y if bias is None else y + bias[:, None, None]


@exercise.wrong("conv2d", "A bias (O,) meets (N, O, H', W') from the right, at the columns: give it bias[:, None, None].")
def bias_of_columns(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    y = F.conv2d(x, weight, None, stride, padding)
    return y if bias is None else y + bias


@exercise.wrong("max_pool2d", "Max pooling pads with -inf: a 0 beats every negative value at the edge.")
def padded_with_zeros(x: Tensor, kernel_size: int, stride: int, padding: int = 0) -> Tensor:
    return cut(x, kernel_size, stride, padding, 0.0).amax((4, 5))


@exercise.wrong("windows", "F.pad takes (left, right, top, bottom): with two numbers it pads the width alone.")
def padded_width(x: Tensor, kernel_size: int, stride: int = 1, padding: int = 0, value: float = 0.0) -> Tensor:
    padded = F.pad(x, (padding, padding), value=value)
    return padded.unfold(2, kernel_size, stride).unfold(3, kernel_size, stride)


@exercise.wrong("windows", "The padding is on one side, left and above: each of the four sides gets it.")
def padded_one_side(x: Tensor, kernel_size: int, stride: int = 1, padding: int = 0, value: float = 0.0) -> Tensor:
    padded = F.pad(x, (padding, 0, padding, 0), value=value)
    return padded.unfold(2, kernel_size, stride).unfold(3, kernel_size, stride)


@exercise.wrong("dense_matrix", "This is the transpose: a linear layer's weight has a row for each output.")
def transposed(weight: Tensor, height: int, width: int, stride: int = 1, padding: int = 0) -> Tensor:
    pixels = weight.shape[1] * height * width
    images = torch.eye(pixels, dtype=weight.dtype).view(pixels, -1, height, width)
    return F.conv2d(images, weight, None, stride, padding).flatten(1)


@exercise.also_right("conv2d")
def by_einsum(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    y = torch.einsum("ncyxij,ocij->noyx", cut(x, weight.shape[-1], stride, padding, 0.0), weight)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


@exercise.also_right("conv2d")
def by_shifts(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """One product for each entry of the kernel, of the image shifted, added up in place."""
    k, image = weight.shape[-1], F.pad(x, (padding,) * 4)
    rows, columns = ((size - k) // stride + 1 for size in image.shape[2:])
    y = x.new_zeros(len(x), len(weight), rows, columns)
    for i in range(k):
        for j in range(k):
            seen = image[:, :, i : i + rows * stride : stride, j : j + columns * stride : stride][:, :, :rows, :columns]
            y += torch.tensordot(seen, weight[:, :, i, j], dims=([1], [1])).movedim(-1, 1)
    return y if bias is None else y + bias.view(-1, 1, 1)


@exercise.also_right("max_pool2d")
def by_maximum(x: Tensor, kernel_size: int, stride: int, padding: int = 0) -> Tensor:
    columns = F.unfold(F.pad(x, (padding,) * 4, value=float("-inf")), kernel_size, stride=stride)
    n, c, height, _ = x.shape
    rows = (height + 2 * padding - kernel_size) // stride + 1
    return columns.view(n, c, kernel_size**2, rows, -1).max(dim=2).values


@exercise.also_right("dense_matrix")
def by_entries(weight: Tensor, height: int, width: int, stride: int = 1, padding: int = 0) -> Tensor:
    out, c, k, _ = weight.shape
    rows, columns = (height + 2 * padding - k) // stride + 1, (width + 2 * padding - k) // stride + 1
    matrix = weight.new_zeros(out, rows, columns, c, height, width)
    for y in range(rows):
        for x in range(columns):
            for i in range(k):
                for j in range(k):
                    row, column = y * stride + i - padding, x * stride + j - padding
                    if 0 <= row < height and 0 <= column < width:
                        matrix[:, y, x, :, row, column] = weight[:, :, i, j]
    return matrix.view(out * rows * columns, c * height * width)
