"""Linear cross-entropy: output layer and label-smoothed cross-entropy fused, without holding all logits; R-Drop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_SIZE = 256  # tokens whose logits exist at once; small enough for a processor's cache
GPU_CHUNK_SIZE = 4096  # large enough to keep a GPU busy


class LinearCrossEntropy(torch.autograd.Function):
    """Autograd function of `linear_cross_entropy`. The gradient is computed in the forward pass, chunk by chunk."""

    @staticmethod
    def forward(
        context: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        token_weights: Tensor,
        label_smoothing: float,
        r_drop: float,
    ) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        exact = torch.promote_types(dtype, torch.float32)
        needs_grad = any(context.needs_input_grad[:3])
        passes = 2 if r_drop else 1  # over the same tokens
        with torch.autocast(device, enabled=False):
            h, w, b = hidden.to(dtype), weight.to(dtype), bias.to(dtype)  # (passes * tokens, dim), (vocabulary, dim)
            token_weights = token_weights.to(exact)
            weighted_h = (token_weights[:, None] * h).to(dtype)
            grad_h = torch.empty_like(h) if needs_grad else None
            grad_w, grad_b = torch.zeros_like(w, dtype=exact), torch.zeros_like(b, dtype=exact)
            loss = h.new_zeros((), dtype=exact)
            chunk_size = CHUNK_SIZE if device == "cpu" else GPU_CHUNK_SIZE
            for rows in torch.arange(len(h), device=h.device).view(passes, -1).split(chunk_size // passes, 1):
                chunk = rows.flatten()  # (chunk,), the first pass's tokens before the second's
                logits = torch.addmm(b, h[chunk], w.T)  # (chunk, vocabulary)
                log_p = logits.log_softmax(1, exact)
                target, scale = targets[chunk, None], token_weights[chunk, None]
                loss += (scale * (label_smoothing * logits.gather(1, target) - log_p.gather(1, target))).sum()
                grad_logits = log_p.exp()  # of the cross-entropy without its target
                if r_drop:
                    kl, grad_kl = symmetric_kl(log_p, grad_logits)
                    loss += r_drop / 2 * (kl * scale[: len(kl), 0]).sum()
                    grad_logits.add_(grad_kl, alpha=r_drop / 2)
                if grad_h is not None:
                    grad_logits = grad_logits.to(dtype)
                    grad_logits[torch.arange(len(chunk), device=h.device), target[:, 0]] -= 1 - label_smoothing
                    grad_h[chunk] = grad_logits @ w  # token weights are applied later, to rows shorter than these
                    grad_w += grad_logits.T @ weighted_h[chunk]
                    grad_b += (scale.T.to(dtype) @ grad_logits)[0]  # as matrices: a vector's product is slower
            # label smoothing is linear in the mean logit, so it needs no pass over the logits
            mean_w, sum_h, total = (
                w.to(exact).mean(0),
                (token_weights[:, None] * h).sum(0),
                token_weights.sum(),
            )  # (dim,) x 2
            loss -= label_smoothing * (mean_w @ sum_h + b.to(exact).mean() * total)
            if grad_h is not None:
                grad_h = token_weights[:, None] * (grad_h - label_smoothing * mean_w)
                grad_w -= label_smoothing / len(w) * sum_h
                grad_b -= label_smoothing / len(w) * total
                context.save_for_backward(grad_h.to(hidden.dtype), grad_w.to(weight.dtype), grad_b.to(bias.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> Any:
        return (*(gradients[0].to(saved.dtype) * saved for saved in context.saved_tensors), None, None, None, None)


def symmetric_kl(log_p: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric KL divergence KL(p1 || p2) + KL(p2 || p1), in nats, of two passes, and its gradient by the logits.

    Args:
        log_p: Log probabilities (2 * tokens, vocabulary), the first pass's before the second's.
        p: The probabilities themselves.

    Returns:
        The divergence (tokens,), and the gradient (2 * tokens, vocabulary).
    """
    first, second = log_p.chunk(2)
    difference = torch.sub(first, second)  # (tokens, vocabulary)
    grad = torch.cat([difference, -difference])
    kl = (p[:, None] @ grad[:, :, None]).flatten()  # (2 * tokens,), each pass from the other
    grad.add_(1 - kl[:, None]).mul_(p)
    for part, other_p in zip(grad.chunk(2), reversed(p.chunk(2)), strict=True):
        part.sub_(other_p)
    return kl.view(2, -1).sum(0), grad


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    token_weights: Tensor,
    label_smoothing: float = 0.0,
    r_drop: float = 0.0,
) -> Tensor:
    """Weighted sum of the cross-entropies of `F.linear(hidden, weight, bias)`, in nats.

    Equals `(F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="none", label_smoothing=label_smoothing) *
    token_weights).sum()`, which holds three tensors of (tokens, vocabulary) in memory and reads each several times. Under
    autocast the products are in its type, the softmax in float32.

    With R-Drop (Liang et al., arXiv 2106.14448) the rows are two passes over the same tokens under different dropout, one
    behind the other, and the symmetric KL divergence between a token's two distributions is added.

    Args:
        hidden: Output layer's input (tokens, dim); with R-Drop (2 * tokens, dim), and so targets and token weights.
        weight: (vocabulary, dim).
        bias: (vocabulary,).
        targets: (tokens,) int64.
        token_weights: (tokens,) weight of each token.
        label_smoothing: Fraction of a target spread evenly over the vocabulary (Szegedy et al., arXiv 1512.00567).
        r_drop: R-Drop's alpha, the weight of half the symmetric KL divergence; 0 for one pass.
    """
    loss: Tensor = LinearCrossEntropy.apply(hidden, weight, bias, targets, token_weights, label_smoothing, r_drop)
    return loss
