"""Overfit one batch: the first test of any training

Even a network that is too small for its data can memorize a few samples. One that cannot is broken, and one has found out in
a second.
"""

import copy
from collections.abc import Callable, Iterable

from networks.adam import Adam
from torch import Tensor, nn


def overfit_one_batch(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    min_loss: float = 0.0,
    tolerance: float = 0.05,
    steps: int = 200,
    lr: float = 0.01,
) -> bool:
    """Whether the model can memorize the first batch of `batches`.

    It is trained on this batch alone by Adam, with every nn.Dropout in it switched off. It has memorized the batch when the
    loss is at most `tolerance` above `min_loss`.

    Args:
        model: Afterwards it is as it was: the same parameters with the same values, buffers, gradients (.grad) and modes.
        loss_fn: Called as loss_fn(model(inputs), targets); gives the mean loss, ().
        batches: Such as a loader: each pass over it may give other batches.
        min_loss: The least that the loss can be, as the entropy of smoothed labels.
        steps: Updates at most.
        lr: Learning rate of Adam.

    Returns:
        False also where the loss is NaN.

    Example:
        One sample twice, once labeled 0 and once 1, cannot be memorized: the loss stays at log 2, and the result is False.
    """
    inputs, targets = next(iter(batches))
    trial = copy.deepcopy(model).train()  # nothing that happens to it reaches the model
    for module in trial.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    optimizer = Adam(trial.parameters(), lr=lr)
    for _ in range(steps + 1):
        loss = loss_fn(trial(inputs), targets)
        if loss.item() <= min_loss + tolerance:
            return True
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return False
