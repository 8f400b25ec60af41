"""The output layer and its loss as one step: what costs most in a translator of short sentences and many words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 256  # tokens whose logits exist at once; small enough for a processor's cache


class LinearCrossEntropy(torch.autograd.Function):
    """See `linear_cross_entropy`. The gradient is made in the forward pass, while a chunk's logits are at hand."""

    @staticmethod
    def forward(
        context: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        weights: Tensor,
        smoothing: float,
        consistency: float,
    ) -> Tensor:
        """The loss; arguments as `linear_cross_entropy`'s."""
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        exact = torch.promote_types(dtype, torch.float32)
        wanted = any(context.needs_input_grad[:3])
        passes = 2 if consistency else 1  # over the same tokens
        with torch.autocast(device, enabled=False):
            h, w, b = hidden.to(dtype), weight.to(dtype), bias.to(dtype)  # (passes * tokens, width), (vocabulary, width)
            weights = weights.to(exact)
            weighted_h = (weights[:, None] * h).to(dtype)
            grad_h = torch.empty_like(h) if wanted else None
            grad_w, grad_b = torch.zeros_like(w, dtype=exact), torch.zeros_like(b, dtype=exact)
            loss = h.new_zeros((), dtype=exact)
            for rows in torch.arange(len(h), device=h.device).view(passes, -1).split(CHUNK // passes, 1):
                part = rows.flatten()  # (chunk,), the first pass's tokens before the second's
                logits = torch.addmm(b, h[part], w.T)  # (chunk, vocabulary)
                log_p = logits.log_softmax(1, exact)
                target, share = targets[part, None], weights[part, None]
                loss += (share * (smoothing * logits.gather(1, target) - log_p.gather(1, target))).sum()
                slope = log_p.exp()  # of the cross-entropy without its target, by the logits
                if consistency:
                    divergence, pull = disagreement(log_p, slope)
                    loss += consistency / 2 * (divergence * share[: len(divergence), 0]).sum()
                    slope.add_(pull, alpha=consistency / 2)
                if grad_h is not None:
                    slope = slope.to(dtype)
                    slope[torch.arange(len(part), device=h.device), target[:, 0]] -= 1 - smoothing
                    grad_h[part] = slope @ w  # the shares are still to come, on rows shorter than these
                    grad_w += slope.T @ weighted_h[part]
                    grad_b += (share.T.to(dtype) @ slope)[0]  # as matrices: a vector's product is slower
            # what is spread evenly is linear in the mean logit, so it needs no pass over the logits
            mean_w, sum_h, total = w.to(exact).mean(0), (weights[:, None] * h).sum(0), weights.sum()  # (width,) twice
            loss -= smoothing * (mean_w @ sum_h + b.to(exact).mean() * total)
            if grad_h is not None:
                grad_h = weights[:, None] * (grad_h - smoothing * mean_w)
                grad_w -= smoothing / len(w) * sum_h
                grad_b -= smoothing / len(w) * total
                context.save_for_backward(grad_h.to(hidden.dtype), grad_w.to(weight.dtype), grad_b.to(bias.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> Any:
        """The gradients of hidden, weight and bias, scaled by the loss's own."""
        return (*(gradients[0].to(saved.dtype) * saved for saved in context.saved_tensors), None, None, None, None)


def disagreement(log_p: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p1 || p2) + KL(p2 || p1), in nats, of two passes' distributions, and its slope by the logits.

    Args:
        log_p: (2 * tokens, vocabulary) log probabilities, the first pass's before the second's.
        p: the probabilities themselves.

    Returns:
        The divergence (tokens,), and the slope (2 * tokens, vocabulary).
    """
    first, second = log_p.chunk(2)
    gap = torch.sub(first, second)  # (tokens, vocabulary)
    slope = torch.cat([gap, -gap])
    kl = (p[:, None] @ slope[:, :, None]).flatten()  # (2 * tokens,), each pass from the other
    slope.add_(1 - kl[:, None]).mul_(p)
    for mine, other in zip(slope.chunk(2), reversed(p.chunk(2)), strict=True):
        mine.sub_(other)
    return kl.view(2, -1).sum(0), slope


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    weights: Tensor,
    smoothing: float = 0.0,
    consistency: float = 0.0,
) -> Tensor:
    """Weighted sum of the cross-entropies of `F.linear(hidden, weight, bias)`, in nats, without holding the logits.

    Equals `(F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="none", label_smoothing=smoothing) *
    weights).sum()`, which keeps three tensors of (tokens, vocabulary) in memory and reads each several times. Under autocast
    the products are in its type, the softmax in float32.

    With `consistency` the tokens were read twice, each time under other dropout, and the two distributions of a token are
    held together: R-Drop (Liang et al., arXiv 2106.14448), whose alpha `consistency` is.

    Args:
        hidden: (tokens, width), what the output layer reads; (2 * tokens, width) with `consistency`, one pass behind the
            other, and so for targets and weights.
        weight: (vocabulary, width).
        bias: (vocabulary,).
        targets: (tokens,) int64.
        weights: (tokens,) how much each token counts.
        smoothing: share of a target that is spread evenly over the vocabulary (Szegedy et al., arXiv 1512.00567).
        consistency: weight of half the sum of both Kullback-Leibler divergences between a token's two distributions.
    """
    loss: Tensor = LinearCrossEntropy.apply(hidden, weight, bias, targets, weights, smoothing, consistency)
    return loss
