"""Policy losses: the policy gradient of REINFORCE and the clipped surrogate objective of PPO. All tensors are (batch,)."""

from __future__ import annotations

import torch
from torch import Tensor


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """Policy gradient loss, -log pi(a|s) A (Williams, 1992; Sutton et al., 2000).

    The gradient of its mean is minus the policy gradient, if the same policy has sampled the actions.
    """
    return -log_probs * advantages


def ppo_clip_loss(ratio: Tensor, advantages: Tensor, clip_coef: float) -> Tensor:
    """Clipped surrogate objective of proximal policy optimization, PPO (Schulman et al., arXiv 1707.06347, eq. 7), negated.

    Beyond a ratio of 1 + `clip_coef` for good actions and 1 - `clip_coef` for bad ones there is no more gradient: the
    estimate is not to be trusted that far from the old policy. At a ratio of 1 the gradient is that of
    `policy_gradient_loss`.

    Args:
        ratio: Probability ratio pi(a|s) / pi_old(a|s).
        advantages: Advantage of each action.
        clip_coef: Clipping coefficient epsilon.
    """
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip_coef, 1 + clip_coef) * advantages)


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """Explained variance 1 - Var[returns - values] / Var[returns], at most 1; below 0 values are worse than a constant."""
    return 1 - (returns - values).var(correction=0) / returns.var(correction=0).clamp(min=1e-12)
