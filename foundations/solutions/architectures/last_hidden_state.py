"""Last hidden state: what a bidirectional network knows after the whole sequence

Each direction has read everything at another end: the forward one at the last real step, the backward one at the first.
"""

import torch
from torch import Tensor


def last_hidden_state(output: Tensor, lengths: Tensor) -> Tensor:
    """Last states of both directions, picked from the output of a packed run.

    Args:
        output: (B, T, 2 H): at each step the forward direction's state, then the backward one's. What stands in the padding,
            behind each length, may be anything.
        lengths: (B,), int64, from 1 to T.

    Returns:
        (B, 2 H): the forward direction's state after its last step, then the backward one's after its last.

    Example:
        Of [[1, 5], [2, 6], [0, 0]], (T, 2 H) with H = 1 and length 2, it is [2, 5].
    """
    hidden = output.shape[-1] // 2
    forward = output[torch.arange(len(output), device=output.device), lengths - 1, :hidden]
    return torch.cat([forward, output[:, 0, hidden:]], 1)


def join_directions(h_n: Tensor) -> Tensor:
    """The same from the last states that torch.nn.RNN, LSTM and GRU return, of the last layer.

    Args:
        h_n: (2 * layers, B, H): of each layer the forward direction, then the backward one; the last layer comes last.

    Returns:
        (B, 2 H).
    """
    return torch.cat([h_n[-2], h_n[-1]], 1)
