"""A tiny translator: encoder and decoder of your own parts, memorizing sixteen pairs

Trained on all positions at once, used one token at a time: both must agree, or it learns one thing and does another.
"""

import torch
from architectures.decoder_layer import DecoderLayer, teacher_forcing
from architectures.encoder_layer import EncoderLayer
from architectures.positional_encoding import sinusoids
from networks.adam import Adam
from networks.batch_layer_norm import LayerNorm
from networks.cross_entropy import cross_entropy
from networks.dropout import Dropout
from networks.embedding import Embedding
from networks.linear import Linear
from torch import Tensor, nn

PAD, BOS, EOS = 0, 2, 3  # tokens of both vocabularies; 1 is for unknown words, the others are words

Memory = tuple[Tensor, Tensor]  # the encoder's output (B, S, dim), and True at the source's padding (B, S)


class Translator(nn.Module):
    """Transformer of an encoder and a decoder.

    Embeddings with positions, `layers` encoder layers and `layers` decoder layers with norm_first, each stack with a
    LayerNorm after it, and a linear layer to the logits of the target's vocabulary. Embeddings and sublayers drop out.
    """

    def __init__(
        self, source_size: int, target_size: int, dim: int, heads: int, hidden: int, layers: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.source_embedding, self.target_embedding = Embedding(source_size, dim, PAD), Embedding(target_size, dim, PAD)
        self.encoder = nn.ModuleList(EncoderLayer(dim, heads, hidden, dropout, norm_first=True) for _ in range(layers))
        self.decoder = nn.ModuleList(DecoderLayer(dim, heads, hidden, dropout, norm_first=True) for _ in range(layers))
        self.encoder_norm, self.decoder_norm = LayerNorm(dim), LayerNorm(dim)
        self.output = Linear(dim, target_size)
        self.dropout = Dropout(dropout)

    def encode(self, source: Tensor) -> Memory:
        """The encoder's output (B, S, dim) and the padding (B, S) of source tokens (B, S)."""
        padding = source == PAD
        x = self._embed(self.source_embedding, source)
        for layer in self.encoder:
            x = layer(x, padding)
        return self.encoder_norm(x), padding

    def decode(self, target: Tensor, memory: Memory) -> Tensor:
        """Logits (B, T, target_size) of the token that follows each of the target's tokens (B, T)."""
        x = self._embed(self.target_embedding, target)
        for layer in self.decoder:
            x = layer(x, *memory)
        return self.output(self.decoder_norm(x))

    def _embed(self, embedding: nn.Module, tokens: Tensor) -> Tensor:
        x = embedding(tokens)
        return self.dropout(x + sinusoids(*x.shape[1:]).to(x))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Teacher forcing: logits (B, T, target_size) of the token that follows each of the target's.

        Args:
            source: (B, S) tokens, padded at the end.
            target: (B, T) tokens: bos, then a translation, padded at the end.
        """
        return self.decode(target, self.encode(source))

    def step(self, prefixes: Tensor, memory: Memory) -> Tensor:
        """Logits (B, target_size) of the token that follows each prefix, for a search.

        Args:
            prefixes: (B, T) tokens, each row from bos on.
            memory: What `encode` gave, of B rows.
        """
        return self.decode(prefixes, memory)[:, -1]

    @torch.no_grad()
    def translate(self, source: Tensor, max_length: int) -> list[list[int]]:
        """Greedy search: from bos on, always the token of the largest logit, until eos.

        It runs in evaluation mode and without a graph; the mode of each module is as it was afterwards.

        Args:
            source: (B, S) tokens, padded at the end.
            max_length: Largest number of tokens of a translation.

        Returns:
            Each translation's tokens, without bos, eos and what comes after eos.
        """
        training = [module for module in self.modules() if module.training]
        self.eval()
        memory = self.encode(source)
        prefixes = torch.full_like(source[:, :1], BOS)
        for _ in range(max_length):
            prefixes = torch.cat([prefixes, self.step(prefixes, memory).argmax(-1)[:, None]], 1)
        for module in training:
            module.training = True
        rows = prefixes[:, 1:].tolist()
        return [row[: row.index(EOS)] if EOS in row else row for row in rows]


def fit(model: nn.Module, source: Tensor, target: Tensor, steps: int, lr: float) -> list[float]:
    """Trains in training mode, with your Adam, on the whole batch at each step.

    The loss is the mean cross-entropy of each next token of the target, padding left out.

    Args:
        model: Translator.
        source: (B, S) tokens.
        target: (B, T) tokens: bos, the translation, eos, and padding.
        steps: Number of steps.
        lr: Learning rate.

    Returns:
        The loss of each step, before its update.
    """
    model.train()
    optimizer, losses = Adam(model.parameters(), lr=lr), []
    inputs, labels = teacher_forcing(target)
    for _ in range(steps):
        loss = cross_entropy(model(source, inputs).flatten(0, 1), labels.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
