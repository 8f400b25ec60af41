"""Exercise encoder_layer: torch.nn.TransformerEncoderLayer, and a block that attended along the batch."""

import random
from types import ModuleType

import torch
from torch import Tensor, nn

from foundations.comparing import Failure, call, check_equal, check_that, difference
from foundations.exercise import Exercise
from foundations.modules import check_gradients_of, load_same

exercise = Exercise(
    title="Encoder layer: attention, feed-forward, norms and residuals; and a block that attended to the wrong dimension",
    level="core",
    minutes=30,
    link="projects.seq2seq.transformer:EncoderLayer",
    why="the source sentence goes through a stack of them",
    hints=(
        "Two sublayers, each with its norm, its dropout and a residual that goes past all three.",
        "Norm first: x + drop(f(norm(x))); else norm(x + drop(f(x))). The feed-forward network acts on each position alone.",
        "x = x + drop(attn(norm1(x))); x = x + drop(ff(norm2(x))), with self.self_attn(y, y, y, key_padding_mask=padding).",
    ),
    source="torch.nn:TransformerEncoderLayer.forward",
    look_at="Most of it asks whether a fast path may be taken, and says why not. The last ten lines are yours.",
    barred=(
        *("torch.nn.TransformerEncoderLayer", "torch.nn.TransformerEncoder", "torch.nn.Transformer"),
        "_transformer_encoder_layer_fwd",
    ),
    uses=("batch_layer_norm", "dropout", "linear", "multihead_attention"),
)


def pair(
    answer: ModuleType, dim: int, heads: int, hidden: int, first: bool, dropout: float = 0.0
) -> tuple[nn.Module, nn.Module]:
    """Both layers, with random weights everywhere; the random numbers that follow do not depend on the answer."""
    theirs = nn.TransformerEncoderLayer(dim, heads, hidden, 0.0, batch_first=True, norm_first=first)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    with torch.random.fork_rng(devices=[]):
        ours = answer.EncoderLayer(dim, heads, hidden, dropout, norm_first=first)
    return load_same(ours, theirs)


@exercise.property("norm first")
def norm_first(answer: ModuleType, rng: random.Random) -> None:
    for b, t, dim, heads, hidden in [(1, 1, 2, 1, 1), (1, 2, 4, 2, 3), (3, 3, 4, 2, 2)]:
        ours, theirs = pair(answer, dim, heads, hidden, True)
        x = torch.randn(b, t, dim)
        check_equal(ours, x, expected=theirs(x).detach(), rtol=1e-3, atol=1e-4)


@exercise.property("norm last")
def norm_last(answer: ModuleType, rng: random.Random) -> None:
    for b, t, dim, heads, hidden in [(1, 1, 4, 1, 1), (2, 3, 4, 2, 2)]:
        ours, theirs = pair(answer, dim, heads, hidden, False)
        x = torch.randn(b, t, dim)
        check_equal(ours, x, expected=theirs(x).detach(), rtol=1e-3, atol=1e-4)
    x = torch.randn(1, 2, 4)
    ours, theirs = load_same(
        answer.EncoderLayer(4, 2, 3), nn.TransformerEncoderLayer(4, 2, 3, dropout=0.0, batch_first=True)
    )
    check_equal(ours, x, expected=theirs(x).detach(), rtol=1e-3, atol=1e-4)


@exercise.property("padding is not attended to")
def padding(answer: ModuleType, rng: random.Random) -> None:
    for first in (True, False):
        for mask in (torch.tensor([[False, True]]), torch.tensor([[False, True, True], [True, False, False]])):
            ours, theirs = pair(answer, 4, 2, 3, first)
            x = torch.randn(*mask.shape, 4)

            def real(x: Tensor, padding: Tensor, ours: nn.Module = ours) -> Tensor:
                return ours(x, padding)[~padding]

            expected = theirs(x, src_key_padding_mask=mask)[~mask].detach()
            check_equal(real, x, mask, expected=expected, rtol=1e-3, atol=1e-4)


@exercise.property("gradients")
def gradients(answer: ModuleType, rng: random.Random) -> None:
    for first in (True, False):
        check_gradients_of(*pair(answer, 4, 2, 3, first), torch.randn(2, 3, 4))


@exercise.property("dropout")
def dropout(answer: ModuleType, rng: random.Random) -> None:
    for first in (True, False):
        ours, theirs = pair(answer, 4, 2, 3, first, dropout=1.0)
        x = torch.randn(1, 2, 4)
        check_equal(ours, x, expected=x if first else theirs.norm2(theirs.norm1(x)).detach(), rtol=1e-3, atol=1e-4)
    layer = answer.EncoderLayer(4, 2, 3, dropout=0.5)
    same = difference(call(layer, x), call(layer, x), 1e-6, 1e-7)
    check_that(bool(same), "two calls in training give the same: nothing drops out", dropout=0.5)
    same = difference(call(layer.eval(), x), call(layer, x), 1e-6, 1e-7)
    check_that(not same, "two calls in evaluation differ", dropout=0.5)


class Block(nn.Module):
    """The mended block, of torch's parts; without `batch_first` it is the one of the course's source."""

    def __init__(self, dim: int, heads: int, hidden: int, batch_first: bool = True) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=batch_first)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x, x, x)[0])
        return self.norm2(x + self.feed_forward(x))


def block_pair(answer: ModuleType, dim: int, heads: int, hidden: int) -> tuple[nn.Module, nn.Module]:
    """Both blocks, with random weights everywhere."""
    theirs = Block(dim, heads, hidden)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    with torch.random.fork_rng(devices=[]):
        ours = answer.SimpleTransformerBlock(dim, heads, hidden)
    return load_same(ours, theirs)


@exercise.property("SimpleTransformerBlock: a sample does not see its neighbors")
def neighbors(answer: ModuleType, rng: random.Random) -> None:
    block, _ = block_pair(answer, 4, 2, 3)
    x = torch.randn(2, 2, 4)
    other = x.clone()
    other[1] += torch.randn(2, 4)
    before, after = call(block, x), call(block, other)
    check_that(before.shape == x.shape, "the shape differs", tuple(x.shape), tuple(before.shape), x=x)
    reason = difference(after[0], before[0], 1e-4, 1e-5)
    if reason:
        inputs = {"x": x, "x with another sample 1": other}
        raise Failure(f"sample 1 was changed, and the result of sample 0 {reason}", inputs, before[0], after[0])


@exercise.property("SimpleTransformerBlock: values and gradients")
def block_values(answer: ModuleType, rng: random.Random) -> None:
    for b, t, dim, heads, hidden in [(1, 2, 4, 2, 1), (2, 3, 4, 2, 3)]:
        ours, theirs = block_pair(answer, dim, heads, hidden)
        x = torch.randn(b, t, dim)
        check_equal(ours, x, expected=theirs(x).detach(), rtol=1e-3, atol=1e-4)
    check_gradients_of(ours, theirs, torch.randn(2, 3, 4))


def encoder_layer(fault: str) -> type:
    """The layer of torch's parts, with one of the known faults."""

    class EncoderLayer(nn.Module):
        def __init__(self, dim: int, heads: int, hidden: int, dropout: float = 0.0, norm_first: bool = False) -> None:
            super().__init__()
            self.norm_first = norm_first and fault != "always_last"
            self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
            self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
            self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
            self.drop = nn.Dropout(0.0 if fault == "no_dropout" else dropout)

        def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
            hidden = None if fault == "padding_seen" else padding
            second = self.norm1 if fault == "one_norm" else self.norm2

            def attend(y: Tensor) -> Tensor:
                return self.self_attn(y, y, y, key_padding_mask=hidden, need_weights=False)[0]

            def feed_forward(y: Tensor) -> Tensor:
                y = self.linear1(y)
                return self.linear2(y if fault == "no_relu" else y.relu())

            for norm, sublayer in ((self.norm1, attend), (second, feed_forward)):
                y = norm(x) if self.norm_first else x
                rest = y if fault == "residual_after_norm" else x
                if fault == "no_residual":
                    x = self.drop(sublayer(y))
                else:
                    x = self.drop(rest + sublayer(y)) if fault == "drops_all" else rest + self.drop(sublayer(y))
                x = x if self.norm_first else norm(x)
            return x

    return EncoderLayer


exercise.wrong(
    "EncoderLayer", "norm1 is used for both sublayers: norm2 has weights of its own, and they are never trained."
)(encoder_layer("one_norm"))
exercise.wrong(
    "EncoderLayer",
    "The residual is taken after the norm: with norm_first x itself goes past it, so that a way without any norm leads "
    "through all layers.",
)(encoder_layer("residual_after_norm"))
exercise.wrong("EncoderLayer", "The residual is missing: x + sublayer, not the sublayer alone.")(
    encoder_layer("no_residual")
)
exercise.wrong("EncoderLayer", "The norm is last whatever norm_first says.")(encoder_layer("always_last"))
exercise.wrong("EncoderLayer", "The feed-forward network has no ReLU between its layers: two linear layers are one.")(
    encoder_layer("no_relu")
)
exercise.wrong("EncoderLayer", "The padding is attended to: pass it on as key_padding_mask.")(encoder_layer("padding_seen"))
exercise.wrong("EncoderLayer", "The argument dropout has no effect.")(encoder_layer("no_dropout"))
exercise.wrong("EncoderLayer", "Dropout acts on the sum, residual included: it belongs on the sublayer's output.")(
    encoder_layer("drops_all")
)


@exercise.wrong(
    "SimpleTransformerBlock",
    "nn.MultiheadAttention reads (sequence, batch, dim): on (batch, sequence, dim) it attends along the batch, and a sample "
    "changes with its neighbors. Say batch_first=True, or use your own.",
)
class AlongTheBatch(Block):
    """The block as it was."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__(dim, heads, hidden, batch_first=False)


@exercise.wrong("SimpleTransformerBlock", "x is transposed to (sequence, batch, dim) and never back.")
class NeverBack(AlongTheBatch):
    """Transposed once."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1))


exercise.also_right("EncoderLayer")(encoder_layer(""))


@exercise.also_right("EncoderLayer")
class SampleBySample(nn.Module):
    """A loop over the samples, each without its padding; other names, nothing but functions."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float = 0.0, norm_first: bool = False) -> None:
        super().__init__()
        self.norm2, self.norm1 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.linear2, self.linear1 = nn.Linear(hidden, dim), nn.Linear(dim, hidden)
        self.self_attn = nn.MultiheadAttention(dim, heads)
        self.p, self.norm_first = dropout, norm_first

    def forward(self, batch: Tensor, padding: Tensor | None = None) -> Tensor:
        def drop(x: Tensor) -> Tensor:
            return nn.functional.dropout(x, self.p, self.training)

        results = []
        for i, sample in enumerate(batch):
            real = torch.ones(len(sample), dtype=torch.bool) if padding is None else ~padding[i]
            x = sample[real]
            if self.norm_first:
                y = self.norm1(x)
                x = x + drop(self.self_attn(y, y, y)[0])
                x = x + drop(self.linear2(self.linear1(self.norm2(x)).relu()))
            else:
                x = self.norm1(x + drop(self.self_attn(x, x, x)[0]))
                x = self.norm2(x + drop(self.linear2(self.linear1(x).relu())))
            results.append(torch.zeros_like(sample).index_put((real,), x))
        return torch.stack(results)


exercise.also_right("SimpleTransformerBlock")(Block)


@exercise.also_right("SimpleTransformerBlock")
class ThereAndBack(AlongTheBatch):
    """Transposed twice."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1)).transpose(0, 1)
