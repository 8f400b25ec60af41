"""Exercise lstm_gru: the cells and layers of torch.nn.LSTM and torch.nn.GRU, by hand."""

import random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from foundations.exercise import Exercise
from foundations.recurrent import BARRED, check_cell, check_cell_gradients, check_layer, check_layer_gradients

exercise = Exercise(
    title="LSTM and GRU: cells with gates, which decide what to forget, what to write and what to show",
    level="core",
    minutes=30,
    link="projects.seq2seq.recurrent:RecurrentCell",
    why="the recurrent translator's decoder: the same equations, with the inputs' products made beforehand",
    hints=(
        "One product for all gates, cut into equal parts by chunk; the layers then are the RNN's loop with another cell.",
        "LSTM: i, f, g, o; c' = f c + i g; h' = o tanh(c'). GRU: r, z, n; n = tanh(n_x + r * n_h); h' = (1 - z) n + z h.",
        "i, f, g, o = (x @ w_ih.t() + b_ih + h @ w_hh.t() + b_hh).chunk(4, 1); for the GRU keep the products with "
        "x and h apart: (x @ w_ih.t() + b_ih).chunk(3, 1) and (h @ w_hh.t() + b_hh).chunk(3, 1).",
    ),
    source="torch._decomp.decompositions:gru_cell",
    look_at="The update gate is called input_gate here, and h' is written with one product. Is it (1 - z) n + z h?",
    barred=BARRED,
)


@exercise.property("the LSTM's cell")
def lstm_cells(answer: ModuleType, rng: random.Random) -> None:
    check_cell(answer.lstm_cell, nn.LSTMCell, states=2)


@exercise.property("the GRU's cell")
def gru_cells(answer: ModuleType, rng: random.Random) -> None:
    check_cell(answer.gru_cell, nn.GRUCell)


@exercise.property("the LSTM")
def lstm_layer(answer: ModuleType, rng: random.Random) -> None:
    check_layer(answer.LSTM, nn.LSTM, batch_first=False)
    check_layer(answer.LSTM, nn.LSTM, batch_first=True)


@exercise.property("the GRU")
def gru_layer(answer: ModuleType, rng: random.Random) -> None:
    check_layer(answer.GRU, nn.GRU, batch_first=False)
    check_layer(answer.GRU, nn.GRU, batch_first=True)


@exercise.property("gradients, large values, device")
def gradients(answer: ModuleType, rng: random.Random) -> None:
    check_cell_gradients(answer.lstm_cell, nn.LSTMCell, torch.lstm_cell, states=2)
    check_cell_gradients(answer.gru_cell, nn.GRUCell, torch.gru_cell)
    check_layer_gradients(answer.LSTM, nn.LSTM)
    check_layer_gradients(answer.GRU, nn.GRU)


Pair = tuple[Tensor, Tensor]


@exercise.wrong("lstm_cell", "The rows are read as i, f, o, g: torch's order is i, f, g, o.")
def other_order(x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Pair:
    i, f, o, g = (x @ w_ih.t() + b_ih + h @ w_hh.t() + b_hh).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


@exercise.wrong("lstm_cell", "It returns c first: the hidden state h is what is shown, and comes before the memory c.")
def memory_first(x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Pair:
    h, c = by_slices(x, h, c, w_ih, w_hh, b_ih, b_hh)
    return c, h


@exercise.wrong("lstm_cell", "The memory is shown as it is: h' = o * tanh(c'), so that h stays within -1 and 1.")
def no_last_tanh(x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Pair:
    i, f, g, o = (x @ w_ih.t() + b_ih + h @ w_hh.t() + b_hh).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c, c


@exercise.wrong(
    "gru_cell", "The reset gate is applied to h, as in the paper: torch multiplies it with the product W_hn h + b_hn."
)
def reset_before(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    (x_r, x_z, x_n), (w_r, w_z, w_n) = (x @ w_ih.t() + b_ih).chunk(3, 1), w_hh.chunk(3)
    b_r, b_z, b_n = b_hh.chunk(3)
    r, z = torch.sigmoid(x_r + h @ w_r.t() + b_r), torch.sigmoid(x_z + h @ w_z.t() + b_z)
    return (1 - z) * torch.tanh(x_n + (r * h) @ w_n.t() + b_n) + z * h


@exercise.wrong("gru_cell", "The update gate the other way round: in torch z keeps the old state, h' = (1 - z) n + z h.")
def update_turned(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = (x @ w_ih.t() + b_ih).chunk(3, 1), (h @ w_hh.t() + b_hh).chunk(3, 1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    return z * torch.tanh(x_n + r * h_n) + (1 - z) * h


@exercise.wrong("gru_cell", "The rows are read as z, r, n: torch's order is r, z, n.")
def update_first(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    (x_z, x_r, x_n), (h_z, h_r, h_n) = (x @ w_ih.t() + b_ih).chunk(3, 1), (h @ w_hh.t() + b_hh).chunk(3, 1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    return (1 - z) * torch.tanh(x_n + r * h_n) + z * h


@exercise.also_right("lstm_cell")
def by_slices(x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Pair:
    n = h.shape[1]
    z = torch.cat([x, h], 1) @ torch.cat([w_ih, w_hh], 1).t() + (b_ih + b_hh)
    gates = [torch.sigmoid(z[:, k * n : (k + 1) * n]) for k in (0, 1, 3)]
    memory = gates[1] * c + gates[0] * z[:, 2 * n : 3 * n].tanh()
    return gates[2] * memory.tanh(), memory


@exercise.also_right("gru_cell")
def by_lerp(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    size = h.shape[1]
    rows = [slice(0, size), slice(size, 2 * size), slice(2 * size, 3 * size)]
    from_x = [torch.einsum("bd,hd->bh", x, w_ih[r]) + b_ih[r] for r in rows]
    from_h = [torch.einsum("bd,hd->bh", h, w_hh[r]) + b_hh[r] for r in rows]
    new = torch.tanh(from_x[2] + torch.sigmoid(from_x[0] + from_h[0]) * from_h[2])
    return torch.lerp(new, h, torch.sigmoid(from_x[1] + from_h[1]))


def lstm(**faults: Any) -> type:
    """The layer with one of the known faults."""

    class LSTM(nn.Module):
        def __init__(self, input_size: int, hidden_size: int, batch_first: bool = False) -> None:
            super().__init__()
            self.batch_first = batch_first
            sizes = {"bias_hh_l0": (), "bias_ih_l0": (), "weight_hh_l0": (hidden_size,), "weight_ih_l0": (input_size,)}
            for name, size in sizes.items():
                weight = (torch.rand(4 * hidden_size, *size) * 2 - 1) / hidden_size**0.5
                self.register_parameter(name, nn.Parameter(weight))

        def forward(self, x: Tensor, state: Pair | None = None) -> tuple[Tensor, Pair]:
            x = x.transpose(0, 1) if self.batch_first else x
            zeros = torch.zeros_like(x[0, :, :1]) * self.weight_hh_l0[:1]
            h, c = (zeros, zeros) if state is None else (state[0].squeeze(0), state[1].squeeze(0))
            shown = []
            for t in range(len(x)):
                c = torch.zeros_like(c) if faults.get("forgets_c") else c
                h, c = by_slices(x[t], h, c, self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0)
                shown.append(c if faults.get("shows_c") else h)
            output = torch.stack(shown)
            return output.transpose(0, 1) if self.batch_first else output, (h.unsqueeze(0), c.unsqueeze(0))

    return LSTM


exercise.wrong("LSTM", "The output is made of c: what an LSTM shows at each step is h.")(lstm(shows_c=True))
exercise.wrong("LSTM", "Each step begins with an empty memory: carry c on with h.")(lstm(forgets_c=True))
exercise.also_right("LSTM")(lstm())
