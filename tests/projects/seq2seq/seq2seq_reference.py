"""Attention from first principles, and the recurrent cells of the course's solutions: nothing but products and sums.

The networks are held equal to them, forward and gradient (`test_seq2seq_reference.py`).
"""

from __future__ import annotations

import math
from types import ModuleType

import torch
from torch import Tensor

from foundations.imports import exercise_imports, import_answer


def solution(exercise: str) -> ModuleType:
    """Our solution of an exercise of `foundations`, whose own tests hold it equal to PyTorch."""
    with exercise_imports({}):
        return import_answer(exercise)


def additive_attention(query: Tensor, keys: Tensor, w: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """The attention weights of one sentence by Bahdanau et al. (arXiv 1409.0473, appendix A.1.2).

    Args:
        query: (query,), the decoder's state.
        keys: (time, memory), the encoder's states.
        w: (inner, query).
        u: (inner, memory).
        v: (inner,).

    Returns:
        (time,), positive and of sum 1.
    """
    scores = torch.stack([v @ torch.tanh(w @ query + u @ key) for key in keys])  # (time,)
    return softmax(scores)


def softmax(scores: Tensor) -> Tensor:
    """exp(scores) / sum(exp(scores)) over the last dimension; the largest is taken off first, so that nothing overflows."""
    exponentials = torch.exp(scores - scores.max(-1, keepdim=True).values)
    return exponentials / exponentials.sum(-1, keepdim=True)


def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Each query's mean of the values, weighted by how well the keys match it (Vaswani et al., arXiv 1706.03762, eq. 1).

    A product of d random numbers has a variance of d; divided by sqrt(d) the softmax stays soft, and its gradient alive.

    Args:
        q: (..., queries, d).
        k: (..., time, d).
        v: (..., time, values).
        mask: bool, broadcast to (..., queries, time), true where a query may look.

    Returns:
        (..., queries, values), and the weights (..., queries, time).
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = torch.where(mask, scores, -math.inf)
    weights = softmax(scores)
    return weights @ v, weights


def multi_head_attention(
    x: Tensor,
    memory: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    """Attention in `heads` subspaces of the dim, side by side (Vaswani et al., section 3.2.2).

    Args:
        x: (batch, queries, dim), the queries.
        memory: (batch, time, dim), keys and values come from it; `x` itself for self-attention.
        w_in: (3 dim, dim), rows of query, key and value.
        b_in: (3 dim,).
        w_out: (dim, dim).
        b_out: (dim,).
        heads: a divisor of the dim.
        mask: bool, broadcast to (batch, heads, queries, time), true where a query may look.

    Returns:
        (batch, queries, dim).
    """
    w_q, w_k, w_v = w_in.chunk(3)
    b_q, b_k, b_v = b_in.chunk(3)

    def project(y: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return (y @ w.T + b).unflatten(-1, (heads, -1)).transpose(1, 2)  # (batch, heads, time, dim / heads)

    q, k, v = project(x, w_q, b_q), project(memory, w_k, b_k), project(memory, w_v, b_v)
    mixed, _ = scaled_dot_product_attention(q, k, v, mask)
    return mixed.transpose(1, 2).flatten(2) @ w_out.T + b_out
