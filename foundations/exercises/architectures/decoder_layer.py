"""Exercise decoder_layer: torch.nn.TransformerDecoderLayer, its masks, and the shift of teacher forcing."""

import math
import random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from foundations.comparing import Failure, call, check_device, check_equal, difference
from foundations.exercise import Exercise
from foundations.modules import check_gradients_of, load_same

exercise = Exercise(
    title="Decoder layer: attend to what was written so far, then to the source",
    level="core",
    minutes=30,
    link="projects.seq2seq.transformer:DecoderLayer",
    why="it computes all target positions at once in training, and one position of every hypothesis in the search",
    hints=(
        "A position reads its token and predicts the next one: it may see itself and what is before, nothing after.",
        "ones(T, T).triu(1) is True above the diagonal. Queries come from the target; the second attention has keys and "
        "values from the memory. Inputs are target[:, :-1], labels target[:, 1:].",
        "self.self_attn(y, y, y, attn_mask=causal_mask(T)), then self.multihead_attn(y, memory, memory, "
        "key_padding_mask=memory_padding), each with norm, dropout and residual.",
    ),
    source="torch.nn:TransformerDecoderLayer.forward",
    look_at="Compare where the three norms stand in the two branches. The memory gets no norm here: who normalizes it?",
    barred=(
        *("torch.nn.TransformerDecoderLayer", "torch.nn.TransformerDecoder", "torch.nn.Transformer"),
        "torch.nn.modules.transformer._generate_square_subsequent_mask",
    ),
    uses=("batch_layer_norm", "dropout", "linear", "multihead_attention"),
)


@exercise.property("causal_mask")
def mask(answer: ModuleType, rng: random.Random) -> None:
    for length in (2, 1, 3, 5, 0):
        rows = [[j > i for j in range(length)] for i in range(length)]
        check_equal(answer.causal_mask, length, expected=torch.tensor(rows, dtype=torch.bool).view(length, length))


@exercise.property("additive_mask")
def additive(answer: ModuleType, rng: random.Random) -> None:
    for shape in [(2,), (2, 2), (3, 1, 2), (0, 3)]:
        hidden = torch.arange(math.prod(shape)).view(shape) % 3 == 1
        rows = [-math.inf if value else 0.0 for value in hidden.flatten().tolist()]
        check_equal(answer.additive_mask, hidden, expected=torch.tensor(rows).view(shape))
    check_device(answer.additive_mask, torch.tensor([True, False]))


@exercise.property("teacher_forcing")
def shift(answer: ModuleType, rng: random.Random) -> None:
    for target in ([[2, 7, 8, 3]], [[2, 7, 3, 0], [2, 5, 6, 3]], [[2, 3]], [[2], [2]]):
        inputs, labels = [row[:-1] for row in target], [row[1:] for row in target]
        expected = tuple(torch.tensor(rows, dtype=torch.int64) for rows in (inputs, labels))
        check_equal(answer.teacher_forcing, torch.tensor(target), expected=expected)


class Reference(nn.Module):
    """torch's layer with the causal mask."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, memory: Tensor, memory_padding: Tensor | None = None) -> Tensor:
        if not isinstance(self.layer, nn.TransformerDecoderLayer):
            return self.layer(x, memory, memory_padding)
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return self.layer(x, memory, tgt_mask=future, memory_key_padding_mask=memory_padding)


def pair(
    answer: ModuleType, dim: int, heads: int, hidden: int, first: bool, dropout: float = 0.0
) -> tuple[nn.Module, nn.Module]:
    """Both layers, with random weights everywhere; the random numbers that follow do not depend on the answer."""
    theirs = nn.TransformerDecoderLayer(dim, heads, hidden, 0.0, batch_first=True, norm_first=first)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    with torch.random.fork_rng(devices=[]):
        ours = answer.DecoderLayer(dim, heads, hidden, dropout, norm_first=first)
    return load_same(ours, theirs)


def compare(answer: ModuleType, sizes: tuple[int, ...], first: bool, padding: Tensor | None = None) -> None:
    """Compares with torch's layer; `sizes` are batch, target, source, dimension, heads and hidden features."""
    b, t, s, dim, heads, hidden = sizes
    ours, theirs = pair(answer, dim, heads, hidden, first)
    inputs = [torch.randn(b, t, dim), torch.randn(b, s, dim), *([padding] if padding is not None else [])]
    expected = Reference(theirs)(*inputs).detach()
    check_equal(ours, *inputs, expected=expected, rtol=1e-3, atol=1e-4)


@exercise.property("no position sees a later one")
def causal(answer: ModuleType, rng: random.Random) -> None:
    for first in (True, False):
        layer, _ = pair(answer, 4, 2, 3, first)
        x, memory = torch.randn(1, 3, 4), torch.randn(1, 2, 4)
        later = x.clone()
        later[:, 2:] += torch.randn(1, 1, 4)
        before, after = call(layer, x, memory)[:, :2], call(layer, later, memory)[:, :2]
        reason = difference(after, before, 1e-4, 1e-5)
        if reason:
            inputs = {"x": x, "x with another position 2": later, "memory": memory}
            raise Failure(f"position 2 was changed, and the result before it {reason}", inputs, before, after)


@exercise.property("norm first")
def norm_first(answer: ModuleType, rng: random.Random) -> None:
    for sizes in [(1, 1, 1, 2, 1, 1), (1, 2, 3, 4, 2, 2), (3, 3, 3, 4, 2, 3)]:
        compare(answer, sizes, True)


@exercise.property("norm last")
def norm_last(answer: ModuleType, rng: random.Random) -> None:
    for sizes in [(1, 1, 1, 4, 1, 1), (2, 3, 2, 4, 2, 3)]:
        compare(answer, sizes, False)
    theirs = nn.TransformerDecoderLayer(4, 2, 3, 0.0, batch_first=True)
    ours, theirs = load_same(answer.DecoderLayer(4, 2, 3), theirs)
    x, memory = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    check_equal(ours, x, memory, expected=Reference(theirs)(x, memory).detach(), rtol=1e-3, atol=1e-4)


@exercise.property("the source's padding is not attended to")
def padding(answer: ModuleType, rng: random.Random) -> None:
    for first in (True, False):
        compare(answer, (1, 2, 2, 4, 2, 1), first, torch.tensor([[False, True]]))
        compare(answer, (2, 3, 3, 4, 2, 3), first, torch.tensor([[False, True, True], [False, False, True]]))


@exercise.property("gradients and dropout")
def gradients(answer: ModuleType, rng: random.Random) -> None:
    for first in (True, False):
        ours, theirs = pair(answer, 4, 2, 3, first)
        check_gradients_of(Reference(ours), Reference(theirs), torch.randn(2, 3, 4), torch.randn(2, 2, 4))
    for first in (True, False):
        ours, theirs = pair(answer, 4, 2, 3, first, dropout=1.0)
        x, memory = torch.randn(1, 2, 4), torch.randn(1, 3, 4)
        expected = x if first else theirs.norm3(theirs.norm2(theirs.norm1(x))).detach()
        check_equal(ours, x, memory, expected=expected, rtol=1e-3, atol=1e-4)
    layer = answer.DecoderLayer(4, 2, 3, norm_first=True).to("meta")
    check_device(lambda x, memory: layer(x, memory), x, memory)


def decoder_layer(fault: str) -> type:
    """The layer with one of the known faults."""

    class DecoderLayer(nn.Module):
        def __init__(self, dim: int, heads: int, hidden: int, dropout: float = 0.0, norm_first: bool = False) -> None:
            super().__init__()
            self.norm_first = norm_first
            self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
            self.multihead_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
            self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
            self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
            self.drop = nn.Dropout(0.0 if fault == "no_dropout" else dropout)

        def sublayer(self, number: int, y: Tensor, memory: Tensor, padding: Tensor | None) -> Tensor:
            if number == 0:
                t = y.shape[1]
                future = torch.ones(t, t, dtype=torch.bool, device=y.device).triu({"one_off": 2}.get(fault, 1))
                future = None if fault == "sees_all" else future
                return self.self_attn(y, y, y, attn_mask=future, need_weights=False)[0]
            if number == 1:
                keys = y if fault == "keys_of_target" else memory
                hidden = None if fault in ("padding_seen", "keys_of_target") else padding
                hidden = ~padding if fault == "padding_alone" and padding is not None else hidden
                return self.multihead_attn(y, keys, keys, key_padding_mask=hidden, need_weights=False)[0]
            return self.linear2(self.linear1(y).relu())

        def forward(self, x: Tensor, memory: Tensor, memory_padding: Tensor | None = None) -> Tensor:
            norms = (self.norm1, self.norm2, self.norm3)
            order = (1, 0, 2) if fault == "source_first" else (0, 1, 2)
            for number in order:
                norm = norms[number]
                y = norm(x) if self.norm_first else x
                if fault == "memory_normed" and number == 1 and self.norm_first:
                    y = self.sublayer(1, y, norm(memory), memory_padding)
                else:
                    y = self.sublayer(number, y, memory, memory_padding)
                if fault == "residual_of_norm" and self.norm_first:
                    x = norm(x)
                if fault == "sum_unnormed" and not self.norm_first:
                    x = x + norm(self.drop(y))
                    continue
                x = x + self.drop(y)
                x = x if self.norm_first else norm(x)
            return x

    return DecoderLayer


@exercise.wrong(
    "causal_mask",
    "The mask is one off: each position sees the one after it, the very token that it is to predict. Training looks "
    "splendid, and nothing is learned.",
    seen="https://github.com/jadore801120/attention-is-all-you-need-pytorch/issues/19",
)
def sees_the_next(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).triu(2)


@exercise.wrong(
    "causal_mask", "The diagonal is hidden, too: a position must see itself, and the first one would see nothing."
)
def not_itself(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).triu(0)


@exercise.wrong("causal_mask", "True where a position may attend: here True hides, as in nn.MultiheadAttention's attn_mask.")
def true_attends(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


@exercise.wrong("causal_mask", "The past is hidden instead of the future: rows are queries, columns keys; triu, not tril.")
def hides_the_past(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril(-1)


@exercise.wrong("additive_mask", "mask * -inf is NaN where the mask is 0: 0 times infinity. Fill instead of multiplying.")
def multiplied(mask: Tensor) -> Tensor:
    return mask.float() * -math.inf


@exercise.wrong("additive_mask", "-inf stands where the mask is False: True is to be hidden.")
def turned_round(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -math.inf)


@exercise.wrong(
    "teacher_forcing",
    "The target is not shifted: each position reads the token that it is to predict, and copying it is a perfect loss.",
)
def not_shifted(target: Tensor) -> tuple[Tensor, Tensor]:
    return target[:, 1:], target[:, 1:]


NOT_SHIFTED = exercise.wrong_answers[-1].message


@exercise.wrong("teacher_forcing", NOT_SHIFTED)
def whole_twice(target: Tensor) -> tuple[Tensor, Tensor]:
    return target, target


@exercise.wrong("teacher_forcing", NOT_SHIFTED)
def beginning_twice(target: Tensor) -> tuple[Tensor, Tensor]:
    return target[:, :-1], target[:, :-1]


@exercise.wrong("teacher_forcing", "Inputs and labels are exchanged: this predicts the token before.")
def exchanged(target: Tensor) -> tuple[Tensor, Tensor]:
    return target[:, 1:], target[:, :-1]


exercise.wrong("DecoderLayer", "The self-attention has no causal mask: each position sees those after it.")(
    decoder_layer("sees_all")
)
exercise.wrong("DecoderLayer", "Keys and values of the second attention come from the target: the source is never read.")(
    decoder_layer("keys_of_target")
)
exercise.wrong("DecoderLayer", "The source comes before the self-attention: it is the second sublayer.")(
    decoder_layer("source_first")
)
exercise.wrong(
    "DecoderLayer",
    "norm2 is applied to the memory, too: it is the norm of the target; the encoder has normalized its output.",
)(decoder_layer("memory_normed"))
exercise.wrong("DecoderLayer", "The source's padding is attended to: pass memory_padding to the second attention.")(
    decoder_layer("padding_seen")
)
exercise.wrong("DecoderLayer", "memory_padding is inverted: True is padding and ignored, as in nn.MultiheadAttention.")(
    decoder_layer("padding_alone")
)
exercise.wrong(
    "DecoderLayer",
    "With norm_first the residual is the sublayer's normed input: x + sublayer(norm(x)) keeps x itself. Give norm(x) "
    "another name.",
)(decoder_layer("residual_of_norm"))
exercise.wrong(
    "DecoderLayer", "With the norm last, the sublayer's result alone is normed: it is norm(x + sublayer(x)), of the sum."
)(decoder_layer("sum_unnormed"))
exercise.wrong("DecoderLayer", "The argument dropout has no effect.")(decoder_layer("no_dropout"))
exercise.also_right("DecoderLayer")(decoder_layer(""))


@exercise.also_right("causal_mask")
def by_comparison(length: int) -> Tensor:
    positions = torch.arange(length)
    return positions[None] > positions[:, None]


@exercise.also_right("additive_mask")
def by_where(mask: Tensor) -> Tensor:
    return torch.where(mask, -torch.inf, 0.0)


@exercise.also_right("teacher_forcing")
def by_split(target: Tensor) -> Any:
    columns = target.unbind(1)
    empty = target[:, :0]
    return [torch.stack(part, 1) if part else empty for part in (columns[:-1], columns[1:])]


@exercise.also_right("DecoderLayer")
class PositionByPosition(decoder_layer("")):  # type: ignore[misc]
    """Each position from the prefix that ends there, as if nothing of it had been computed."""

    def forward(self, x: Tensor, memory: Tensor, memory_padding: Tensor | None = None) -> Tensor:
        lengths = range(1, x.shape[1] + 1)
        return torch.cat(
            [super(PositionByPosition, self).forward(x[:, :n], memory, memory_padding)[:, -1:] for n in lengths], 1
        )
