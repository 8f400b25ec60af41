"""Batch normalization and layer normalization: mean 0 and variance 1, over the batch or over the features

One depends on the other samples and behaves differently in evaluation; the other does neither.
"""

import torch
from torch import Tensor, nn


class BatchNorm(nn.Module):
    """Batch normalization, as torch.nn.BatchNorm1d and BatchNorm2d: their state dicts load here.

    In training, each channel gets the mean and the (biased) variance of the batch, and the running statistics move towards
    the batch's by `momentum`, the running variance towards the unbiased one. In evaluation the running statistics are used.

    Attributes:
        weight: Parameter (channels,), ones at the start.
        bias: Parameter (channels,), zeros.
        running_mean: Buffer (channels,), zeros.
        running_var: Buffer (channels,), ones.
        num_batches_tracked: Buffer (), int64: batches seen in training.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes each channel.

        Args:
            x: (N, C) or (N, C, H, W), more than one value of each channel in training.

        Returns:
            The shape of `x`.
        """
        dims = [0, *range(2, x.ndim)]
        if self.training:
            mean, var = x.mean(dims), x.var(dims, correction=0)
            count = x.numel() / x.shape[1]
            with torch.no_grad():
                self.running_mean += self.momentum * (mean - self.running_mean)
                self.running_var += self.momentum * (var * count / (count - 1) - self.running_var)
                self.num_batches_tracked += 1
        else:
            mean, var = self.running_mean, self.running_var
        shape = (-1,) + (1,) * (x.ndim - 2)
        scale = self.weight / (var + self.eps).sqrt()
        return (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)


class LayerNorm(nn.Module):
    """Layer normalization over the last dimension, as torch.nn.LayerNorm(features): its state dict loads here.

    Attributes:
        weight: Parameter (features,), ones at the start.
        bias: Parameter (features,), zeros.
    """

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes each vector on its own.

        Args:
            x: (..., features).

        Returns:
            The shape of `x`.
        """
        mean, var = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
        return (x - mean) / (var + self.eps).sqrt() * self.weight + self.bias
