"""What the optimizers of several capstones share: orthogonalised updates, clipping, warm-up, gradients averaged by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from common.nn.device import has_bfloat16

if TYPE_CHECKING:
    pass


def orthogonalize(matrices: Tensor, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """Pushes all singular values of each matrix (..., rows, columns) towards 1 by Newton-Schulz iteration.

    Each step maps a singular value s to a s + b s^3 + c s^5. The coefficients trade exactness for speed: values land
    between about 0.7 and 1.2, which serves an update direction as well as 1 does (Jordan et al., "Muon", 2024). Three
    steps bring all those there that are at least 2 % of the matrix's norm; a smaller one grows by a^3, to 41 times itself.
    The three digits of bfloat16 are enough, where the device has it.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.to(torch.bfloat16 if has_bfloat16(matrices.device.type) else torch.float32)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + eps)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT  # the Gram matrix is then the smaller of the two
    for _ in range(steps):
        gram = x @ x.mT  # (..., rows, rows)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def clip_gradients(parameters: Iterable[Tensor], limit: float | None, algorithm: str | None) -> None:
    """What `--trainer.gradient_clip_val` and `gradient_clip_algorithm` ask for, for modules with a fused optimizer.

    Lightning refuses to clip for those, as they might have a gradient scaler to undo first; bfloat16 needs none.

    Args:
        parameters: whose gradients are clipped.
        limit: of the norm of all together or, by `algorithm`, of each element; none if it is None or 0.
        algorithm: `norm`, which None means too, or `value`.
    """
    if not limit:
        return
    if algorithm == "value":
        clip_grad_value_(parameters, limit)
    else:
        clip_grad_norm_(parameters, limit)


def warmup_schedule(optimizer: Optimizer, steps: int, warmup_steps: int, schedule: str = "linear") -> dict[str, Any]:
    """Optimizer with linear warm-up and decay of the learning rate, as `configure_optimizers` returns it.

    Args:
        optimizer: with its groups' highest rates.
        steps: of the whole training.
        warmup_steps: of these, those of the warm-up.
        schedule: `linear` or `cosine`, each down to zero at the last step, or `inverse_sqrt`.
    """

    def rate(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if schedule == "inverse_sqrt":
            return (warmup_steps / (step + 1)) ** 0.5
        done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
        return 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, rate), "interval": "step"}}


def average_gradients(parameters: Iterable[Tensor], world_size: int) -> None:
    """Replaces the gradients of `parameters` by their means over the processes."""
    all_reduce_mean([p.grad for p in parameters if p.grad is not None], world_size)


@torch.no_grad()
def all_reduce_mean(tensors: Sequence[Tensor], world_size: int) -> None:
    """Replaces `tensors` by their means over the processes, all in one message."""
    if world_size == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
