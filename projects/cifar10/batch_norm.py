"""Synchronized batch normalization (SyncBatchNorm) that runs on CPUs as well. Needs torch alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class AllReduceSum(torch.autograd.Function):
    """Differentiable all-reduce: the sum over all processes; its gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalization with the statistics of the batch over all processes.

    With one process this is `nn.BatchNorm2d`. With several, the sums behind mean and variance are all-reduced inside the
    graph, so that N processes with batch size B train exactly as one process with batch size N*B does.
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
        count = x32.new_full((1,), x32.numel() / self.num_features)
        sums = torch.cat([x32.sum((0, 2, 3)), x32.square().sum((0, 2, 3)), count])  # (2 * channels + 1,)
        sums = AllReduceSum.apply(sums)
        total = sums[-1].detach()
        mean, square = (sums[:-1] / total).chunk(2)
        var = (square - mean.square()).clamp(min=0)  # rounding may take a constant channel's below zero
        with torch.no_grad():
            self.running_mean.add_(mean.detach(), alpha=self.momentum)
            self.running_var.mul_(1 - self.momentum).add_(var.detach() * total / (total - 1), alpha=self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return torch.addcmul((self.bias - mean * scale).view(1, -1, 1, 1), x32, scale.view(1, -1, 1, 1)).to(x.dtype)
