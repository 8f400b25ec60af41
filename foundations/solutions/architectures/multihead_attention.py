"""Multi-head attention: several small attentions side by side

Each head attends in a subspace of its own. Splitting the features is a view; bringing the heads forward is a transpose.
"""

import torch
from architectures.attention import attention
from networks.linear import Linear
from torch import Tensor, nn


class MultiheadAttention(nn.Module):
    """Multi-head attention, as torch.nn.MultiheadAttention(dim, heads, batch_first=True): its state dict loads here.

    Head h has the features h * dim / heads up to (h + 1) * dim / heads of the projected queries, keys and values.

    Attributes:
        in_proj_weight: Parameter (3 dim, dim): the weights of the queries' projection, then the keys', then the values'.
            Uniform in [-b, b] at the start, b = sqrt(6 / (4 dim)) (Xavier).
        in_proj_bias: Parameter (3 dim,), their biases, zeros at the start.
        out_proj: Linear(dim, dim) of the heads' joined results, its bias zeros at the start.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        bound = (6 / (4 * dim)) ** 0.5
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim).uniform_(-bound, bound))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = Linear(dim, dim)
        with torch.no_grad():
            self.out_proj.bias.zero_()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """Result of all heads, without the weights that torch's module returns beside it.

        Args:
            query: (B, T, dim).
            key: (B, S, dim).
            value: (B, S, dim).
            key_padding_mask: (B, S) boolean, True at keys that are padding and ignored.
            attn_mask: (T, S) boolean, True where a query may not attend to a key.

        Returns:
            (B, T, dim); a query that may attend to no key gets the bias of `out_proj`.
        """
        inputs = (query, key, value)
        projections = zip(inputs, self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        q, k, v = (self._split(x @ weight.t() + bias) for x, weight, bias in projections)
        ignored = torch.zeros(1, 1, dtype=torch.bool, device=query.device)
        if key_padding_mask is not None:
            ignored = ignored | key_padding_mask[:, None, None]  # (B, 1, 1, S)
        if attn_mask is not None:
            ignored = ignored | attn_mask
        joined = attention(q, k, v, ~ignored).transpose(1, 2).flatten(2)  # (B, T, dim)
        return self.out_proj(joined)

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, heads, T, dim / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)
