"""Exercise rnn: torch.nn.RNNCell and torch.nn.RNN, by hand."""

import random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from foundations.exercise import Exercise
from foundations.recurrent import BARRED, check_cell, check_cell_gradients, check_layer, check_layer_gradients

exercise = Exercise(
    title="RNN: one cell, the same at every step",
    level="warm-up",
    minutes=20,
    link="projects.seq2seq.recurrent:RecurrentCell",
    why="its cells are called step by step in the same way, with gates in place of the tanh",
    hints=(
        "The cell is two linear layers, added, and a tanh; the layer calls it for each step with the state of the last one.",
        "h' = tanh(x W_ih^T + b_ih + h W_hh^T + b_hh); the output is all h' stacked along the time, h_n the last of them.",
        "for step in x.unbind(1 if self.batch_first else 0): h = rnn_cell(step, h, ...); torch.stack(states, dim).",
    ),
    source="torch._decomp.decompositions:one_layer_rnn",
    look_at="All products with the inputs are made before the loop. Why can those with the state not be?",
    barred=BARRED,
)


@exercise.property("the cell")
def cell(answer: ModuleType, rng: random.Random) -> None:
    check_cell(answer.rnn_cell, nn.RNNCell)


@exercise.property("the layer, time first")
def time_first(answer: ModuleType, rng: random.Random) -> None:
    check_layer(answer.RNN, nn.RNN, batch_first=False)


@exercise.property("the layer, batch first")
def batch_first(answer: ModuleType, rng: random.Random) -> None:
    check_layer(answer.RNN, nn.RNN, batch_first=True)


@exercise.property("gradients, large values, device")
def gradients(answer: ModuleType, rng: random.Random) -> None:
    check_cell_gradients(answer.rnn_cell, nn.RNNCell, torch.rnn_tanh_cell)
    check_layer_gradients(answer.RNN, nn.RNN)


def rnn(**faults: Any) -> type:
    """The layer with one of the known faults."""

    class RNN(nn.Module):
        def __init__(self, input_size: int, hidden_size: int, batch_first: bool = False) -> None:
            super().__init__()
            self.h, self.batch_first = hidden_size, batch_first
            sizes = [("weight_ih", (hidden_size, input_size)), ("weight_hh", (hidden_size, hidden_size))]
            for name, size in [*sizes, ("bias_ih", (hidden_size,)), ("bias_hh", (hidden_size,))]:
                value = (2 * torch.rand(size) - 1) * hidden_size**-0.5
                setattr(self, f"{name}_l0", nn.Parameter(value))

        def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
            turned = self.batch_first and not faults.get("always_time_first")
            steps = x.transpose(0, 1) if turned else x
            start = torch.zeros(steps.shape[1], self.h, device="cpu" if faults.get("cpu") else x.device, dtype=x.dtype)
            state = start if h is None or faults.get("forgets_start") else h[0]
            out = []
            for step in steps:
                projected = torch.addmm(self.bias_ih_l0, step, self.weight_ih_l0.t()) + self.bias_hh_l0
                new = torch.tanh(projected + state @ self.weight_hh_l0.t())
                state = state.copy_(new) if faults.get("in_place") else new
                out.append(state)
            output = torch.stack(out, 1 if turned else 0)
            if faults.get("bare_state"):
                return output, state
            return output, state[:, None] if faults.get("state_batch_first") and self.batch_first else state[None]

    return RNN


@exercise.wrong("rnn_cell", "One bias is missing: torch has one for the input and one for the state, and adds both.")
def one_bias(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    return torch.tanh(x @ w_ih.t() + h @ w_hh.t() + b_ih)


@exercise.wrong(
    "rnn_cell", "The new state is linear: without the tanh it grows or dies out, and steps add up to one product."
)
def no_tanh(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    return x @ w_ih.t() + b_ih + h @ w_hh.t() + b_hh


exercise.wrong("RNN", "The last state is (B, H): torch gives (layers, B, H), here (1, B, H).")(rnn(bare_state=True))
exercise.wrong("RNN", "The first state that was given is not used.")(rnn(forgets_start=True))
exercise.wrong(
    "RNN",
    "Each step is written into the tensor of the first state: whoever gave it finds it changed, and outputs that are not "
    "copies all become the last.",
)(rnn(in_place=True))
exercise.wrong("RNN", "With batch_first the batch was read as the time: where B == T, even the shapes are right.")(
    rnn(always_time_first=True)
)
exercise.wrong("RNN", "batch_first is about the input and the output: the last state is (1, B, H) in both orders.")(
    rnn(state_batch_first=True)
)
exercise.wrong("RNN", "torch.zeros is on the CPU unless you say so: x.new_zeros, or device=x.device, for the first state.")(
    rnn(cpu=True)
)
exercise.also_right("RNN")(rnn())


@exercise.also_right("rnn_cell")
def one_product(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """One product of the joined input and state."""
    out = torch.cat([x, h], -1) @ torch.cat([w_ih, w_hh], 1).t()
    out += b_ih
    out += b_hh
    return out.tanh_()


@exercise.also_right("rnn_cell")
def by_einsum(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    z = torch.einsum("bd,hd->bh", x, w_ih) + torch.einsum("bi,ji->bj", h, w_hh) + (b_ih + b_hh)
    return 2 * torch.sigmoid(2 * z) - 1
