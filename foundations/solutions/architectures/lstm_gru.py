"""LSTM and GRU: cells with gates, which decide what to forget, what to write and what to show

A memory that is only scaled and added to lets gradients reach far back, where those of a plain RNN die out.
"""

import torch
from torch import Tensor, nn


def lstm_cell(
    x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM (Hochreiter and Schmidhuber, 1997), as torch.nn.LSTMCell with the weights of the same names.

    Input gate i, forget gate f and output gate o are sigmoids, the candidate g is a tanh. c' = f c + i g, h' = o tanh(c').

    Args:
        x: (B, D), the inputs of this step.
        h: (B, H), the hidden state: what was shown last.
        c: (B, H), the cell state: the memory.
        w_ih: (4 H, D), the rows of i, f, g and o, in this order.
        w_hh: (4 H, H), likewise.
        b_ih: (4 H,).
        b_hh: (4 H,).

    Returns:
        h' and c', (B, H) each.

    Example:
        With weights and biases of zeros all gates are 0.5 and g is 0: c' = c / 2 and h' = tanh(c / 2) / 2.
    """
    i, f, g, o = (x @ w_ih.t() + b_ih + h @ w_hh.t() + b_hh).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """One step of a GRU (Cho et al., arXiv 1406.1078), as torch.nn.GRUCell with the weights of the same names.

    Reset gate r and update gate z are sigmoids. n = tanh(W_in x + b_in + r * (W_hn h + b_hn)): r times the product with h
    and its bias, where the paper has the product with r * h. Then h' = (1 - z) n + z h.

    Args:
        x: (B, D).
        h: (B, H).
        w_ih: (3 H, D), the rows of r, z and n, in this order.
        w_hh: (3 H, H), likewise.
        b_ih: (3 H,).
        b_hh: (3 H,).

    Returns:
        h', (B, H).
    """
    r_x, z_x, n_x = (x @ w_ih.t() + b_ih).chunk(3, 1)
    r_h, z_h, n_h = (h @ w_hh.t() + b_hh).chunk(3, 1)
    r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
    return (1 - z) * torch.tanh(n_x + r * n_h) + z * h


class LSTM(nn.Module):
    """LSTM of one layer in one direction, as torch.nn.LSTM: its state dict loads here.

    Attributes:
        weight_ih_l0: Parameter (4 hidden_size, input_size), uniform within 1 / sqrt(hidden_size) at the start, as all four.
        weight_hh_l0: Parameter (4 hidden_size, hidden_size).
        bias_ih_l0: Parameter (4 hidden_size,).
        bias_hh_l0: Parameter (4 hidden_size,).
    """

    def __init__(self, input_size: int, hidden_size: int, batch_first: bool = False) -> None:
        super().__init__()
        self.hidden_size, self.batch_first = hidden_size, batch_first
        _add_weights(self, 4, input_size, hidden_size)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Reads all steps.

        Args:
            x: (T, B, D), or (B, T, D) with batch_first.
            state: First h and c, (1, B, H) each; zeros if it is None.

        Returns:
            All h, (T, B, H) or (B, T, H), and the last h and c, (1, B, H) each.
        """
        time = 1 if self.batch_first else 0
        zeros = x.new_zeros(x.shape[1 - time], self.hidden_size)
        h, c = (zeros, zeros) if state is None else (part[0] for part in state)
        states = []
        for step in x.unbind(time):
            h, c = lstm_cell(step, h, c, *self.parameters())
            states.append(h)
        return torch.stack(states, time), (h[None], c[None])


class GRU(nn.Module):
    """GRU of one layer in one direction, as torch.nn.GRU: its state dict loads here.

    Attributes:
        weight_ih_l0: Parameter (3 hidden_size, input_size), uniform within 1 / sqrt(hidden_size) at the start, as all four.
        weight_hh_l0: Parameter (3 hidden_size, hidden_size).
        bias_ih_l0: Parameter (3 hidden_size,).
        bias_hh_l0: Parameter (3 hidden_size,).
    """

    def __init__(self, input_size: int, hidden_size: int, batch_first: bool = False) -> None:
        super().__init__()
        self.hidden_size, self.batch_first = hidden_size, batch_first
        _add_weights(self, 3, input_size, hidden_size)

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Reads all steps: x (T, B, D) or (B, T, D), h (1, B, H) or None -> all h, and the last, as RNN does."""
        time = 1 if self.batch_first else 0
        state = x.new_zeros(x.shape[1 - time], self.hidden_size) if h is None else h[0]
        states = []
        for step in x.unbind(time):
            state = gru_cell(step, state, *self.parameters())
            states.append(state)
        return torch.stack(states, time), state[None]


def _add_weights(module: nn.Module, gates: int, input_size: int, hidden_size: int) -> None:
    """Adds the four parameters in the order in which the cells take them."""
    sizes = {"weight_ih_l0": (input_size,), "weight_hh_l0": (hidden_size,), "bias_ih_l0": (), "bias_hh_l0": ()}
    for name, size in sizes.items():
        weight = torch.empty(gates * hidden_size, *size)
        setattr(module, name, nn.Parameter(nn.init.uniform_(weight, -(hidden_size**-0.5), hidden_size**-0.5)))
