"""Embedding: a table of vectors, one for each token

A lookup is an index; its gradient adds up where a token occurs twice.
"""

import torch
from torch import Tensor, nn


class Embedding(nn.Module):
    """Embedding table, as torch.nn.Embedding: its state dict loads here.

    The row of `padding_idx` is zeros at the start, and never gets a gradient.

    Attributes:
        weight: Parameter (num_embeddings, embedding_dim), standard normal at the start.

    Example:
        Embedding(100, 8) takes (2, 5) tokens to (2, 5, 8).
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.padding_idx = padding_idx
        self.weight = nn.Parameter(torch.randn(num_embeddings, embedding_dim))
        if padding_idx is not None:
            with torch.no_grad():
                self.weight[padding_idx] = 0

    def forward(self, tokens: Tensor) -> Tensor:
        """Vector of each token.

        Args:
            tokens: int64, any shape.

        Returns:
            (..., embedding_dim).
        """
        vectors = self.weight[tokens]
        if self.padding_idx is None:
            return vectors
        padding = (tokens == self.padding_idx)[..., None]
        return torch.where(padding, vectors.detach(), vectors)
