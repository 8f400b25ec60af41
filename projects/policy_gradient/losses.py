"""What a policy and a value network learn from. All tensors are (batch,); means are over the batch."""

from __future__ import annotations

import torch
from torch import Tensor


def policy_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """Minus the log-probability of each action, weighed by its advantage: (batch,).

    The gradient of its mean is minus the policy gradient (Williams, 1992; Sutton et al., 2000), if the actions were drawn
    from the same policy.
    """
    return -log_probs * advantages


def clipped_policy_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """The same for actions of an older policy, as far as the new one is near it (Schulman et al., arXiv 1707.06347, eq. 7).

    An advantage is weighed by how much likelier its action has become. Beyond 1 + `clip` for good actions and 1 - `clip` for
    bad ones there is no more gradient: the estimate is not to be trusted that far away. At the old policy itself the
    gradient is that of `policy_loss`.
    """
    ratio = (log_probs - old_log_probs).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def explained_variance(values: Tensor, targets: Tensor) -> Tensor:
    """The share of the targets' variance that the values explain, at most 1; below 0 they are worse than a constant."""
    return 1 - (targets - values).var(correction=0) / targets.var(correction=0).clamp(min=1e-12)
