"""Attention: additive and multiplicative over encoder states, and multi-head scaled dot-product attention."""

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


def additive_mask(mask: Tensor) -> Tensor:
    """Additive `attn_mask` of a bool mask of any shape: 0 where it is true, -inf where it is false."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -math.inf)


def apply_rotary_emb(x: Tensor, freqs: Tensor) -> Tensor:
    """Rotary position embedding (RoPE, Su et al., arXiv 2104.09864): rotates each pair of neighboring features.

    The product of a rotated query and a rotated key depends on their distance alone, not on their positions.

    Args:
        x: (..., time, dim).
        freqs: (time, dim / 2), complex numbers of modulus 1, see `rotary_freqs`.
    """
    exact = x.to(torch.promote_types(x.dtype, torch.float32))  # there are no complex numbers of lower precision
    pairs = torch.view_as_complex(exact.unflatten(-1, (-1, 2)))  # (..., time, dim / 2)
    return torch.view_as_real(pairs * freqs).flatten(-2)


class MultiHeadAttention(nn.Module):
    """Multi-head attention: scaled dot-product attention in several subspaces (Vaswani et al., arXiv 1706.03762, 3.2).

    Keys and values come from `project_kv`, so that a cache can hold them. The product is written out: on short sentences
    it is faster on a CPU than `F.scaled_dot_product_attention`, and the weights can be plotted.

    The output projection starts at zero, so that a layer starts as the identity and the signal passes all of them unchanged.

    Args:
        d_model: Dimension of inputs and outputs.
        num_heads: Number of heads, each of dimension d_model / num_heads.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(d_model, d_model)
        self.kv_proj = nn.Linear(d_model, 2 * d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        for weight in (*self.kv_proj.weight.chunk(2), self.q_proj.weight):
            nn.init.xavier_uniform_(weight.detach())
        nn.init.zeros_(self.out_proj.weight)
        for layer in (self.q_proj, self.kv_proj, self.out_proj):
            nn.init.zeros_(layer.bias)

    def split_heads(self, x: Tensor) -> Tensor:
        """(batch, time, d_model) -> (batch, heads, time, head_dim)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)

    def project_kv(self, x: Tensor, freqs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys, rotated by `freqs` if given, and values of (batch, time, d_model): (batch, heads, time, head_dim)."""
        keys, values = (self.split_heads(part) for part in self.kv_proj(x).chunk(2, -1))
        return keys if freqs is None else apply_rotary_emb(keys, freqs), values

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor, freqs: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """softmax(Q K' / sqrt(head_dim) + attn_mask) V.

        Args:
            x: (batch, queries, d_model).
            keys: (batch, heads, time, head_dim), and `values` alike.
            attn_mask: Additive mask, see `additive_mask`; broadcast to (batch, heads, queries, time).
            freqs: Rotary embedding of the queries, (queries, head_dim / 2); None for none.

        Returns:
            (batch, queries, d_model), and weights (batch, heads, queries, time).
        """
        queries = self.split_heads(self.q_proj(x))
        if freqs is not None:
            queries = apply_rotary_emb(queries, freqs)
        q, k, v = (part.flatten(0, 1) for part in (queries, keys, values))  # (batch * heads, queries or time, head_dim)
        if attn_mask.shape[0] > 1:
            attn_mask = attn_mask.expand(-1, self.num_heads, -1, -1)
        scores = torch.baddbmm(attn_mask.flatten(0, 1), q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
        weights = scores.softmax(-1)  # (batch * heads, queries, time)
        y = (weights.to(v.dtype) @ v).unflatten(0, queries.shape[:2])  # (batch, heads, queries, head_dim)
        return self.out_proj(y.transpose(-3, -2).flatten(-2)), weights.unflatten(0, queries.shape[:2])
