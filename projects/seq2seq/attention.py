"""Attention over encoder states: additive (Bahdanau) and multiplicative (Luong)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Attention of decoder states over encoder states: weights, and the weighted mean of the states (context vector).

    "multiplicative" scores a position by s' W h / sqrt(query_dim) (Luong et al., arXiv 1508.04025, "general"). It is scaled
    as in the Transformer: otherwise the softmax saturates, and a decoder that attends to one word alone never learns where
    to attend. "additive" scores it by v' tanh(W s + U h) (Bahdanau et al., arXiv 1409.0473).

    Args:
        kind: "multiplicative" or "additive".
        query_dim: Dimension of the decoder's hidden state.
        memory_dim: Dimension of the encoder's states.
    """

    def __init__(self, kind: str, query_dim: int, memory_dim: int) -> None:
        super().__init__()
        self.additive = kind == "additive"
        self.key = nn.Linear(memory_dim, query_dim, bias=self.additive)
        if self.additive:
            self.query = nn.Linear(query_dim, query_dim, bias=False)
            self.score = nn.Linear(query_dim, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attention of several queries per sentence: its beams, or its time steps.

        Args:
            query: (batch, queries, query_dim).
            keys: (batch, source_time, query_dim), `self.key` of the values.
            values: (batch, source_time, memory_dim).
            mask: (batch, source_time) bool, true at tokens.

        Returns:
            Context vectors (batch, queries, memory_dim), and weights (batch, queries, source_time).
        """
        if self.additive:
            scores = self.score(torch.tanh(self.query(query)[:, :, None] + keys[:, None])).squeeze(-1)
        else:
            scores = query @ keys.transpose(1, 2) * query.shape[-1] ** -0.5
        weights = scores.masked_fill(~mask[:, None], -math.inf).softmax(-1)
        return weights.to(values.dtype) @ values, weights
