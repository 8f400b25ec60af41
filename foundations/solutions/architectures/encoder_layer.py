"""Encoder layer: attention, feed-forward, norms and residuals; and a block that attended to the wrong dimension

What the Transformer is made of, equal to torch.nn.TransformerEncoderLayer.
"""

from architectures.multihead_attention import MultiheadAttention
from networks.batch_layer_norm import LayerNorm
from networks.dropout import Dropout
from networks.linear import Linear
from torch import Tensor, nn


class EncoderLayer(nn.Module):
    """Encoder layer, as torch.nn.TransformerEncoderLayer(dim, heads, hidden, batch_first=True): its state dict loads here.

    There are two sublayers: self-attention, and a feed-forward network of two linear layers with a ReLU between them.
    Around each: x + dropout(sublayer(norm(x))) with `norm_first`, else norm(x + dropout(sublayer(x))).
    Unlike torch's, this layer has no dropout inside of the sublayers.

    Attributes:
        self_attn: Your MultiheadAttention, or torch's.
        linear1: Linear(dim, hidden), and `linear2` back.
        norm1: LayerNorm(dim) of the self-attention, `norm2` of the feed-forward network.
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float = 0.0, norm_first: bool = False) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.self_attn = MultiheadAttention(dim, heads)
        self.linear1, self.linear2 = Linear(dim, hidden), Linear(hidden, dim)
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """All positions at once.

        Args:
            x: (B, T, dim).
            padding: (B, T) boolean, True at padding, which nothing attends to.

        Returns:
            (B, T, dim); at padding it may be anything.
        """
        if self.norm_first:
            x = x + self.dropout(self._attend(self.norm1(x), padding))
            return x + self.dropout(self._feed_forward(self.norm2(x)))
        x = self.norm1(x + self.dropout(self._attend(x, padding)))
        return self.norm2(x + self.dropout(self._feed_forward(x)))

    def _attend(self, x: Tensor, padding: Tensor | None) -> Tensor:
        return self.self_attn(x, x, x, key_padding_mask=padding)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.linear1(x).clamp(min=0))


class SimpleTransformerBlock(nn.Module):
    """The block by which the course's source explains the Transformer, mended.

    There, `attention` is torch.nn.MultiheadAttention(dim, heads), which takes (sequence, batch, dim) unless it is asked for
    batch_first. The block passes it x of (batch, sequence, dim): each position attends to the same position of the other
    samples, and never to its own sequence. It runs, and the shape is right.

    Mend it: x stays (batch, sequence, dim), each position attends to its sequence. The rest is as it was: first
    norm1(x + attention(x)), then norm2(x + feed_forward(x)), so that the state dict still loads.

    Attributes:
        attention: Multi-head attention, yours or torch's.
        norm1: LayerNorm(dim), `norm2` likewise.
        feed_forward: nn.Sequential of Linear(dim, hidden), nn.ReLU() and Linear(hidden, dim).
    """

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = MultiheadAttention(dim, heads)
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.feed_forward = nn.Sequential(Linear(dim, hidden), nn.ReLU(), Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, sequence, dim) -> (batch, sequence, dim)."""
        x = self.norm1(x + self.attention(x, x, x))
        return self.norm2(x + self.feed_forward(x))
