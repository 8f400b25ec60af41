"""Optimizer helpers: Newton-Schulz orthogonalization (Muon), gradient clipping, learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from common.nn.device import has_bfloat16


def orthogonalize(matrices: Tensor, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """Newton-Schulz orthogonalization (Jordan et al., "Muon", 2024): brings all singular values close to 1.

    Each step maps a singular value s to a s + b s^3 + c s^5. The coefficients trade exactness for speed: values land
    between about 0.7 and 1.2, which serves an update direction as well as 1 does. Three steps bring all those there that
    are at least 2 % of the matrix's norm; a smaller one grows by a^3, to 41 times itself.

    Computes in bfloat16 where the device has it natively: its three digits are enough.

    Args:
        matrices: Matrices (..., rows, columns), each orthogonalized by itself.
        steps: Newton-Schulz iterations.
        eps: Added to the norm, against division by zero.
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
    """Gradient clipping for modules with a fused optimizer, as the Trainer's `gradient_clip_*` options ask for it.

    Lightning refuses to clip for fused optimizers, as they would undo a gradient scaler only afterwards; with a scaler take
    one that is not fused (`common.trainer.has_grad_scaler`).

    Args:
        parameters: Parameters whose gradients are clipped.
        limit: Largest norm of all gradients together or, by `algorithm`, of each element; no clipping if None or 0.
        algorithm: `norm`, which None means too, or `value`.
    """
    if limit:
        clip = clip_grad_value_ if algorithm == "value" else clip_grad_norm_
        clip(parameters, limit)


def lr_factor(step: int, steps: int, schedule: str, warmup_steps: int = 0, constant_fraction: float = 0.0) -> float:
    """Learning rate in a step as a fraction of its peak: linear warm-up, then a schedule; every capstone's is this one.

    Args:
        step: Steps done, from 0.
        steps: Steps of the whole training.
        schedule: `constant`; `linear` or `cosine`, each to zero at the last step; `inverse_sqrt` (Vaswani et al.,
            arXiv 1706.03762, section 5.3).
        warmup_steps: Steps of the warm-up, part of `steps`, from 1 / `warmup_steps` to the peak; 0 for none: the decay then
            begins in step 0.
        constant_fraction: Of `linear`: fraction of the steps after the warm-up that stay at the peak.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    if schedule == "inverse_sqrt":
        return (max(1, warmup_steps) / (step + 1)) ** 0.5
    progress = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    if schedule == "linear":
        return min(1.0, (1 - progress) / (1 - constant_fraction))
    return 0.5 * (1 + math.cos(math.pi * progress))


def warmup_schedule(optimizer: Optimizer, steps: int, warmup_steps: int, schedule: str = "linear") -> dict[str, Any]:
    """Optimizer, its groups at their peak learning rates, with `lr_factor` in each step: for `configure_optimizers`."""
    scheduler = LambdaLR(optimizer, lambda step: lr_factor(step, steps, schedule, warmup_steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
