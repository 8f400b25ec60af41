"""Cross-entropy: how surprised the logits are by the label

From logits, not from probabilities: the logarithm of a softmax has a form that does not overflow.
"""

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = -100) -> Tensor:
    """Mean cross-entropy, as torch.nn.functional.cross_entropy.

    Args:
        logits: (N, C), of any size.
        labels: (N,) int64, from 0 to C - 1, or `ignore_index`.
        weight: (C,) weights of the classes; the mean is then the weighted mean over the samples, each with the weight of
            its class.
        ignore_index: Label of samples that do not count.

    Returns:
        A number (), the mean over the samples that count.

    Example:
        Logits [[0, 0]] and any label give log(2).
    """
    counts = labels != ignore_index
    target = torch.where(counts, labels, 0)
    shifted = logits - logits.detach().max(1, keepdim=True).values  # exp() of at most 0 cannot overflow
    log_probs = shifted - shifted.exp().sum(1, keepdim=True).log()
    losses = -log_probs.gather(1, target[:, None])[:, 0]
    weights = counts.to(logits.dtype) if weight is None else weight[target] * counts
    return (losses * weights).sum() / weights.sum()
