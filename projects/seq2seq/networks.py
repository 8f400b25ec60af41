"""Seq2SeqModel: what both networks share: embeddings, tied output layer, decoding step by step.

A network encodes all sources at once (`encode`), trains on all target tokens at once (`forward`), and generates one token
at a time (`init_state`, `decode_step`), which is all that a search needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from projects.seq2seq.config import PAD, TieWordEmbeddings


def padding_mask(lengths: Tensor, time: int) -> Tensor:
    """Padding mask of (batch,) lengths: (batch, time) bool, true at tokens."""
    return torch.arange(time, device=lengths.device) < lengths[:, None]


class Seq2SeqModel(nn.Module):
    """Encoder-decoder network.

    Args:
        vocab_sizes: Sizes of the source and the target vocabulary.
        embed_dim: Dimension of an embedding, and of the output layer's input.
        tie: Weight tying (Press and Wolf, arXiv 1608.05859): "all" makes one matrix of both embeddings and
            the output layer, for a joint vocabulary; "target" of the target embedding and the output layer; "none" none.
    """

    def __init__(self, vocab_sizes: tuple[int, int], embed_dim: int, tie: TieWordEmbeddings) -> None:
        super().__init__()
        source_size, target_size = vocab_sizes
        self.target_embedding = nn.Embedding(target_size, embed_dim, PAD)
        self.source_embedding = self.target_embedding if tie == "all" else nn.Embedding(source_size, embed_dim, PAD)
        self.output_layer = nn.Linear(embed_dim, target_size)
        for embedding in (self.source_embedding, self.target_embedding):
            nn.init.normal_(embedding.weight, std=embed_dim**-0.5)
            nn.init.zeros_(embedding.weight[PAD].detach())
        nn.init.zeros_(self.output_layer.bias)
        if tie == "none":
            nn.init.normal_(self.output_layer.weight, std=embed_dim**-0.5)
        else:
            self.output_layer.weight = self.target_embedding.weight

    def embed(self, embedding: nn.Embedding, tokens: Tensor) -> Tensor:
        """Embeddings of (batch, time) ids, scaled to unit variance: (batch, time, embed_dim)."""
        return embedding(tokens) * embedding.embedding_dim**0.5

    def decode_hidden(self, tokens: Tensor, state: Any, memory: Any) -> tuple[Tensor, Any, Tensor]:
        """`decode_step` with the output layer's input, (batch, beams, embed_dim), in place of the logits."""
        raise NotImplementedError

    def decode_step(self, tokens: Tensor, state: Any, memory: Any) -> tuple[Tensor, Any, Tensor]:
        """One decoding step of every hypothesis.

        Args:
            tokens: (batch, beams) ids, the last of each hypothesis.
            state: Decoder state, of `init_state` or of the step before. A Transformer's key-value cache is written in
                place, so an old state cannot be used again.
            memory: Encoded sources, of `encode`.

        Returns:
            Logits (batch, beams, vocabulary), the new state, and attention weights (batch, beams, source_time).
        """
        hidden, state, attention = self.decode_hidden(tokens, state, memory)
        return self.output_layer(hidden), state, attention
