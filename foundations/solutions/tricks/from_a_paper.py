"""From a paper: RMSNorm, rotary position embedding, SwiGLU

Three parts of today's language models, from the page of formulas at the end of the lesson.
"""

import torch
from torch import Tensor


def rms_norm(x: Tensor, gain: Tensor, eps: float = 1e-6) -> Tensor:
    """Root mean square layer normalization: formula (1).

    Args:
        x: (..., D) float.
        gain: (D,), g of the formula.
        eps: Added to the mean square.

    Returns:
        (..., D).

    Example:
        x = [3, 4] has the root mean square 3.536; with the gain [1, 10] it becomes [0.849, 11.31].
    """
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain


def rotate(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """Rotary position embedding: formula (2).

    Args:
        x: (..., T, D) float; D is even.
        positions: (T,) int64, from 0, in any order; a few thousand is nothing unusual.
        base: b₀ of the formula.

    Returns:
        (..., T, D), of the dtype of `x`. Angles are exact to float32, whatever the dtype of `x`.

    Example:
        x = [[1, 0]] at positions = [1] becomes [[cos 1, sin 1]].
    """
    dim = x.shape[-1]
    freqs = base ** (torch.arange(0, dim, 2, device=x.device) / -dim)  # (D / 2,)
    angles = positions[:, None] * freqs  # (T, D / 2), in float32: bfloat16 has no 257
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def rotary_attention(q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Tensor:
    """Attention with rotary position embedding, without a mask: formula (3).

    Args:
        q: Queries (..., T, D).
        k: Keys (..., T, D).
        v: Values (..., T, D).
        positions: (T,) int64.

    Returns:
        (..., T, D).

    Example:
        If all values are the same vector, it comes out at each position.
    """
    scores = rotate(q, positions) @ rotate(k, positions).mT / q.shape[-1] ** 0.5  # (..., T, T)
    return scores.softmax(-1) @ v


def swiglu(x: Tensor, w: Tensor, v: Tensor, w2: Tensor) -> Tensor:
    """Feed-forward network with a gate: formula (4).

    Args:
        x: (..., D) float.
        w: W of the formula, (D, H).
        v: V of the formula, (D, H).
        w2: W2 of the formula, (H, D).

    Returns:
        (..., D).

    Example:
        With D = H = 1, x = [2] and w = v = w2 = [[1]] give 2 · 0.881 · 2 = [3.523].
    """
    gate = x @ w
    return (gate * gate.sigmoid() * (x @ v)) @ w2
