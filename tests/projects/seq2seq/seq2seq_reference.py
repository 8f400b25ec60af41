"""The layers that teach, from first principles: nothing but products, sums and elementwise functions.

Read these first. Each is held equal to PyTorch's own layer and to the faster one of `networks.py`, forward and gradient
(`tests/projects/seq2seq/test_seq2seq_reference.py`); nothing else imports them. Those of the Transformer are solutions of
the course: `foundations/solutions/architectures`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lstm_cell(
    x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM (Hochreiter and Schmidhuber, 1997; with the forget gate of Gers et al., 2000).

    The cell `c` is a memory: the forget gate says what is kept of it, the input gate what is written into it, the output
    gate what is shown of it. As `c` is only scaled and added to, gradients reach far back.

    Args:
        x: (batch, inputs).
        h: (batch, hidden), what was shown last.
        c: (batch, hidden), the memory.
        w_ih: (4 hidden, inputs): rows of the input, forget, cell and output parts, in PyTorch's order.
        w_hh: (4 hidden, hidden).
        b_ih: (4 hidden,).
        b_hh: (4 hidden,), a second bias that PyTorch keeps for cuDNN.

    Returns:
        The new h and c.
    """
    gates = x @ w_ih.T + b_ih + h @ w_hh.T + b_hh  # (batch, 4 hidden)
    i, f, g, o = gates.chunk(4, 1)  # each (batch, hidden)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return h, c


def gru_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """One step of a gated recurrent unit (Cho et al., arXiv 1406.1078, in PyTorch's form).

    The update gate mixes the old state with a new one; the reset gate says how much of the old the new one may see.

    Args:
        x: (batch, inputs).
        h: (batch, hidden).
        w_ih: (3 hidden, inputs): rows of the reset, update and new parts.
        w_hh: (3 hidden, hidden).
        b_ih: (3 hidden,).
        b_hh: (3 hidden,).
    """
    r_x, z_x, n_x = (x @ w_ih.T + b_ih).chunk(3, 1)
    r_h, z_h, n_h = (h @ w_hh.T + b_hh).chunk(3, 1)
    r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)  # (batch, hidden)
    n = torch.tanh(n_x + r * n_h)
    return (1 - z) * n + z * h


def additive_attention(query: Tensor, keys: Tensor, w: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """The attention weights of one sentence by Bahdanau et al. (arXiv 1409.0473, appendix A.1.2).

    Args:
        query: (query,), the decoder's state.
        keys: (time, memory), the encoder's states.
        w: (inner, query).
        u: (inner, memory).
        v: (inner,).

    Returns:
        (time,), positive and of sum 1.
    """
    scores = torch.stack([v @ torch.tanh(w @ query + u @ key) for key in keys])  # (time,)
    return softmax(scores)


def softmax(scores: Tensor) -> Tensor:
    """exp(scores) / sum(exp(scores)) over the last dimension; the largest is taken off first, so that nothing overflows."""
    exponentials = torch.exp(scores - scores.max(-1, keepdim=True).values)
    return exponentials / exponentials.sum(-1, keepdim=True)
