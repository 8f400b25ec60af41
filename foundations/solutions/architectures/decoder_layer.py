"""Decoder layer: attend to what was written so far, then to the source

In training all positions are computed at once: a mask hides the future, and the target is shifted by one.
"""

import math

import torch
from architectures.multihead_attention import MultiheadAttention
from networks.batch_layer_norm import LayerNorm
from networks.dropout import Dropout
from networks.linear import Linear
from torch import Tensor, nn


def causal_mask(length: int) -> Tensor:
    """Mask (length, length) of self-attention, boolean: True where a position may not attend, at all later positions.

    Example:
        causal_mask(2) is [[False, True], [False, False]].
    """
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def additive_mask(mask: Tensor) -> Tensor:
    """The same as numbers that are added to scores: -inf where `mask` is True, else 0; float32, the shape of `mask`."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill(mask, -math.inf)


def teacher_forcing(target: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and labels of the decoder: at each position it reads a token and is to predict the one that follows.

    Args:
        target: (B, T) tokens, T at least 1; each row begins with bos, and ends with eos and padding.

    Returns:
        Inputs (B, T - 1) and labels (B, T - 1).

    Example:
        [[bos, 7, 8, eos]] gives [[bos, 7, 8]] and [[7, 8, eos]].
    """
    return target[:, :-1], target[:, 1:]


class DecoderLayer(nn.Module):
    """Decoder layer, as torch.nn.TransformerDecoderLayer(dim, heads, hidden, batch_first=True): its state dict loads here.

    There are three sublayers: causal self-attention, attention from the target to the encoder's output (`memory`), and a
    feed-forward network with a ReLU. Norm, residual and dropout are around each as in the encoder layer.

    Attributes:
        self_attn: Your MultiheadAttention, or torch's; `multihead_attn` likewise, for the attention to the memory.
        linear1: Linear(dim, hidden), and `linear2` back.
        norm1: LayerNorm(dim) of the self-attention, `norm2` of the attention to the memory, `norm3` of the last sublayer.
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float = 0.0, norm_first: bool = False) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.self_attn, self.multihead_attn = MultiheadAttention(dim, heads), MultiheadAttention(dim, heads)
        self.linear1, self.linear2 = Linear(dim, hidden), Linear(hidden, dim)
        self.norm1, self.norm2, self.norm3 = LayerNorm(dim), LayerNorm(dim), LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, memory_padding: Tensor | None = None) -> Tensor:
        """All target positions at once; none sees a later one.

        Args:
            x: (B, T, dim), the target.
            memory: (B, S, dim), the encoder's output.
            memory_padding: (B, S) boolean, True at the source's padding.

        Returns:
            (B, T, dim).
        """
        future = causal_mask(x.shape[1]).to(x.device)
        sublayers = (
            (self.norm1, lambda y: self.self_attn(y, y, y, attn_mask=future)),
            (self.norm2, lambda y: self.multihead_attn(y, memory, memory, key_padding_mask=memory_padding)),
            (self.norm3, lambda y: self.linear2(self.linear1(y).clamp(min=0))),
        )
        for norm, sublayer in sublayers:
            y = self.dropout(sublayer(norm(x) if self.norm_first else x))
            x = x + y if self.norm_first else norm(x + y)
        return x
