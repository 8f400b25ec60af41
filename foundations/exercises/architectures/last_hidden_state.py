"""Exercise last_hidden_state: which step each direction reads last."""

import random
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from foundations.comparing import check_device, check_equal, check_gradients
from foundations.exercise import Exercise

exercise = Exercise(
    title="Last hidden state: what a bidirectional network knows after the whole sequence",
    level="core",
    minutes=15,
    link="projects.seq2seq.recurrent:RecurrentModel.encode",
    why="its encoder is bidirectional, too; it takes the mean over all real steps, where a classifier takes the last states",
    hints=(
        "The forward direction is done at the last real step, the backward one, which reads from the end, at step 0.",
        "Forward half: output[b, lengths[b] - 1, :H]. Backward half: output[b, 0, H:]. In h_n: the last two entries.",
        "output[torch.arange(B, device=output.device), lengths - 1, :H]; torch.cat([h_n[-2], h_n[-1]], 1).",
    ),
    source="torch._decomp.decompositions:_rnn_helper",
    look_at="The order in which the last states are appended, and the line that joins both directions for the next layer.",
)


def network_run(
    lengths: list[int], time: int, hidden: int, layers: int = 1, kind: type = nn.GRU
) -> tuple[Tensor, Tensor, Tensor]:
    """Padded output, lengths and last states of a packed run."""
    n = torch.tensor(lengths)
    network = kind(2, hidden, layers, bidirectional=True, batch_first=True)
    packed = pack_padded_sequence(torch.randn(len(n), time, 2), n, batch_first=True, enforce_sorted=False)
    with torch.no_grad():
        output, state = network(packed)
    padded, _ = pad_packed_sequence(output, batch_first=True, total_length=time)
    return padded, n, state[0] if isinstance(state, tuple) else state


CASES = [([1], 1, 1), ([2], 3, 1), ([1, 3], 3, 1), ([3, 2, 4], 4, 2), ([2, 2], 2, 2), ([1, 4, 2, 3], 4, 3)]


@exercise.property("from the output")
def from_output(answer: ModuleType, rng: random.Random) -> None:
    for lengths, time, hidden in CASES:
        output, n, h_n = network_run(lengths, time, hidden)
        check_equal(answer.last_hidden_state, output, n, expected=torch.cat([h_n[0], h_n[1]], 1))


@exercise.property("what stands in the padding does not matter")
def padding(answer: ModuleType, rng: random.Random) -> None:
    output, n, h_n = network_run([2, 1, 3], 4, 1, kind=nn.LSTM)
    for value in (7.0, float("nan")):
        output = output.masked_fill((torch.arange(4) >= n[:, None])[..., None], value)
        check_equal(answer.last_hidden_state, output, n, expected=torch.cat([h_n[0], h_n[1]], 1))


@exercise.property("from the last states")
def from_states(answer: ModuleType, rng: random.Random) -> None:
    for layers, batch, hidden in [(1, 1, 1), (1, 2, 1), (1, 3, 2), (2, 2, 2), (3, 1, 3), (2, 4, 4)]:
        output, n, h_n = network_run(list(range(1, batch + 1)), batch, hidden, layers)
        rows = [torch.cat([output[b, n[b] - 1, :hidden], output[b, 0, hidden:]]) for b in range(batch)]
        check_equal(answer.join_directions, h_n, expected=torch.stack(rows))


def pick(output: Tensor, lengths: Tensor) -> Tensor:
    """Sequence by sequence."""
    h = output.shape[2] // 2
    rows = [torch.cat([row[n - 1, :h], row[0, h:]]) for row, n in zip(output, lengths.tolist(), strict=True)]
    return torch.stack(rows)


@exercise.property("gradients, device")
def gradients(answer: ModuleType, rng: random.Random) -> None:
    output = torch.randn(4, 3, 4).transpose(0, 1)
    check_gradients(answer.last_hidden_state, pick, output, torch.tensor([2, 4, 1]))
    check_gradients(answer.join_directions, lambda h_n: torch.cat([h_n[-2], h_n[-1]], 1), torch.randn(2, 2, 3))
    check_device(answer.last_hidden_state, output, torch.tensor([2, 4, 1]))


@exercise.wrong("last_hidden_state", "output[:, -1] is the last step of the longest sequence; for all others it is padding.")
def last_column(output: Tensor, lengths: Tensor) -> Tensor:
    return output[:, -1]


@exercise.wrong(
    "last_hidden_state",
    "At the last real step the backward half has read one step alone: it begins there, and is done at step 0.",
)
def both_at_the_end(output: Tensor, lengths: Tensor) -> Tensor:
    return output[torch.arange(len(output), device=output.device), lengths - 1]


@exercise.wrong("last_hidden_state", "Counted from 0, the last of n steps is n - 1; step n is padding, or does not exist.")
def one_too_far(output: Tensor, lengths: Tensor) -> Tensor:
    h = output.shape[-1] // 2
    return torch.cat([output[torch.arange(len(output)), lengths, :h], output[:, 0, h:]], 1)


@exercise.wrong("last_hidden_state", "output[:, lengths - 1] takes every length of every sequence: index the batch, too.")
def every_length(output: Tensor, lengths: Tensor) -> Tensor:
    h = output.shape[-1] // 2
    return torch.cat([output[:, lengths - 1, :h], output[:, :1, h:].expand(-1, len(lengths), -1)], -1)


@exercise.wrong("last_hidden_state", "torch.arange is on the CPU unless you say so: give it device=output.device.")
def rows_on_the_cpu(output: Tensor, lengths: Tensor) -> Tensor:
    h = output.shape[-1] // 2
    steps = torch.arange(output.shape[1]) == (lengths - 1)[:, None]
    return torch.cat([torch.where(steps[..., None], output[..., :h], 0.0).sum(1), output[:, 0, h:]], 1)


@exercise.wrong("join_directions", "h_n[-1] is the backward direction alone: the forward one stands before it.")
def backward_half(h_n: Tensor) -> Tensor:
    return h_n[-1]


@exercise.wrong("join_directions", "These are the directions of the first layer: the last layer comes last in h_n.")
def first_layer(h_n: Tensor) -> Tensor:
    return torch.cat([h_n[0], h_n[1]], -1)


@exercise.wrong("join_directions", "view gives the right shape and mixes samples: bring the batch to the front first.")
def viewed(h_n: Tensor) -> Tensor:
    return h_n[-2:].reshape(h_n.shape[1], -1)


@exercise.also_right("last_hidden_state")
def by_gather(output: Tensor, lengths: Tensor) -> Tensor:
    forward, backward = output.chunk(2, dim=-1)
    index = (lengths - 1).view(-1, 1, 1).expand(-1, 1, forward.size(-1))
    return torch.hstack([forward.gather(1, index).squeeze(1), backward.select(1, 0)])


@exercise.also_right("join_directions")
def by_transposing(h_n: Tensor) -> Tensor:
    layers = h_n.unflatten(0, (-1, 2))
    return torch.einsum("dbh->bdh", layers[-1]).reshape(h_n.shape[1], -1)


@exercise.also_right("last_hidden_state")
def one_by_one(output: Tensor, lengths: Tensor) -> Tensor:
    out = output[:, 0].clone()
    for b, n in enumerate(lengths):
        out[b, : out.shape[1] // 2] = output[b, n - 1, : out.shape[1] // 2]
    return out
