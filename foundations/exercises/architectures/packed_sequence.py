"""Exercise packed_sequence: data, batch_sizes, and a cell that runs over them."""

import functools
import random
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from foundations.comparing import call, check_device, check_equal, check_gradients, check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="Packed sequences: a batch of unequal lengths without its padding",
    level="core",
    minutes=30,
    link="projects.seq2seq.recurrent:RecurrentModel.encode",
    why="the encoder reads packed sources, so that its backward direction begins at each last word",
    hints=(
        "Sort by length, the longest first: the sequences that have ended are then always the last ones of the batch.",
        "batch_sizes[t] = number of lengths > t; data = x[order] of step 0, of step 1, each cut to batch_sizes[t] rows. "
        "order.argsort() leads back.",
        "for step in data.split(batch_sizes.tolist()): keep h[len(step):] as ended, h = cell(step, h[:len(step)]).",
    ),
    source="torch._decomp.decompositions:one_layer_rnn_data",
    look_at="How torch runs a cell over a packed batch. What does reverse=True change about the first batch size?",
    barred=(
        *("_pack_padded_sequence", "_pad_packed_sequence", "rnn_tanh", "rnn_relu", "lstm", "gru"),
        *("torch.nn.utils.rnn.pack_padded_sequence", "torch.nn.utils.rnn.pad_packed_sequence"),
        *("torch.nn.utils.rnn.pack_sequence", "torch.nn.utils.rnn.unpack_sequence"),
    ),
)

Packed = tuple[Tensor, Tensor, Tensor]
Cell = Callable[[Tensor, Tensor], Tensor]
# lengths and the padded length: the third is a cycle, whose order is not its own inverse
CASES = [([2], 2), ([1, 2], 2), ([2, 1, 3], 3), ([2, 3, 1], 4), ([4, 4, 4, 4], 4), ([2, 4, 1, 4, 2], 5)]


def batch(lengths: list[int], time: int, dim: int = 2) -> tuple[Tensor, Tensor]:
    """Sequences that begin with 10 b + t, with NaN as padding."""
    b, t = len(lengths), torch.arange(time)
    x = 10.0 * torch.arange(b)[:, None, None] + t[:, None] + torch.arange(dim) / 10
    return x.masked_fill((t >= torch.tensor(lengths)[:, None])[..., None], float("nan")), torch.tensor(lengths)


def reference(x: Tensor, lengths: Tensor) -> Packed:
    """torch's, with an order in which equal lengths stay as they are."""
    order = lengths.argsort(descending=True, stable=True)
    packed = pack_padded_sequence(x[order], lengths[order], batch_first=True)
    return packed.data, packed.batch_sizes, order


@exercise.property("pack")
def packs(answer: ModuleType, rng: random.Random) -> None:
    for lengths, time in CASES:
        x, n = batch(lengths, time)
        data, batch_sizes, order = reference(x, n)
        got = call(answer.pack, x, n)
        fits = isinstance(got, tuple | list) and len(got) == 3 and isinstance(got[2], Tensor)
        check_that(fits, "data, batch_sizes and order are expected", got=got, x=x, lengths=n)
        check_that(
            difference(got[2].sort().values, torch.arange(len(n)), 0, 0) == "", "order is not a permutation", order, got[2]
        )
        if torch.equal(n[got[2]], n[order]):  # another order of equal lengths is right, too
            data = pack_padded_sequence(x[got[2]], n[order], batch_first=True).data
        reason = difference(tuple(got[:2]), (data, batch_sizes), 0, 0) or (
            "" if torch.equal(n[got[2]], n[order]) else "[2]: not the longest first"
        )
        check_that(not reason, reason, (data, batch_sizes, order), got, x=x, lengths=n)


@exercise.property("unpack")
def unpacks(answer: ModuleType, rng: random.Random) -> None:
    for lengths, time in CASES:
        x, n = batch(lengths, time)
        packed = reference(x, n)
        expected = x[:, : max(lengths)].nan_to_num(0.0)
        check_equal(answer.unpack, *packed, expected=(expected, n))


def elman(weights: list[Tensor], x: Tensor, h: Tensor) -> Tensor:
    """Cell of torch.nn.RNN."""
    w_ih, w_hh, b_ih, b_hh = weights
    return torch.tanh(x @ w_ih.t() + b_ih + h @ w_hh.t() + b_hh)


def adding(x: Tensor, h: Tensor) -> Tensor:
    """Cell that counts its steps and adds up what it has read."""
    return h + x + 1


@exercise.property("any number of features, tokens without any")
def features(answer: ModuleType, rng: random.Random) -> None:
    for more in (False, True):
        x, n = torch.arange(36).view(2, 3, 2, 3) if more else torch.arange(6).view(2, 3), torch.tensor([3, 2])
        data, batch_sizes, order = reference(x, n)
        check_equal(answer.pack, x, n, expected=(data, batch_sizes, order))
        padded = x.clone()
        padded[1, 2] = 0
        check_equal(answer.unpack, data, batch_sizes, order, expected=(padded, n))
    check_device(answer.pack, x.float(), n)
    check_device(answer.unpack, data.float(), batch_sizes, order)


@exercise.property("a cell that adds up")
def sums(answer: ModuleType, rng: random.Random) -> None:
    for lengths, time in CASES:
        x, n = batch(lengths, time, 1)
        packed, first = reference(x, n), 1000.0 * torch.arange(len(n))[:, None]
        total = first[:, None] + torch.where(x.isnan(), 0.0, x + 1).cumsum(1)
        expected = reference(total, n)[0], total[:, -1]
        check_equal(answer.run_packed, adding, *packed, first, expected=expected)


@exercise.property("equal to torch.nn.RNN, with gradients, in any memory layout")
def network(answer: ModuleType, rng: random.Random) -> None:
    x, n = torch.randn(3, 4, 4).transpose(0, 1), torch.tensor([2, 1, 3, 3])
    rnn, first = nn.RNN(4, 2, batch_first=True), torch.randn(4, 2)
    packed = reference(x, n)
    with torch.no_grad():
        states, last = rnn(pack_padded_sequence(x[packed[2]], n[packed[2]], batch_first=True), first[packed[2]][None])
        padded, _ = pad_packed_sequence(states, batch_first=True)
    weights = [parameter.detach() for parameter in rnn.parameters()]
    cell = functools.partial(elman, weights)
    expected = states.data, last[0][packed[2].argsort()]
    check_equal(answer.run_packed, cell, *packed, first, expected=expected)
    check_equal(answer.unpack, states.data, *packed[1:], expected=(padded[packed[2].argsort()], n))

    def ours(x: Tensor, h: Tensor) -> Tensor:
        out = answer.run_packed(lambda a, b: elman([w.double() for w in weights], a, b), *answer.pack(x, n), h)
        return torch.cat([answer.unpack(out[0], *answer.pack(x, n)[1:])[0].flatten(1), out[1]], 1)

    def theirs(x: Tensor, h: Tensor) -> Tensor:
        states = [h]
        for t in range(3):
            new = elman([w.double() for w in weights], x[:, t], states[-1])
            states.append(torch.where((t < n)[:, None], new, states[-1]))
        kept = [torch.where((t < n)[:, None], state, 0.0) for t, state in enumerate(states[1:])]
        return torch.cat([torch.stack(kept, 1).flatten(1), states[-1]], 1)

    check_gradients(ours, theirs, x, first)


def by_steps(x: Tensor, lengths: Tensor) -> Packed:
    """Step by step."""
    order = torch.tensor(sorted(range(len(x)), key=lambda b: -int(lengths[b])))
    rows, sizes = [], []
    for t in range(int(lengths.max())):
        here = [x[b, t] for b in order.tolist() if t < lengths[b]]
        rows += here
        sizes.append(len(here))
    return torch.stack(rows), torch.tensor(sizes), order


@exercise.wrong("pack", "batch_sizes are the lengths: they count, for each step, how many sequences have an entry there.")
def lengths_for_sizes(x: Tensor, lengths: Tensor) -> Packed:
    data, _, order = by_steps(x, lengths)
    return data, lengths[order], order


@exercise.wrong(
    "pack", "data goes sequence by sequence: it goes step by step, so that each step's entries stand beside each other."
)
def sequence_by_sequence(x: Tensor, lengths: Tensor) -> Packed:
    _, sizes, order = by_steps(x, lengths)
    return torch.cat([x[b, : lengths[b]] for b in order]), sizes, order


@exercise.wrong("pack", "It is not sorted: the longest comes first, so that those that have ended are the last rows.")
def unsorted(x: Tensor, lengths: Tensor) -> Packed:
    on = torch.arange(int(lengths.max()))[:, None] < lengths
    return x.transpose(0, 1)[: len(on)][on], on.sum(1), torch.arange(len(x))


@exercise.wrong("pack", "It goes on to T, the padded length: batch_sizes ends with the longest sequence, and has no zeros.")
def padded_length(x: Tensor, lengths: Tensor) -> Packed:
    data, _, order = by_steps(x, lengths)
    return data, (torch.arange(x.shape[1])[:, None] < lengths).sum(1), order


def padded(data: Tensor, batch_sizes: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """The sorted batch."""
    x, begin = data.new_zeros(len(order), len(batch_sizes), *data.shape[1:]), 0
    for t, size in enumerate(batch_sizes.tolist()):
        x[:size, t] = data[begin : begin + size]
        begin += size
    return x, torch.stack([(batch_sizes > i).sum() for i in range(len(order))])


@exercise.wrong(
    "unpack", "The batch is still sorted by length: put it back into the first order, or labels meet other samples."
)
def still_sorted(data: Tensor, batch_sizes: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    return padded(data, batch_sizes, order)


@exercise.wrong(
    "unpack", "Indexing with order once more is not the way back, except for swaps: its inverse is order.argsort()."
)
def sorted_twice(data: Tensor, batch_sizes: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    x, lengths = padded(data, batch_sizes, order)
    return x[order], lengths[order]


def run(fault: str, cell: Cell, data: Tensor, batch_sizes: Tensor, order: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The run, over padded steps, with one of the known faults."""
    x, lengths = padded(data, batch_sizes, order)
    h, states = h if fault == "first states unsorted" else h[order], []
    for t, size in enumerate(batch_sizes.tolist()):
        new = cell(x[:, t], h)
        states.append(new[:size])
        h = new if fault == "moves on" else torch.where((t < lengths)[:, None], new, h)
    return torch.cat(states), h if fault == "last states sorted" else h[order.argsort()]


@exercise.wrong("run_packed", "The state of a sequence that has ended keeps moving, on padding: it must stay as it is.")
def moves_on(cell: Cell, data: Tensor, batch_sizes: Tensor, order: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    return run("moves on", cell, data, batch_sizes, order, h)


@exercise.wrong("run_packed", "The last states are still sorted by length: put them back into the first order.")
def last_sorted(cell: Cell, data: Tensor, batch_sizes: Tensor, order: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    return run("last states sorted", cell, data, batch_sizes, order, h)


@exercise.wrong("run_packed", "The first states are in the batch's order, data in the sorted one: begin with h[order].")
def first_unsorted(cell: Cell, data: Tensor, batch_sizes: Tensor, order: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    return run("first states unsorted", cell, data, batch_sizes, order, h)


@exercise.also_right("pack")
def step_by_step(x: Tensor, lengths: Tensor) -> Packed:
    return by_steps(x, lengths)


@exercise.also_right("run_packed")
def by_padding(cell: Cell, data: Tensor, batch_sizes: Tensor, order: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    return run("", cell, data, batch_sizes, order, h)


@exercise.also_right("run_packed")
def in_place(cell: Cell, data: Tensor, batch_sizes: Tensor, order: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    last, begin, out = h.clone(), 0, []
    for size in batch_sizes:
        rows = order[:size]
        out.append(cell(data[begin : begin + size], last[rows]))
        last = last.index_copy(0, rows, out[-1])
        begin += int(size)
    return torch.cat(out, 0), last
