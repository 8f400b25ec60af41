"""Gradient accumulation: the gradient of a batch that does not fit into memory

backward() adds to .grad. So a batch can be taken in pieces, if each counts for as much as it holds.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn


def accumulate_gradients(
    model: nn.Module, loss_fn: Callable[[Tensor, Tensor], Tensor], batches: Sequence[tuple[Tensor, Tensor]]
) -> float:
    """Leaves in each parameter's `.grad` the gradient of the mean loss over the samples of all `batches`.

    Only one batch's graph is alive at a time. Gradients from before do not count.

    Args:
        model: Network.
        loss_fn: Of outputs and targets, the mean over a batch's samples.
        batches: Pairs of inputs and targets, of unequal sizes.

    Returns:
        The mean loss over all samples.

    Example:
        Batches of 3 samples and of 1 count three quarters and one quarter.
    """
    count = sum(len(targets) for _, targets in batches)
    model.zero_grad()
    total = 0.0
    for inputs, targets in batches:
        loss = loss_fn(model(inputs), targets) * (len(targets) / count)
        loss.backward()
        total += loss.item()
    return total
