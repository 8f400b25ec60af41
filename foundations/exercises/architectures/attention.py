"""Exercise attention: scaled dot products, a mask, and the row that may attend to nothing."""

import math
import random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foundations.comparing import check_device, check_equal, check_gradients
from foundations.exercise import Exercise

exercise = Exercise(
    title="Attention: each query's mean of the values, weighted by how well the keys match it",
    level="core",
    minutes=20,
    link="projects.seq2seq.transformer:MultiHeadAttention.forward",
    why="the decoder looks at the source and at what it has written, the encoder at the whole sentence",
    hints=(
        "Scores are a matrix product: one row for each query, one column for each key. Each row becomes weights of sum 1.",
        "softmax(Q K' / sqrt(D)) V. What may not be seen has the score -inf before the softmax, and then the weight 0.",
        "scores.masked_fill(~mask, -math.inf).softmax(-1).masked_fill(~mask, 0.0) @ value: the last fill is for rows that "
        "see nothing, whose softmax is NaN.",
    ),
    source="torch._decomp.decompositions:safe_softmax",
    look_at="The softmax inside of torch's attention: compare its last line with your last fill. How does it find the rows?",
    barred=(
        *("scaled_dot_product_attention", "_scaled_dot_product_attention_math"),
        "_scaled_dot_product_flash_attention_for_cpu",
    ),
)


def reference(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Query by query, over the keys that it may attend to."""
    *lead, t, s = *query.shape[:-1], key.shape[-2]
    allowed = torch.ones(*lead, t, s, dtype=torch.bool) if mask is None else mask.expand(*lead, t, s)
    parts = (part.reshape(-1, *part.shape[-2:]) for part in (query, key, value, allowed))
    rows = []
    for q, k, v, m in zip(*parts, strict=True):
        for i in range(t):
            weights = ((k[m[i]] * q[i]).sum(1) / math.sqrt(q.shape[1])).softmax(0)
            rows.append((weights[:, None] * v[m[i]]).sum(0))
    return torch.stack(rows).view(*lead, t, value.shape[-1])


def random_inputs(lead: tuple[int, ...], t: int, s: int, d: int, v: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value."""
    return torch.randn(*lead, t, d), torch.randn(*lead, s, d), torch.randn(*lead, s, v)


def random_mask(*shape: int) -> Tensor:
    """Boolean mask with a True and, if it has several columns, a False in each row."""
    mask = torch.rand(shape) < 0.5
    column = torch.randint(shape[-1], shape[:-1])[..., None]
    return mask.scatter(-1, (column + 1) % shape[-1], False).scatter(-1, column, True)


@exercise.property("values without a mask")
def values(answer: ModuleType, rng: random.Random) -> None:
    for lead, t, s, d, v in [((1,), 1, 2, 4, 2), ((1,), 2, 3, 4, 1), ((2,), 3, 2, 2, 4), ((2,), 3, 3, 3, 3)]:
        inputs = random_inputs(lead, t, s, d, v)
        check_equal(answer.attention, *inputs, expected=reference(*inputs))
    inputs = random_inputs((2, 3), 4, 5, 6, 2)
    check_equal(answer.attention, *inputs, expected=reference(*inputs))
    inputs = random_inputs((), 2, 3, 4, 1)
    check_equal(answer.attention, *inputs, expected=reference(*inputs))


@exercise.property("True in the mask attends")
def masks(answer: ModuleType, rng: random.Random) -> None:
    for lead, t, s, mask in [
        ((1,), 1, 3, torch.tensor([[True, False, False]])),
        ((2,), 2, 3, random_mask(2, 3)),
        ((2,), 3, 3, random_mask(2, 1, 3)),
        ((2, 2), 2, 4, random_mask(2, 1, 1, 4)),
        ((2, 2), 2, 4, random_mask(2, 2, 2, 4)),
    ]:
        inputs = random_inputs(lead, t, s, 2, 2)
        check_equal(answer.attention, *inputs, mask, expected=reference(*inputs, mask))


@exercise.property("a query that may attend to nothing gets zeros")
def nothing(answer: ModuleType, rng: random.Random) -> None:
    for mask in (torch.tensor([[False, False]]), torch.tensor([[False, False], [True, False], [False, False]])):
        inputs = random_inputs((1,), len(mask), 2, 2, 2)
        check_equal(answer.attention, *inputs, mask, expected=reference(*inputs, mask))


@exercise.property("large scores")
def large(answer: ModuleType, rng: random.Random) -> None:
    query, key, value = random_inputs((1,), 2, 3, 2, 2)
    mask = torch.tensor([[True, True, False], [False, True, True]])
    check_equal(
        answer.attention, 100 * query, 100 * key, value, mask, expected=reference(100 * query, 100 * key, value, mask)
    )


@exercise.property("gradient, also where nothing is attended to")
def gradient(answer: ModuleType, rng: random.Random) -> None:
    mask = torch.tensor([[True, False, True], [False, False, False], [False, True, True]])
    check_gradients(answer.attention, reference, *random_inputs((1,), 2, 2, 3, 2))
    check_gradients(answer.attention, reference, *random_inputs((2,), 3, 3, 2, 2), mask)


@exercise.property("float16")
def half(answer: ModuleType, rng: random.Random) -> None:
    inputs = [value.half() for value in random_inputs((1,), 2, 3, 4, 2)]
    mask = torch.tensor([[True, True, False], [False, False, False]])
    expected = reference(*(value.float() for value in inputs), mask).half()
    check_equal(answer.attention, *inputs, mask, expected=expected, rtol=2e-2, atol=5e-3)


@exercise.property("no query, any memory layout, any device")
def layouts(answer: ModuleType, rng: random.Random) -> None:
    inputs = random_inputs((2,), 0, 3, 2, 4)
    check_equal(answer.attention, *inputs, expected=inputs[0].new_zeros(2, 0, 4))
    query, key, value = (torch.randn(2, 3, 2, 4).transpose(1, 2) for _ in range(3))
    mask = random_mask(3, 3).t().contiguous().t()
    check_equal(answer.attention, query, key, value, mask, expected=reference(query, key, value, mask))
    check_device(answer.attention, *random_inputs((2,), 2, 3, 2, 2), random_mask(2, 3))


def attention_with(fault: str) -> Any:
    """Attention with one of the known faults."""

    def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        scale = {"by_d": query.shape[-1], "unscaled": 1, "by_v": value.shape[-1] ** 0.5}.get(
            fault, math.sqrt(query.shape[-1])
        )
        scores = query @ key.transpose(-2, -1) / scale
        dim = -2 if fault == "over_queries" else -1
        if mask is None:
            return scores.softmax(dim) @ value
        hidden = mask if fault == "inverted" else ~mask
        if fault == "after_softmax":
            return scores.softmax(dim).masked_fill(hidden, 0.0) @ value
        weights = scores.masked_fill(hidden, -1e9 if fault in ("large", "only_large") else -math.inf).softmax(dim)
        if fault == "nan_result":
            return (weights @ value).nan_to_num(0.0)
        return (weights if fault in ("nan", "only_large") else weights.masked_fill(hidden, 0.0)) @ value

    return attention


exercise.wrong("attention", "The scores are divided by D; it is the square root of D.")(attention_with("by_d"))
exercise.wrong(
    "attention",
    "The scores are not divided by sqrt(D): products of long vectors are large, and the softmax picks a single key.",
)(attention_with("unscaled"))
exercise.wrong("attention", "The scores are divided by the root of V, the values' size: D is that of queries and keys.")(
    attention_with("by_v")
)
exercise.wrong(
    "attention",
    "The softmax runs over the queries: the shape is right, and the weights of one query do not sum to 1. It is over the "
    "keys, the last dimension of the scores.",
)(attention_with("over_queries"))
exercise.wrong(
    "attention",
    "The mask is inverted: True attends here, as in F.scaled_dot_product_attention. (nn.MultiheadAttention ignores where "
    "it is True.) In training an inverted mask looks too good to be true: each token sees what it should not.",
    seen="https://github.com/tensorflow/text/issues/894",
)(attention_with("inverted"))
exercise.wrong(
    "attention",
    "The weights are set to 0 after the softmax, and the others no longer sum to 1: the scores must be -inf before it.",
)(attention_with("after_softmax"))
exercise.wrong(
    "attention",
    "The softmax of a row of -inf is 0 / 0, NaN: where nothing may be seen, the weights have to be made 0.",
    seen="https://github.com/pytorch/pytorch/issues/41508",
)(attention_with("nan"))
exercise.wrong(
    "attention",
    "The result is cleaned of NaN, the gradient of the values is not: 0 * NaN on the way back. Make the weights 0 instead.",
)(attention_with("nan_result"))
exercise.wrong(
    "attention",
    "-1e9 has no place in float16, whose largest number is 65504: use -inf, or torch.finfo(scores.dtype).min.",
)(attention_with("large"))
exercise.wrong(
    "attention",
    "A row of equal, very negative scores has equal weights: the query that may see nothing gets the mean of everything.",
)(attention_with("only_large"))


@exercise.also_right("attention")
def by_einsum(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    logits = torch.einsum("...td,...sd->...ts", q * q.shape[-1] ** -0.5, k)
    if mask is not None:
        logits = torch.where(mask, logits, torch.finfo(logits.dtype).min)
    exponentials = (logits - logits.amax(-1, keepdim=True)).exp()
    if mask is not None:
        exponentials = exponentials * mask
    return torch.einsum("...ts,...sv->...tv", exponentials / exponentials.sum(-1, keepdim=True).clamp(min=1e-6), v)


@exercise.also_right("attention")
def query_by_query(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    t, s = query.shape[-2], key.shape[-2]
    allowed = torch.ones(t, s, dtype=torch.bool, device=query.device) if mask is None else mask
    allowed = allowed.expand(*query.shape[:-1], s)
    rows = [value[..., :0, :].sum(-2, keepdim=True)[..., :0, :]]
    for i in range(t):
        scores = (query[..., i : i + 1, :] * key).sum(-1) / query.shape[-1] ** 0.5
        scores[~allowed[..., i, :]] = -torch.inf
        weights = torch.softmax(scores, -1).nan_to_num(0.0)
        rows.append((weights[..., None] * value).sum(-2, keepdim=True))
    return torch.cat(rows, -2)
