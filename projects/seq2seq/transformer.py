"""Transformer encoder-decoder with a key-value cache for beam search (Vaswani et al., arXiv 1706.03762)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.nn.dropout import Dropout
from projects.seq2seq.config import TieWordEmbeddings, TransformerConfig
from projects.seq2seq.networks import Seq2SeqModel, padding_mask

GROWTH_FACTOR = 4  # decoding steps for which a key-value cache reserves slots when it is full

KeyValues = tuple[Tensor, Tensor]  # keys and values, (batch, heads, time, head_dim) each


def position_angles(time: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Angles of waves of geometric wavelengths at each position, in radians: (time, dim / 2).

    At least float32, also where the network is in bfloat16: that has no number between 1000 and 1004.
    """
    dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
    frequencies = torch.exp(torch.arange(0, dim, 2, device=device) * torch.tensor(-math.log(10000.0) / dim, dtype=dtype))
    return torch.arange(time, device=device)[:, None] * frequencies


def sinusoidal_embedding(time: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Sinusoidal position embedding: (time, dim) (Vaswani et al., section 3.5)."""
    angles = position_angles(time, dim, device)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def rotary_freqs(time: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Rotations of `apply_rotary_emb` at each position: (time, dim / 2), complex numbers of modulus 1."""
    angles = position_angles(time, dim, device)
    return torch.polar(torch.ones_like(angles), angles)


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
    return torch.view_as_real(pairs * freqs).flatten(-2).to(x.dtype)


class MultiHeadAttention(nn.Module):
    """Multi-head attention: scaled dot-product attention in several subspaces (Vaswani et al., arXiv 1706.03762, 3.2).

    Keys and values come from `project_kv`, so that a cache can hold them. On a CPU the product is written out: on short
    sentences it is faster than `F.scaled_dot_product_attention`, which a GPU takes where nobody asks for the weights.

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
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        attn_mask: Tensor,
        freqs: Tensor | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """softmax(Q K' / sqrt(head_dim) + attn_mask) V.

        Args:
            x: (batch, queries, d_model).
            keys: (batch, heads, time, head_dim), and `values` alike.
            attn_mask: Additive mask, see `additive_mask`; broadcast to (batch, heads, queries, time).
            freqs: Rotary embedding of the queries, (queries, head_dim / 2); None for none.
            need_weights: Whether the weights are returned in any case.

        Returns:
            (batch, queries, d_model), and weights (batch, heads, queries, time) or None.
        """
        queries = self.split_heads(self.q_proj(x))
        if freqs is not None:
            queries = apply_rotary_emb(queries, freqs)
        if not need_weights and x.device.type != "cpu":
            y = F.scaled_dot_product_attention(queries, keys, values, attn_mask.to(queries.dtype))
            return self.out_proj(y.transpose(-3, -2).flatten(-2)), None
        q, k, v = (part.flatten(0, 1) for part in (queries, keys, values))  # (batch * heads, queries or time, head_dim)
        if attn_mask.shape[0] > 1:
            attn_mask = attn_mask.expand(-1, self.num_heads, -1, -1)
        scores = torch.baddbmm(attn_mask.flatten(0, 1).to(q.dtype), q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
        weights = scores.softmax(-1)  # (batch * heads, queries, time)
        y = (weights.to(v.dtype) @ v).unflatten(0, queries.shape[:2])  # (batch, heads, queries, head_dim)
        return self.out_proj(y.transpose(-3, -2).flatten(-2)), weights.unflatten(0, queries.shape[:2])


class FeedForward(nn.Sequential):
    """Position-wise feed-forward network: two linear layers with a ReLU between them; its output starts at zero."""

    def __init__(self, d_model: int, ff_dim: int) -> None:
        linear1, linear2 = nn.Linear(d_model, ff_dim), nn.Linear(ff_dim, d_model)
        super().__init__(linear1, nn.ReLU(), linear2)
        nn.init.xavier_uniform_(linear1.weight)
        for parameter in (linear1.bias, linear2.weight, linear2.bias):
            nn.init.zeros_(parameter)


class SublayerConnection(nn.Module):
    """Residual connection around sublayers: pre-norm x + dropout(f(norm(x))), post-norm norm(x + dropout(f(x)))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dropout = Dropout(config.dropout)
        self.norm_first = config.norm_first

    def sublayer_input(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Input of the sublayer f."""
        return norm(x) if self.norm_first else x

    def add(self, x: Tensor, y: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Residual sum of x and the sublayer's output y."""
        x = x + self.dropout(y)
        return x if self.norm_first else norm(x)


class EncoderLayer(SublayerConnection):
    """Encoder layer: self-attention, then a feed-forward network."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.self_attn = MultiHeadAttention(config.d_model, config.num_heads)
        self.feed_forward = FeedForward(config.d_model, config.ff_dim)
        self.norm1, self.norm2 = nn.LayerNorm(config.d_model), nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor, attn_mask: Tensor, freqs: Tensor | None) -> Tensor:
        """All source positions at once.

        Args:
            x: (batch, time, d_model).
            attn_mask: Additive mask of the padding, (batch, 1, 1, time).
            freqs: Rotary embedding of the positions, (time, head_dim / 2); None for none.
        """
        y = self.sublayer_input(x, self.norm1)
        x = self.add(x, self.self_attn(y, *self.self_attn.project_kv(y, freqs), attn_mask, freqs)[0], self.norm1)
        return self.add(x, self.feed_forward(self.sublayer_input(x, self.norm2)), self.norm2)


class DecoderLayer(SublayerConnection):
    """Decoder layer: causal self-attention, cross-attention to the source, and a feed-forward network."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.self_attn = MultiHeadAttention(config.d_model, config.num_heads)
        self.cross_attn = MultiHeadAttention(config.d_model, config.num_heads)
        self.feed_forward = FeedForward(config.d_model, config.ff_dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(config.d_model) for _ in range(3))

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor,
        memory: KeyValues,
        memory_mask: Tensor,
        freqs: Tensor | None,
        cache: KeyValues | None = None,
        slots: slice = slice(None),
    ) -> tuple[Tensor, Tensor | None]:
        """All target positions at once or, with a cache, the next position of every hypothesis.

        The beams of a sentence are the queries of one attention, so that nothing is repeated for them.

        Args:
            x: (batch, target_time or beams, d_model).
            attn_mask: Additive mask of the self-attention, broadcast to (batch, 1, queries, target_time or slots).
            memory: Keys and values of the source, of `cross_attn.project_kv`.
            memory_mask: Additive mask of the source's padding, (batch, 1, 1, source_time).
            freqs: Rotary embedding of the target positions; None for none.
            cache: Keys and values of earlier positions, (batch, heads, slots, head_dim) each; written in place.
            slots: Slots of the cache that the new positions take.

        Returns:
            (batch, queries, d_model), and the weights of the cross-attention (batch, heads, queries, source_time); without a
            cache they may be None.
        """
        y = self.sublayer_input(x, self.norm1)
        keys, values = self.self_attn.project_kv(y, freqs)
        if cache is not None:
            cache[0][:, :, slots], cache[1][:, :, slots] = keys, values
            keys, values = cache
        x = self.add(x, self.self_attn(y, keys, values, attn_mask, freqs)[0], self.norm1)
        y, weights = self.cross_attn(
            self.sublayer_input(x, self.norm2), *memory, memory_mask, freqs, need_weights=cache is not None
        )
        x = self.add(x, y, self.norm2)
        return self.add(x, self.feed_forward(self.sublayer_input(x, self.norm3)), self.norm3), weights


class TransformerMemory(NamedTuple):
    """Encoded sources."""

    layers: tuple[KeyValues, ...]  # each decoder layer's keys and values of the source
    attn_mask: Tensor  # (batch, 1, 1, source_time), additive mask of the padding


class TransformerState(NamedTuple):
    """Key-value cache shared by the beams of a sentence.

    The beams of a sentence are a tree: a position that several hypotheses have in common is stored once, in one slot. A
    hypothesis is moved, dropped or repeated by its row of `slot_mask` alone, and attention is one product for all beams.
    """

    caches: tuple[KeyValues, ...]  # each decoder layer's keys and values, (batch, heads, slots, head_dim) each
    slot_mask: Tensor  # (batch, beams, slots) bool, true at the positions of a hypothesis
    used: int  # slots that are taken, some of them by hypotheses that were dropped
    length: int  # positions of each hypothesis

    def map_hypotheses(self, function: Callable[[Tensor], Tensor]) -> TransformerState:
        """The state with `function` applied to the rows of hypotheses."""
        return self._replace(slot_mask=function(self.slot_mask))

    def reserve(self, count: int) -> TransformerState:
        """The state with at least `count` free slots. A larger cache leaves out slots that no hypothesis has any more."""
        num_slots = self.slot_mask.shape[2]
        if self.used + count <= num_slots:
            return self
        occupied = self.slot_mask.any(1)  # (batch, slots)
        used, heads = int(occupied.sum(1).max()) if num_slots else 0, self.caches[0][0].shape[1]
        order = occupied.byte().argsort(dim=1, descending=True, stable=True)[:, :used]  # (batch, used)
        size = -(-(used + GROWTH_FACTOR * count) // 4) * 4  # a CPU's products are fast at multiples of 4
        batch = torch.arange(len(occupied) * heads, device=order.device).view(-1, heads, 1)
        rows = batch * num_slots + order[:, None]  # (batch, heads, used)

        def move(cache: Tensor) -> Tensor:
            new = cache.new_zeros(*cache.shape[:2], size, cache.shape[3])
            new[:, :, :used] = cache.flatten(0, 2).index_select(0, rows.flatten()).unflatten(0, rows.shape)
            return new

        slot_mask = self.slot_mask.new_zeros(*self.slot_mask.shape[:2], size)
        slot_mask[:, :, :used] = self.slot_mask.gather(2, order[:, None].expand(-1, slot_mask.shape[1], -1))
        caches = tuple((move(keys), move(values)) for keys, values in self.caches)
        return TransformerState(caches, slot_mask, used, self.length)


class TransformerModel(Seq2SeqModel):
    """Transformer encoder-decoder.

    Args:
        vocab_sizes: Sizes of the source and the target vocabulary.
        config: Options of the network.
        tie: Weight tying, see `Seq2SeqModel`.
    """

    def __init__(self, vocab_sizes: tuple[int, int], config: TransformerConfig, tie: TieWordEmbeddings = "all") -> None:
        super().__init__(vocab_sizes, config.d_model, tie)
        self.head_dim = config.d_model // config.num_heads
        self.rotary = config.position_embedding == "rotary"
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.encoder_norm = nn.LayerNorm(config.d_model) if config.norm_first else nn.Identity()
        self.decoder_norm = nn.LayerNorm(config.d_model) if config.norm_first else nn.Identity()
        self.dropout = Dropout(config.dropout)

    @property
    def decoder_layers(self) -> Sequence[DecoderLayer]:
        """The decoder's layers, with their type."""
        return cast(Sequence[DecoderLayer], self.decoder)

    def add_positions(self, x: Tensor, positions: slice) -> tuple[Tensor, Tensor | None]:
        """Embeddings (batch, time, d_model) with sinusoidal positions and None, or as they are with rotary frequencies."""
        if self.rotary:
            return x, rotary_freqs(positions.stop, self.head_dim, x.device)[positions]
        return x + sinusoidal_embedding(positions.stop, x.shape[-1], x.device)[positions].to(x.dtype), None

    def encode(self, source: Tensor, lengths: Tensor) -> TransformerMemory:
        """Encodes (batch, time) ids of `lengths` (batch,)."""
        lengths = lengths.to(source.device, non_blocking=True)
        attn_mask = additive_mask(padding_mask(lengths, source.shape[1]))[:, None, None]
        x, freqs = self.add_positions(self.embed(self.source_embedding, source), slice(source.shape[1]))
        x = self.dropout(x)
        for layer in self.encoder:
            x = layer(x, attn_mask, freqs)
        x = self.encoder_norm(x)  # (batch, time, d_model)
        pairs = (layer.cross_attn.project_kv(x, freqs) for layer in self.decoder_layers)
        if not self.training:  # every decoding step would copy them into this order for its products
            pairs = ((keys.contiguous(), values.contiguous()) for keys, values in pairs)
        return TransformerMemory(tuple(pairs), attn_mask)

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Decoder hidden states (batch, target_time, d_model), the output layer's input; see `RecurrentModel.forward`."""
        memory, time = self.encode(source, lengths), target.shape[1]
        x, freqs = self.add_positions(self.embed(self.target_embedding, target), slice(time))
        x = self.dropout(x)
        causal_mask = additive_mask(torch.ones(1, 1, time, time, dtype=torch.bool, device=target.device).tril())
        for layer, layer_memory in zip(self.decoder_layers, memory.layers, strict=True):
            x, _ = layer(x, causal_mask, layer_memory, memory.attn_mask, freqs)
        return self.decoder_norm(x)

    def init_state(self, memory: TransformerMemory, beams: int = 1) -> TransformerState:
        """Decoder state of `beams` hypotheses per sentence before the first token: an empty cache."""
        empty = tuple((keys[:, :, :0], values[:, :, :0]) for keys, values in memory.layers)
        slot_mask = torch.zeros(len(memory.attn_mask), beams, 0, dtype=torch.bool, device=memory.attn_mask.device)
        return TransformerState(empty, slot_mask, 0, 0)

    def decode_hidden(
        self, tokens: Tensor, state: TransformerState, memory: TransformerMemory
    ) -> tuple[Tensor, TransformerState, Tensor]:
        """See `Seq2SeqModel.decode_hidden`.

        The attention is that of the last layer but one, averaged over heads: it aligns best (Garg et al., arXiv 1909.02074).
        """
        beams = tokens.shape[1]
        state = state.reserve(beams)
        slots, position = slice(state.used, state.used + beams), slice(state.length, state.length + 1)
        state.slot_mask[:, :, slots] = torch.eye(beams, dtype=torch.bool, device=tokens.device)
        x, freqs = self.add_positions(self.embed(self.target_embedding, tokens), position)  # (batch, beams, d_model)
        attn_mask, attentions = additive_mask(state.slot_mask)[:, None], []
        for layer, cache, layer_memory in zip(self.decoder_layers, state.caches, memory.layers, strict=True):
            x, weights = layer(x, attn_mask, layer_memory, memory.attn_mask, freqs, cache, slots)
            assert weights is not None
            attentions.append(weights)
        state = state._replace(used=slots.stop, length=state.length + 1)
        return self.decoder_norm(x), state, attentions[max(0, len(attentions) - 2)].mean(1)
