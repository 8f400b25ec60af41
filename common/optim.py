"""What the optimizers of several capstones share: orthogonalised updates, and clipping."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_


def orthogonalize(matrices: Tensor, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """Pushes all singular values of each matrix (..., rows, columns) towards 1 by Newton-Schulz iteration, in bfloat16.

    Each step maps a singular value s to a s + b s^3 + c s^5. The coefficients trade exactness for speed: values land
    between about 0.7 and 1.2, which serves an update direction as well as 1 does (Jordan et al., "Muon", 2024). Three
    steps bring all those there that are at least 2 % of the matrix's norm; a smaller one grows by a^3, to 41 times itself.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
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
