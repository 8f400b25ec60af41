"""Truncated backpropagation through time: learning from a sequence that is too long to keep

The state goes on from chunk to chunk; the gradient ends at each chunk's beginning.
"""

from collections.abc import Callable

from torch import Tensor

State = tuple[Tensor, Tensor]


def truncated_bptt(
    step: Callable[[Tensor, State], tuple[Tensor, State]],
    x: Tensor,
    state: State,
    chunk: int,
    update: Callable[[Tensor], None],
) -> State:
    """Runs a recurrent network over a long sequence, chunk by chunk.

    Args:
        step: Of a chunk (B, chunk, D) and the state (h, c) before it: the loss of the chunk, and the state after it.
        x: The sequence (B, T, D); the last chunk may be shorter.
        state: The state (h, c) before it.
        chunk: Time steps of a chunk.
        update: Called with each chunk's loss: does backward() and an optimizer step.

    Returns:
        The state after the sequence, without a graph.

    Example:
        10 time steps with chunk = 4 make chunks of 4, 4 and 2 steps, and three updates.
    """
    for part in x.split(chunk, 1):
        loss, (h, c) = step(part, state)
        update(loss)
        state = h.detach(), c.detach()
    return state
