"""Attention of the recurrent networks from first principles: nothing but products, sums and elementwise functions.

The networks are held equal to it in `test_seq2seq_reference.py`, and in all else to the course's solutions in
`test_seq2seq_course.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor


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


def assert_equal_with_gradients(ours, theirs, inputs):
    """The same value, and the same gradient with respect to every input, of two functions without arguments."""
    a, b = ours(), theirs()
    torch.testing.assert_close(a, b)
    direction = torch.randn_like(a)
    gradients = [torch.autograd.grad((x * direction).sum(), inputs) for x in (a, b)]
    torch.testing.assert_close(*gradients)
