"""Read errors: eight messages of torch, and the mend that each of them asks for

Each function stands broken in its docstring: run that line on tensors of the shapes given and read the message to its end.
A mend that only makes the message go away is often wrong without one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def dense(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Linear layer. Broken: `return x @ weight + bias`

    Args:
        x: (N, in) float.
        weight: (out, in) float, as in nn.Linear.
        bias: (out,) float.

    Returns:
        (N, out) float.

    Example:
        x = [[1, 2]], weight = [[1, 0], [1, 1]] and bias = [0, 10] give [[1, 13]]
    """
    return x @ weight.t() + bias


def weight_samples(x: Tensor, weights: Tensor) -> Tensor:
    """Each sample times its own weight. Broken: `return x * weights`

    Args:
        x: (N, D) float.
        weights: (N,) float.

    Returns:
        (N, D) float.

    Example:
        x = [[1, 2], [3, 4]] and weights = [1, 10] give [[1, 2], [30, 40]]
    """
    return x * weights[:, None]


def project(x: Tensor, weight: Tensor) -> Tensor:
    """Linear layer on data that came from NumPy. Broken: `return F.linear(x, weight)`

    Args:
        x: (N, in) float64.
        weight: (out, in) float32; the network's precision.

    Returns:
        (N, out) float32.

    Example:
        x = [[1, 2]] and weight = [[3, 4]] give [[11]]
    """
    return F.linear(x.to(weight.dtype), weight)


def convolve(images: Tensor, weight: Tensor) -> Tensor:
    """Convolution of images as a camera gives them. Broken: `return F.conv2d(images, weight)`

    Args:
        images: (N, H, W, C) float.
        weight: (out, C, k, k) float.

    Returns:
        (N, out, H - k + 1, W - k + 1) float.

    Example:
        images = [[[[1], [2]]]] (one row, two columns, one channel) and weight = [[[[10]]]] give [[[[10, 20]]]]
    """
    return F.conv2d(images.permute(0, 3, 1, 2), weight)


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, with labels from a table. Broken: `return F.cross_entropy(logits, labels)`

    Args:
        logits: (N, C) float.
        labels: (N,) float64: the classes 0.0, 1.0, … C - 1.

    Returns:
        () float.

    Example:
        logits = [[0, 0]] and labels = [1.0] give log 2 = 0.6931
    """
    return F.cross_entropy(logits, labels.long())


def loss_from_one(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, with labels that count from 1. Broken: `return F.cross_entropy(logits, labels)`

    Args:
        logits: (N, C) float; column 0 is the class with label 1.
        labels: (N,) int64, from 1 to C.

    Returns:
        () float.

    Example:
        logits = [[100, 0]] and labels = [1] give 0
    """
    return F.cross_entropy(logits, labels - 1)


def sequence_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over all tokens. Broken: `return F.cross_entropy(logits, labels)`

    Args:
        logits: (T, N, C) float: time comes first, as in nn.LSTM.
        labels: (N, T) int64.

    Returns:
        () float.

    Example:
        logits = [[[100, 0]], [[0, 100]]] (two steps of one sequence) and labels = [[0, 1]] give 0
    """
    return F.cross_entropy(logits.permute(1, 2, 0), labels)


def shifted_exp(x: Tensor, shift: float) -> Tensor:
    """exp(x) + shift, for training. Broken: `y = x.exp(); y += shift; return y`, and then backward().

    Args:
        x: Float of any shape, with a gradient.

    Returns:
        Of the shape of `x`; its gradient is exp(x).

    Example:
        x = [0] and shift = 2 give [3], and the gradient 1
    """
    y = torch.exp(x)
    return y + shift
