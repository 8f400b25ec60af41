"""Comparison of a learner's recurrent cells and layers with torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from foundations.comparing import check_equal, check_gradients, check_that
from foundations.modules import check_gradients_of, check_state_dict, load_same

# names of the operators behind them, and the classes whose instances cannot be made
BARRED = (
    *("rnn_tanh_cell", "rnn_relu_cell", "lstm_cell", "gru_cell", "rnn_tanh", "rnn_relu", "lstm", "gru"),
    *("torch.nn.modules.rnn.RNNBase", "torch.nn.modules.rnn.RNNCellBase"),
)
SIZES = [(1, 1, 1), (2, 3, 6), (3, 3, 3)]  # batch, input, hidden


def cell_weights(module: nn.Module) -> list[Tensor]:
    """The four weights of a cell of torch, without their gradients."""
    return [getattr(module, name).detach() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def check_cell(cell: Callable[..., Any], theirs: type, states: int = 1) -> None:
    """Checks the values of a cell `(x, *state, w_ih, w_hh, b_ih, b_hh)`.

    Args:
        cell: The learner's.
        theirs: Class of torch's cell.
        states: Tensors of a state: two for an LSTM.
    """
    for batch, inputs, hidden in SIZES:
        module = theirs(inputs, hidden)
        x, state = torch.randn(batch, inputs), [torch.randn(batch, hidden) for _ in range(states)]
        expected = module(x, state[0] if states == 1 else tuple(state))
        expected = expected.detach() if states == 1 else tuple(value.detach() for value in expected)
        check_equal(cell, x, *state, *cell_weights(module), expected=expected)


def check_cell_gradients(cell: Callable[..., Any], theirs: type, operator: Callable[..., Any], states: int = 1) -> None:
    """Checks large and non-contiguous inputs and all gradients of a cell.

    Args:
        cell: The learner's.
        theirs: Class of torch's cell.
        operator: torch's cell as a function of (x, state, *weights).
        states: Tensors of a state: two for an LSTM.
    """
    weights = cell_weights(theirs(3, 2))
    x, state = torch.randn(3, 4).t(), [torch.randn(2, 4).t() for _ in range(states)]
    expected = operator(1e4 * x, state[0] if states == 1 else state, *weights)
    check_equal(cell, 1e4 * x, *state, *weights, expected=expected)

    def joined(*args: Tensor) -> Tensor:
        result = cell(*args)
        return result if isinstance(result, Tensor) else torch.stack(tuple(result))

    def reference(*args: Tensor) -> Tensor:
        result = operator(args[0], args[1] if states == 1 else list(args[1 : 1 + states]), *args[1 + states :])
        return result if isinstance(result, Tensor) else torch.stack(tuple(result))

    check_gradients(joined, reference, x, *state, *weights)


def check_layer(ours: type, theirs: type, batch_first: bool) -> None:
    """Checks a layer's outputs and last states, with and without a first state, in one order of the dimensions.

    Args:
        ours: The learner's class.
        theirs: torch's.
        batch_first: Whether inputs are (batch, time, inputs).
    """
    order = {"batch_first": True} if batch_first else {}  # time first is the default
    check_state_dict(ours(2, 3, **order), theirs(2, 3, **order))
    for batch, time, inputs, hidden in [(1, 1, 1, 1), (2, 3, 1, 2), (2, 2, 2, 2)]:
        mine, other = load_same(ours(inputs, hidden, **order), theirs(inputs, hidden, **order))
        x = torch.randn(batch, time, inputs) if batch_first else torch.randn(time, batch, inputs)
        with torch.no_grad():
            check_equal(mine, x, expected=other(x))
            first: Any = torch.randn(1, batch, hidden)
            if theirs is nn.LSTM:
                pair = first, torch.randn(1, batch, hidden)
                kept = [value.clone() for value in pair]
                check_equal(mine, x, pair, expected=other(x, pair))
                same = all(torch.equal(a, b) for a, b in zip(pair, kept, strict=True))
                check_that(same, "changes the first state that it was given", kept, pair, x=x)
            else:
                check_equal(mine, x, first, expected=other(x, first))


def check_layer_gradients(ours: type, theirs: type) -> None:
    """Checks a layer's gradients, its initialization, and that it makes its first state on the device of its input."""
    mine, other = load_same(ours(3, 2, batch_first=True), theirs(3, 2, batch_first=True))
    check_gradients_of(mine, other, torch.randn(4, 3, 2).transpose(1, 2))
    layer = ours(3, 100)
    for name, parameter in layer.named_parameters():
        low, high = parameter.min().item(), parameter.max().item()
        fits = -0.1001 <= low < -0.05 and 0.05 < high <= 0.1001
        check_that(fits, f"{name} is not uniform in [-0.1, 0.1]", (-0.1, 0.1), (low, high), hidden_size=100)
    on_meta = layer.to("meta")
    try:
        output = on_meta(torch.zeros(2, 2, 3, device="meta"))[0]
    except Exception as error:
        check_that(
            "expected device" not in str(error),
            "makes its first state on the CPU, whatever device its input is on",
            got=error,
        )
        return  # it reads values: nothing can be said
    check_that(output.device.type == "meta", "the output is not on the device of the input", "meta", output.device.type)
