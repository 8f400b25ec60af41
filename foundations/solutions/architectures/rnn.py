"""RNN: one cell, the same at every step

A recurrent network reads a sequence step by step; what it has read so far is its hidden state.
"""

import torch
from torch import Tensor, nn


def rnn_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """One step of an RNN with tanh, as torch.nn.RNNCell with the weights of the same names.

    Args:
        x: (B, D), the inputs of this step.
        h: (B, H), the hidden state before it.
        w_ih: (H, D), weight of the input.
        w_hh: (H, H), weight of the state.
        b_ih: (H,).
        b_hh: (H,), a second bias, which torch has too.

    Returns:
        (B, H), the new hidden state.

    Example:
        With weights of ones and biases of zeros, x = [[0.5]] and h = [[0.1]] give [[tanh(0.6)]] = [[0.5370]].
    """
    return torch.tanh(x @ w_ih.t() + b_ih + h @ w_hh.t() + b_hh)


class RNN(nn.Module):
    """RNN of one layer in one direction, as torch.nn.RNN: its state dict loads here.

    Attributes:
        weight_ih_l0: Parameter (hidden_size, input_size), uniform within 1 / sqrt(hidden_size) at the start, as all four.
        weight_hh_l0: Parameter (hidden_size, hidden_size).
        bias_ih_l0: Parameter (hidden_size,).
        bias_hh_l0: Parameter (hidden_size,).
    """

    def __init__(self, input_size: int, hidden_size: int, batch_first: bool = False) -> None:
        super().__init__()
        self.hidden_size, self.batch_first = hidden_size, batch_first
        self.weight_ih_l0 = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(hidden_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden_size**-0.5), hidden_size**-0.5)

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Reads all steps.

        Args:
            x: (T, B, D), or (B, T, D) with batch_first.
            h: (1, B, H), the first hidden state, in both orders; zeros if it is None.

        Returns:
            The hidden states after all steps, (T, B, H), or (B, T, H) with batch_first; and the last, (1, B, H) in both
            orders.
        """
        time = 1 if self.batch_first else 0
        state = x.new_zeros(x.shape[1 - time], self.hidden_size) if h is None else h[0]
        states = []
        for step in x.unbind(time):
            state = rnn_cell(step, state, self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0)
            states.append(state)
        return torch.stack(states, time), state[None]
