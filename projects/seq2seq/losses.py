"""The output layer and its loss as one step: what costs most in a translator of short sentences and many words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 512  # tokens whose logits exist at once; small enough for a processor's cache


class LinearCrossEntropy(torch.autograd.Function):
    """See `linear_cross_entropy`. The gradient is made in the forward pass, while a chunk's logits are at hand."""

    @staticmethod
    def forward(
        context: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, weights: Tensor, smoothing: float
    ) -> Tensor:
        """The loss; arguments as `linear_cross_entropy`'s."""
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        exact = torch.promote_types(dtype, torch.float32)
        wanted = any(context.needs_input_grad[:3])
        with torch.autocast(device, enabled=False):
            # the bias is the weight of an input that is always 1
            h = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], 1).to(dtype)  # (tokens, width + 1)
            w = torch.cat([weight, bias[:, None]], 1).to(dtype)  # (vocabulary, width + 1)
            weights = weights.to(exact)
            grad_h = torch.empty_like(h) if wanted else None
            grad_w = torch.zeros_like(w, dtype=exact)
            loss = h.new_zeros((), dtype=exact)
            for start in range(0, len(h), CHUNK):
                part = slice(start, start + CHUNK)
                logits = h[part] @ w.T  # (chunk, vocabulary)
                highest = logits.amax(1, keepdim=True).to(exact)
                true = logits.gather(1, targets[part, None]).to(exact)
                exponentials = (logits - highest).exp_()  # (chunk, vocabulary), exact
                total = exponentials.sum(1, keepdim=True)
                loss += ((total.log() + highest - (1 - smoothing) * true)[:, 0] * weights[part]).sum()
                if grad_h is not None:
                    slope = torch.mul(exponentials, weights[part, None] / total, out=torch.empty_like(logits))
                    slope.scatter_add_(1, targets[part, None], ((smoothing - 1) * weights[part, None]).to(dtype))
                    torch.matmul(slope, w, out=grad_h[part])
                    grad_w += slope.T @ h[part]
            # what is spread evenly is linear in the mean logit, so it needs no pass over the logits
            mean_w, sum_h = w.to(exact).mean(0), (weights[:, None] * h.to(exact)).sum(0)  # (width + 1,)
            loss -= smoothing * (mean_w @ sum_h)
            if grad_h is not None:
                grad_h -= (smoothing * weights[:, None] * mean_w).to(dtype)
                grad_w -= smoothing / len(w) * sum_h
                gradients = grad_h[:, :-1].to(hidden.dtype), grad_w[:, :-1].to(weight.dtype), grad_w[:, -1].to(bias.dtype)
                context.save_for_backward(*gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> Any:
        """The gradients of hidden, weight and bias, scaled by the loss's own."""
        return (*(gradients[0].to(saved.dtype) * saved for saved in context.saved_tensors), None, None, None)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, weights: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Weighted sum of the cross-entropies of `F.linear(hidden, weight, bias)`, in nats, without holding the logits.

    Equals `(F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="none", label_smoothing=smoothing) *
    weights).sum()`, which keeps three tensors of (tokens, vocabulary) in memory and reads each several times. Under autocast
    the products are in its type, the softmax in float32.

    Args:
        hidden: (tokens, width), what the output layer reads.
        weight: (vocabulary, width).
        bias: (vocabulary,).
        targets: (tokens,) int64.
        weights: (tokens,) how much each token counts.
        smoothing: share of a target that is spread evenly over the vocabulary (Szegedy et al., arXiv 1512.00567).
    """
    loss: Tensor = LinearCrossEntropy.apply(hidden, weight, bias, targets, weights, smoothing)
    return loss
