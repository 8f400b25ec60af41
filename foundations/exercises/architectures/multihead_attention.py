"""Exercise multihead_attention: torch.nn.MultiheadAttention, by hand."""

import random
from types import ModuleType

import torch
from torch import Tensor, nn

from foundations.comparing import check_device, check_equal, check_that, difference
from foundations.exercise import Exercise
from foundations.modules import check_gradients_of, load_same

exercise = Exercise(
    title="Multi-head attention: several small attentions side by side",
    level="core",
    minutes=30,
    link="projects.seq2seq.transformer:MultiHeadAttention",
    why="every layer of the Transformer is built around it",
    hints=(
        "Project, split the features into heads, attend in all heads at once (they are a batch dimension), join, project.",
        "(B, T, dim) -> (B, T, heads, d) -> (B, heads, T, d). The way back: transpose first, then join the last two.",
        "x.unflatten(2, (heads, -1)).transpose(1, 2), and result.transpose(1, 2).flatten(2). in_proj_weight.chunk(3) are "
        "the three projections; key_padding_mask[:, None, None] is (B, 1, 1, S), and attention wants ~mask.",
    ),
    source="torch.nn.functional:multi_head_attention_forward",
    look_at="Batch first is turned round at the door, and heads join the batch. Near the end there are two paths: which one "
    "gives NaN for a row that may attend to nothing?",
    barred=("torch.nn.MultiheadAttention", "torch.nn.functional.multi_head_attention_forward"),
    uses=("attention", "linear"),
)


def pair(answer: ModuleType, dim: int, heads: int) -> tuple[nn.Module, nn.Module]:
    """Both modules, with biases that are not zeros; the random numbers that follow do not depend on the answer."""
    theirs = nn.MultiheadAttention(dim, heads, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    with torch.random.fork_rng(devices=[]):
        ours = answer.MultiheadAttention(dim, heads)
    return load_same(ours, theirs)


class Reference(nn.Module):
    """torch's module without the weights in its result; with `own`, of one tensor as query, key and value."""

    def __init__(self, module: nn.Module, own: bool = False) -> None:
        super().__init__()
        self.module, self.own = module, own

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        if self.own:
            key = value = query
        result = self.module(query, key, value, key_padding_mask=key_padding_mask, attn_mask=attn_mask)
        return result[0] if isinstance(result, tuple) else result


def compare(
    answer: ModuleType,
    sizes: tuple[int, int, int, int, int],
    padding: Tensor | None = None,
    future: Tensor | None = None,
) -> None:
    """Compares with torch's module; `sizes` are batch, queries, keys, dimension and heads."""
    b, t, s, dim, heads = sizes
    ours, theirs = pair(answer, dim, heads)
    inputs = (torch.randn(b, t, dim), torch.randn(b, s, dim), torch.randn(b, s, dim))
    kwargs = {"key_padding_mask": padding, "attn_mask": future}
    kwargs = {name: mask for name, mask in kwargs.items() if mask is not None}
    expected = Reference(theirs)(*inputs, **kwargs).detach()
    check_equal(ours, *inputs, expected=expected, rtol=1e-4, atol=1e-5, **kwargs)


@exercise.property("state dict and one head")
def one_head(answer: ModuleType, rng: random.Random) -> None:
    for sizes in [(1, 1, 1, 2, 1), (2, 2, 2, 2, 1), (1, 2, 3, 2, 1)]:
        compare(answer, sizes)


@exercise.property("several heads, several samples")
def heads(answer: ModuleType, rng: random.Random) -> None:
    for sizes in [(1, 2, 3, 4, 2), (2, 1, 2, 4, 2), (2, 3, 2, 6, 3), (3, 3, 3, 3, 3), (2, 2, 2, 2, 2), (2, 5, 3, 8, 2)]:
        compare(answer, sizes)


@exercise.property("True in key_padding_mask ignores")
def padding(answer: ModuleType, rng: random.Random) -> None:
    compare(answer, (1, 2, 3, 2, 1), torch.tensor([[False, False, True]]))
    compare(answer, (2, 2, 2, 4, 2), torch.tensor([[True, False], [False, False]]))
    compare(answer, (2, 3, 4, 4, 2), torch.tensor([[False, True, True, True], [False, False, False, True]]))


@exercise.property("True in attn_mask hides")
def future(answer: ModuleType, rng: random.Random) -> None:
    compare(answer, (1, 2, 2, 2, 1), None, torch.tensor([[False, True], [False, False]]))
    compare(answer, (2, 3, 3, 4, 2), None, torch.ones(3, 3, dtype=torch.bool).triu(1))
    keys = torch.tensor([[False, False, False], [False, True, False]])
    compare(answer, (2, 2, 3, 4, 2), keys, torch.tensor([[False, True, True], [True, False, False]]))


@exercise.property("gradients")
def gradients(answer: ModuleType, rng: random.Random) -> None:
    ours, theirs = pair(answer, 4, 2)
    inputs = (
        torch.randn(2, 3, 4),
        torch.randn(2, 2, 4),
        torch.randn(2, 2, 4),
        torch.tensor([[False, True], [False, False]]),
    )
    check_gradients_of(Reference(ours), Reference(theirs), *inputs)
    check_gradients_of(Reference(ours, own=True), Reference(theirs, own=True), *inputs[:1], *inputs[:1], *inputs[:1])


@exercise.property("a sample that is all padding")
def all_padding(answer: ModuleType, rng: random.Random) -> None:
    module, _ = pair(answer, 2, 1)
    x, mask = torch.randn(2, 1, 2, requires_grad=True), torch.tensor([[True], [False]])
    y = module(x, x, x, key_padding_mask=mask)
    want = module.out_proj.bias.detach()[None]
    reason = difference(y[0], want, 1e-5, 1e-6)
    check_that(not reason, "the first sample is all padding: out_proj's bias is left", want, y[0], key_padding_mask=mask)
    y.sum().backward()
    check_that(torch.isfinite(x.grad).all(), "the gradient is not finite", got=x.grad, key_padding_mask=mask)


@exercise.property("start, memory layout, device")
def start(answer: ModuleType, rng: random.Random) -> None:
    module = answer.MultiheadAttention(24, 4)
    weight, bound = module.in_proj_weight.detach(), (6 / 96) ** 0.5
    largest, std = weight.abs().max().item(), weight.std().item()
    fits = 0.9 * bound <= largest <= 1.0001 * bound and abs(std * 3**0.5 / bound - 1) < 0.1
    check_that(fits, f"in_proj_weight is not uniform in [-{bound:.3g}, {bound:.3g}]", bound, largest, dim=24)
    zeros = not module.in_proj_bias.any() and not module.out_proj.bias.any()
    check_that(zeros, "the biases of in_proj and out_proj do not begin as zeros", dim=24)
    ours, theirs = pair(answer, 4, 2)
    x = torch.randn(3, 2, 4).transpose(0, 1)
    check_equal(lambda x: ours(x, x, x), x, expected=theirs(x, x, x)[0].detach(), rtol=1e-4, atol=1e-5)
    module, hidden = module.to("meta"), torch.zeros(2, 3, dtype=torch.bool)
    check_device(lambda x, padding: module(x, x, x, key_padding_mask=padding), torch.randn(2, 3, 24), hidden)


def multihead(fault: str) -> type:
    """The module with one of the known faults."""

    class MultiheadAttention(nn.Module):
        def __init__(self, dim: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
            nn.init.xavier_uniform_(self.in_proj_weight)
            self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
            self.out_proj = nn.Linear(dim, dim)
            nn.init.zeros_(self.out_proj.bias)

        def forward(
            self,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            key_padding_mask: Tensor | None = None,
            attn_mask: Tensor | None = None,
        ) -> Tensor:
            from architectures.attention import attention

            dim = query.shape[2]
            if fault == "interleaved":
                order = torch.arange(3 * dim).view(self.heads, 3, -1).transpose(0, 1).flatten()
            else:
                order = torch.arange(3 * dim)
            parts = zip(self.in_proj_weight[order].chunk(3), self.in_proj_bias[order].chunk(3), strict=True)
            swap = (lambda x: x.transpose(0, 1)) if fault == "time_first" else (lambda x: x)
            inputs = zip((query, key, value), parts, strict=True)
            q, k, v = (self.split(swap(nn.functional.linear(x, w, b))) for x, (w, b) in inputs)
            q = q / self.heads**0.5 if fault == "scaled_by_dim" else q
            mask = torch.ones(1, 1, dtype=torch.bool, device=query.device)
            if key_padding_mask is not None:
                mask = mask & (key_padding_mask if fault == "inverted" else ~key_padding_mask)[:, None, None]
            if attn_mask is not None:
                mask = mask & (attn_mask if fault == "attn_inverted" else ~attn_mask)
            y = attention(q, k, v, mask)  # (B, heads, T, d)
            y = y.reshape(query.shape) if fault == "joined_early" else swap(y.transpose(1, 2).flatten(2))
            return y if fault == "no_out_proj" else self.out_proj(y)

        def split(self, x: Tensor) -> Tensor:
            if fault == "view":
                return x.reshape(x.shape[0], self.heads, x.shape[1], -1)
            if fault == "last":
                return x.unflatten(2, (-1, self.heads)).permute(0, 3, 1, 2)
            return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    return MultiheadAttention


exercise.wrong(
    "MultiheadAttention",
    "view(B, heads, T, d) of (B, T, dim) has the right shape and mixes heads with time: split into (B, T, heads, d) first, "
    "then transpose.",
)(multihead("view"))
exercise.wrong(
    "MultiheadAttention",
    "The heads are joined without the transpose back: (B, heads, T, d) must become (B, T, heads, d) before it becomes "
    "(B, T, dim).",
)(multihead("joined_early"))
exercise.wrong(
    "MultiheadAttention",
    "True in key_padding_mask means ignore, as in nn.MultiheadAttention; your attention function attends where it is True.",
)(multihead("inverted"))
exercise.wrong(
    "MultiheadAttention",
    "True in attn_mask hides, as in nn.MultiheadAttention; your attention function attends where it is True.",
)(multihead("attn_inverted"))
exercise.wrong(
    "MultiheadAttention",
    "The first dimension is read as time: queries attend to other samples at their own position. Here the batch is first.",
)(multihead("time_first"))
exercise.wrong("MultiheadAttention", "out_proj is not used: without it the heads never meet.")(multihead("no_out_proj"))
exercise.wrong(
    "MultiheadAttention",
    "in_proj_weight holds all queries' rows, then all keys', then all values'; you read it head by head.",
)(multihead("interleaved"))
exercise.wrong(
    "MultiheadAttention", "The scores are divided by the square root of dim; each head has only dim / heads features."
)(multihead("scaled_by_dim"))
exercise.wrong(
    "MultiheadAttention", "Head h takes every so many-th feature; it has consecutive ones: unflatten into (heads, d)."
)(multihead("last"))
exercise.also_right("MultiheadAttention")(multihead(""))


@exercise.also_right("MultiheadAttention")
class HeadByHead(nn.Module):
    """A loop over the heads, the projections of each cut out, the mask as numbers."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.out_proj = nn.Linear(dim, dim)
        self.out_proj.bias.data.fill_(0)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        bound = (1.5 / dim) ** 0.5
        self.in_proj_weight = nn.Parameter((2 * torch.rand(3 * dim, dim) - 1) * bound)
        self.d = dim // heads

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask=None, attn_mask=None) -> Tensor:  # type: ignore
        dim, results = q.shape[-1], []
        allowed = torch.ones(q.shape[0], q.shape[1], k.shape[1], dtype=q.dtype, device=q.device)
        for mask in (key_padding_mask, attn_mask):
            if mask is not None:
                allowed = allowed * (~mask if mask is attn_mask else ~mask[:, None]).to(q.dtype)
        for start in range(0, dim, self.d):
            a, b, c = (
                torch.einsum("bti,di->btd", x, self.in_proj_weight[i + start : i + start + self.d])
                + self.in_proj_bias[i + start : i + start + self.d]
                for x, i in ((q, 0), (k, dim), (v, 2 * dim))
            )
            scores = torch.einsum("btd,bsd->bts", a, b) / self.d**0.5
            weights = (scores - scores.amax(-1, keepdim=True)).exp() * allowed
            results.append(weights / weights.sum(-1, keepdim=True).clamp(min=1e-12) @ c)
        return self.out_proj(torch.cat(results, -1))
