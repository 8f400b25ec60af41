"""Two translators behind one face: a recurrent encoder-decoder with attention, and a Transformer.

Both read the whole source at once (`encode`), learn from the whole target at once (`forward`), and write one token at a
time (`start`, `step`), which is all that the search needs. Beside `torch` only `common.dropout` is imported: copy both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from common.nn.dropout import Dropout

PAD = 0  # the id that fills up short sentences


def padding_mask(lengths: Tensor, time: int) -> Tensor:
    """(batch,) lengths -> (batch, time) bool, true where there is a token."""
    return torch.arange(time, device=lengths.device) < lengths[:, None]


def bar(mask: Tensor) -> Tensor:
    """What keeps a softmax from where `mask`, bool of any shape, is false when it is added to its scores: 0 or -inf."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -math.inf)


class Translator(nn.Module):
    """What both models share: embeddings, and an output layer that may reuse them.

    Args:
        vocabularies: sizes of the source's and the target's vocabulary.
        width: size of an embedding, and of what the output layer reads.
        tie: "all" makes one matrix of both embeddings and the output layer (Press and Wolf, arXiv 1608.05859; for a joint
            vocabulary), "target" of the target's embedding and the output layer, "none" none.
        word_dropout: share of tokens whose embedding is blanked as a whole in training.
    """

    def __init__(self, vocabularies: tuple[int, int], width: int, tie: str, word_dropout: float) -> None:
        super().__init__()
        if tie == "all" and vocabularies[0] != vocabularies[1]:
            raise ValueError("only a joint vocabulary can tie all embeddings; use tie target or none")
        self.word_dropout = Dropout(word_dropout)
        self.target_embedding = nn.Embedding(vocabularies[1], width, PAD)
        self.source_embedding = self.target_embedding if tie == "all" else nn.Embedding(vocabularies[0], width, PAD)
        self.output = nn.Linear(width, vocabularies[1])
        for embedding in (self.source_embedding, self.target_embedding):
            nn.init.normal_(embedding.weight, std=width**-0.5)
            nn.init.zeros_(embedding.weight[PAD].detach())
        nn.init.zeros_(self.output.bias)
        if tie == "none":
            nn.init.normal_(self.output.weight, std=width**-0.5)
        else:
            self.output.weight = self.target_embedding.weight

    def embed(self, embedding: nn.Embedding, tokens: Tensor) -> Tensor:
        """(batch, time) ids -> (batch, time, width), of unit variance, some of them blanked in training."""
        x = embedding(tokens) * embedding.embedding_dim**0.5
        if self.training and self.word_dropout.p:
            x = x * self.word_dropout(x.new_ones(*tokens.shape, 1))
        return x

    def advance(self, tokens: Tensor, live: Any, memory: Any) -> tuple[Tensor, Any, Tensor]:
        """As `step`, but with what the output layer reads, (batch, beams, width), in place of the logits."""
        raise NotImplementedError

    def step(self, tokens: Tensor, live: Any, memory: Any) -> tuple[Tensor, Any, Tensor]:
        """One more token for each hypothesis.

        Args:
            tokens: (batch, beams) ids, the last of each hypothesis.
            live: where they are, of `start` or of the step before; a Transformer's is used up, as its caches are written in.
            memory: the sources, of `encode`.

        Returns:
            Logits (batch, beams, vocabulary), the new `live`, and the attention (batch, beams, source_time).
        """
        hidden, live, attention = self.advance(tokens, live, memory)
        return self.output(hidden), live, attention


class RecurrentCell(nn.Module):
    """A step of an LSTM (Hochreiter and Schmidhuber, 1997) or a GRU (Cho et al., arXiv 1406.1078).

    Equal to `nn.LSTMCell` and `nn.GRUCell`, but the input arrives multiplied by `self.input` already: a sequence's inputs
    are known beforehand, and one large product is much faster than one small product for each step.

    Args:
        kind: "lstm" or "gru".
        inputs: size of the input.
        hidden: size of the state.
    """

    def __init__(self, kind: str, inputs: int, hidden: int) -> None:
        super().__init__()
        self.kind = kind
        gates = {"lstm": 4, "gru": 3}[kind]
        self.input = nn.Linear(inputs, gates * hidden)
        self.state = nn.Linear(hidden, gates * hidden)
        for name, parameter in self.named_parameters():
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)
            if name == "input.bias" and kind == "lstm":
                with torch.no_grad():
                    parameter[hidden : 2 * hidden] += 1  # the forget gate starts open: gradients reach far back

    def forward(self, projected: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One step.

        Args:
            projected: (..., gates * hidden), `self.input` of the input.
            state: the hidden state (..., hidden), and the LSTM's memory of the same shape behind it.
        """
        hidden = self.state(state[0])
        if self.kind == "gru":
            (r_x, z_x, n_x), (r_h, z_h, n_h) = projected.chunk(3, -1), hidden.chunk(3, -1)
            reset, update = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
            new = torch.tanh(n_x + reset * n_h)
            return (new + update * (state[0] - new),)
        enter, forget, new, leave = (projected + hidden).chunk(4, -1)
        memory = torch.sigmoid(forget) * state[1] + torch.sigmoid(enter) * torch.tanh(new)
        return torch.sigmoid(leave) * torch.tanh(memory), memory


class Attention(nn.Module):
    """Weights of the source positions for a decoder state, and the mean of their values.

    "multiplicative" scores a position by s' W h / sqrt(query) (Luong et al., arXiv 1508.04025, "general"; scaled as in the
    Transformer, as otherwise the softmax saturates, and a decoder that looks at one word alone never learns where to look),
    "additive" by v' tanh(W s + U h) (Bahdanau et al., arXiv 1409.0473).

    Args:
        kind: "multiplicative" or "additive".
        query: size of the decoder's state.
        memory: size of the encoder's states.
    """

    def __init__(self, kind: str, query: int, memory: int) -> None:
        super().__init__()
        self.key = nn.Linear(memory, query, bias=kind == "additive")
        self.additive = kind == "additive"
        if self.additive:
            self.query = nn.Linear(query, query, bias=False)
            self.score = nn.Linear(query, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attends from several states of a sentence at once: its beams, or its time steps.

        Args:
            query: (batch, queries, query).
            keys: (batch, source_time, query), `self.key` of the values.
            values: (batch, source_time, memory).
            mask: (batch, source_time) bool, true where there is a token.

        Returns:
            The means (batch, queries, memory) and the weights (batch, queries, source_time).
        """
        if self.additive:
            scores = self.score(torch.tanh(self.query(query)[:, :, None] + keys[:, None])).squeeze(-1)
        else:
            scores = query @ keys.transpose(1, 2) * query.shape[-1] ** -0.5
        weights = scores.masked_fill(~mask[:, None], -math.inf).softmax(-1)
        return weights.to(values.dtype) @ values, weights


class RecurrentMemory(NamedTuple):
    """An encoded source."""

    keys: Tensor  # (batch, time, hidden)
    values: Tensor  # (batch, time, hidden)
    mask: Tensor  # (batch, time) bool
    first: Tensor  # (batch, hidden), the decoder's first state


class RecurrentState(NamedTuple):
    """Where the decoder is."""

    layers: tuple[tuple[Tensor, ...], ...]  # each layer's state, its parts (batch, beams, hidden)
    readout: Tensor  # (batch, beams, width), the last


class RecurrentTranslator(Translator):
    """Bidirectional encoder, attention, and a decoder that is fed what it attended to (Luong et al., arXiv 1508.04025).

    Args:
        vocabularies: sizes of the source's and the target's vocabulary.
        width: size of the embeddings and of the readout.
        hidden: size of the decoder's state, and of both directions of the encoder together.
        layers: of the encoder and of the decoder.
        cell: "lstm" or "gru".
        attention: "multiplicative" or "additive".
        input_feeding: whether the last readout is part of the next step's input. Without it the decoder cannot know what
            it has attended to, but all steps attend at once, which is faster.
        dropout: share of embeddings and readouts set to zero in training.
        locked_dropout: whether that share is the same in every step of a sentence.
        word_dropout: share of tokens whose embedding is blanked.
        tie: which embeddings are one matrix, see `Translator`.
    """

    def __init__(
        self,
        vocabularies: tuple[int, int],
        width: int = 256,
        hidden: int = 512,
        layers: int = 1,
        cell: str = "lstm",
        attention: str = "multiplicative",
        input_feeding: bool = True,
        dropout: float = 0.3,
        locked_dropout: bool = False,
        word_dropout: float = 0.0,
        tie: str = "all",
    ) -> None:
        super().__init__(vocabularies, width, tie, word_dropout)
        self.input_feeding = input_feeding
        recurrent = nn.LSTM if cell == "lstm" else nn.GRU
        self.encoder = recurrent(
            width, hidden // 2, layers, batch_first=True, bidirectional=True, dropout=dropout if layers > 1 else 0.0
        )
        self.bridge = nn.Linear(hidden, hidden)
        self.cells = nn.ModuleList(RecurrentCell(cell, width if i == 0 else hidden, hidden) for i in range(layers))
        self.feed = nn.Linear(width, {"lstm": 4, "gru": 3}[cell] * hidden, bias=False) if input_feeding else None
        self.attention = Attention(attention, hidden, hidden)
        self.readout = nn.Linear(2 * hidden, width)
        self.dropout = Dropout(dropout, locked_dropout)

    @property
    def first_cell(self) -> RecurrentCell:
        """The decoder's lowest layer."""
        return cast(RecurrentCell, self.cells[0])

    def encode(self, source: Tensor, lengths: Tensor) -> RecurrentMemory:
        """Reads (batch, time) ids of `lengths` (batch,). Packed, so that the backward direction starts at the last word."""
        x = self.dropout(self.embed(self.source_embedding, source))  # (batch, time, width)
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        values, _ = pad_packed_sequence(self.encoder(packed)[0], batch_first=True, total_length=source.shape[1])
        values = self.dropout(values)  # (batch, time, hidden)
        mask = padding_mask(lengths, source.shape[1])
        mean = (values * mask[:, :, None]).sum(1) / lengths[:, None]  # (batch, hidden)
        return RecurrentMemory(self.attention.key(values), values, mask, torch.tanh(self.bridge(mean)))

    def start(self, memory: RecurrentMemory, beams: int = 1) -> RecurrentState:
        """The state before the first token, once for each of `beams` hypotheses."""
        first = memory.first[:, None].expand(-1, beams, -1)  # (batch, beams, hidden)
        state = (first, torch.zeros_like(first)) if self.first_cell.kind == "lstm" else (first,)
        return RecurrentState(
            tuple(state for _ in self.cells), first.new_zeros(len(first), beams, self.readout.out_features)
        )

    def next_states(self, projected: Tensor, live: RecurrentState) -> tuple[tuple[Tensor, ...], ...]:
        """The layers' states one step on; `projected` (batch, beams, gates * hidden) is the first cell's input."""
        if self.feed is not None:
            projected = projected + self.feed(live.readout)
        states: list[tuple[Tensor, ...]] = []
        for i, (cell, state) in enumerate(zip(cast(Sequence[RecurrentCell], self.cells), live.layers, strict=True)):
            states.append(cell(projected if i == 0 else cell.input(self.dropout(states[-1][0])), state))
        return tuple(states)

    def read_out(self, hidden: Tensor, memory: RecurrentMemory) -> tuple[Tensor, Tensor]:
        """What decoder states (batch, steps, hidden) say after attending: (batch, steps, width), and their attention."""
        context, weights = self.attention(hidden, memory.keys, memory.values, memory.mask)
        return torch.tanh(self.readout(torch.cat([hidden, context], -1))), weights

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor, teacher_forcing: float = 1.0) -> Tensor:
        """What the output layer reads at each step: (batch, target_time, width).

        Args:
            source: (batch, source_time) ids.
            lengths: (batch,) of the sources.
            target: (batch, target_time) ids that the decoder is given, the first of them the start of a sentence.
            teacher_forcing: share of steps that are given the target's token; the others get the model's own likeliest one
                (scheduled sampling, Bengio et al., arXiv 1506.03099).
        """
        return self.decode(self.encode(source, lengths), target, teacher_forcing)

    def decode(self, memory: RecurrentMemory, target: Tensor, teacher_forcing: float = 1.0) -> Tensor:
        """`forward` behind the encoder."""
        live = self.start(memory)
        given = self.first_cell.input(
            self.dropout(self.embed(self.target_embedding, target))
        )  # (batch, time, gates * hidden)
        steps = given[:, :, None].unbind(1)  # each (batch, 1, gates * hidden); a slice would have a gradient of full size
        own = torch.rand(target.shape, device=target.device) >= teacher_forcing if teacher_forcing < 1 else None
        outputs: list[Tensor] = []
        for step, projected in enumerate(steps):
            if own is not None and step:
                guess = self.output(outputs[-1]).argmax(-1)  # (batch, 1)
                guessed = self.first_cell.input(self.dropout(self.embed(self.target_embedding, guess)))
                projected = torch.where(own[:, step, None, None], guessed, projected)
            states = self.next_states(projected, live)
            if self.feed is None and own is None:
                live, output = live._replace(layers=states), states[-1][0]
            else:
                output, _ = self.read_out(states[-1][0], memory)
                live = RecurrentState(states, output)
            outputs.append(output)
        result = torch.cat(outputs, 1)
        if self.feed is None and own is None:
            result, _ = self.read_out(result, memory)  # all steps attend at once
        return self.dropout(result)

    def advance(
        self, tokens: Tensor, live: RecurrentState, memory: RecurrentMemory
    ) -> tuple[Tensor, RecurrentState, Tensor]:
        """See `Translator.advance`."""
        states = self.next_states(self.first_cell.input(self.embed(self.target_embedding, tokens)), live)
        readout, weights = self.read_out(states[-1][0], memory)
        return readout, RecurrentState(states, readout), weights


def phases(time: int, width: int, device: torch.device | None = None) -> Tensor:
    """Angles of waves of geometric wavelengths at each position, in radians: (time, width / 2)."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    return torch.arange(time, device=device)[:, None] * rates


def sinusoids(time: int, width: int, device: torch.device | None = None) -> Tensor:
    """Positions to be added to embeddings: (time, width) (Vaswani et al., arXiv 1706.03762, section 3.5)."""
    angles = phases(time, width, device)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def turns(time: int, width: int, device: torch.device | None = None) -> Tensor:
    """Positions to turn queries and keys of `width` by: (time, width / 2), complex and of length 1; see `turn`."""
    angles = phases(time, width, device)
    return torch.polar(torch.ones_like(angles), angles)


def turn(x: Tensor, by: Tensor) -> Tensor:
    """Each pair of neighbours in (..., time, width) turned in its plane by `by`, as of `turns`.

    The product of a query and a key that are both turned depends on how far apart they are, and on where not at all
    (rotary embedding, Su et al., arXiv 2104.09864).
    """
    exact = x.to(torch.promote_types(x.dtype, torch.float32))  # there are no complex numbers of lower precision
    pairs = torch.view_as_complex(exact.unflatten(-1, (-1, 2)))  # (..., time, width / 2)
    return torch.view_as_real(pairs * by).flatten(-2)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(..., time, width) -> (..., heads, time, width / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def join_heads(x: Tensor) -> Tensor:
    """(..., heads, time, width / heads) -> (..., time, width)."""
    return x.transpose(-3, -2).flatten(-2)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention in several subspaces (Vaswani et al., arXiv 1706.03762, section 3.2).

    Keys and values come from `project`, so that a cache can hold them. The product is written out: on short sentences it is
    faster on a CPU than `F.scaled_dot_product_attention`, and the weights can be seen.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        for part in (*self.key_value.weight.chunk(2), self.query.weight):
            nn.init.xavier_uniform_(part.detach())
        nn.init.zeros_(self.out.weight)  # a layer begins by adding nothing, and the signal passes all of them unchanged
        for layer in (self.query, self.key_value, self.out):
            nn.init.zeros_(layer.bias)

    def project(self, x: Tensor, by: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values (..., heads, time, width / heads) of (..., time, width); keys are turned `by` what is given."""
        keys, values = (split_heads(part, self.heads) for part in self.key_value(x).chunk(2, -1))
        return keys if by is None else turn(keys, by), values

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, barred: Tensor | None = None, by: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attends from each position of `x`: softmax(Q K' / sqrt(d)) V, with d = width / heads.

        Args:
            x: (batch, queries, width).
            keys: (batch, heads, time, d), and `values` alike.
            barred: what is added to the scores, see `bar`; broadcast to (batch, heads, queries, time).
            by: what the queries are turned by, as the keys have been: (queries, d / 2), see `turns`.

        Returns:
            (batch, queries, width), and the weights (batch, heads, queries, time).
        """
        queries = split_heads(self.query(x), self.heads)
        if by is not None:
            queries = turn(queries, by)
        q, k, v = (part.flatten(0, 1) for part in (queries, keys, values))  # (batch * heads, queries or time, d)
        if barred is None:
            barred = q.new_zeros(1, 1, 1, 1)
        elif barred.shape[0] > 1:
            barred = barred.expand(-1, self.heads, -1, -1)
        scores = torch.baddbmm(barred.flatten(0, 1), q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
        weights = scores.softmax(-1)  # (batch * heads, queries, time)
        y = (weights.to(v.dtype) @ v).unflatten(0, queries.shape[:2])
        return self.out(join_heads(y)), weights.unflatten(0, queries.shape[:2])


class Residual(nn.Module):
    """x + dropout(f(norm(x))) if `pre_norm`, else norm(x + dropout(f(x))) (Xiong et al., arXiv 2002.04745)."""

    def __init__(self, width: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.pre_norm = pre_norm

    def before(self, x: Tensor) -> Tensor:
        """What the sublayer reads: (..., width)."""
        return self.norm(x) if self.pre_norm else x

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """The sublayer's result `y` added to `x`."""
        x = x + self.dropout(y)
        return x if self.pre_norm else self.norm(x)


class FeedForward(nn.Sequential):
    """Two linear layers with a ReLU between them, at each position on its own."""

    def __init__(self, width: int, inner: int) -> None:
        first, last = nn.Linear(width, inner), nn.Linear(inner, width)
        super().__init__(first, nn.ReLU(), last)
        nn.init.xavier_uniform_(first.weight)
        for parameter in (first.bias, last.weight, last.bias):  # adds nothing at first, as attention
            nn.init.zeros_(parameter)


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward network, each inside a residual connection."""

    def __init__(self, width: int, inner: int, heads: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(width, heads)
        self.feed_forward = FeedForward(width, inner)
        self.around_attention = Residual(width, dropout, pre_norm)
        self.around_feed_forward = Residual(width, dropout, pre_norm)

    def forward(self, x: Tensor, barred: Tensor, by: Tensor | None) -> Tensor:
        """All source positions at once.

        Args:
            x: (batch, time, width).
            barred: (batch, 1, 1, time), bars padding, see `bar`.
            by: (time, width / heads / 2), what queries and keys are turned by, if they are; see `turns`.
        """
        y = self.around_attention.before(x)
        x = self.around_attention.after(x, self.attention(y, *self.attention.project(y, by), barred, by)[0])
        return self.around_feed_forward.after(x, self.feed_forward(self.around_feed_forward.before(x)))


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the source, and a feed-forward network."""

    def __init__(self, width: int, inner: int, heads: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(width, heads)
        self.cross_attention = MultiHeadAttention(width, heads)
        self.feed_forward = FeedForward(width, inner)
        self.around_attention = Residual(width, dropout, pre_norm)
        self.around_cross_attention = Residual(width, dropout, pre_norm)
        self.around_feed_forward = Residual(width, dropout, pre_norm)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, barred: Tensor, causal: Tensor, by: Tensor | None) -> Tensor:
        """All target positions at once.

        Args:
            x: (batch, time, width).
            keys: (batch, heads, source_time, width / heads) of the source, and `values` alike.
            barred: (batch, 1, 1, source_time), bars the source's padding, see `bar`.
            causal: (1, 1, time, time), bars what is behind each position.
            by: as `EncoderLayer`'s, of the target's positions.
        """
        y = self.around_attention.before(x)
        x = self.around_attention.after(x, self.attention(y, *self.attention.project(y, by), causal, by)[0])
        x = self.around_cross_attention.after(
            x, self.cross_attention(self.around_cross_attention.before(x), keys, values, barred, by)[0]
        )
        return self.around_feed_forward.after(x, self.feed_forward(self.around_feed_forward.before(x)))

    def step(
        self,
        x: Tensor,
        cache: tuple[Tensor, Tensor],
        places: slice,
        others: Tensor,
        keys: Tensor,
        values: Tensor,
        barred: Tensor,
        by: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """One position for each hypothesis; the beams of a sentence are its queries, so nothing is repeated for them.

        Args:
            x: (batch, beams, width).
            cache: keys and values of the target, as in `TransformerState`; written in place.
            places: where the new ones go.
            others: (batch, 1, beams, room), bars the positions that are not a hypothesis's own.
            keys: of the source, as in `forward`, and `values` and `barred` alike.
            by: (1, width / heads / 2), as `EncoderLayer`'s, of this position.

        Returns:
            (batch, beams, width), and the attention to the source (batch, beams, source_time).
        """
        y = self.around_attention.before(x)
        for part, new in zip(cache, self.attention.project(y, by), strict=True):
            part[:, :, places] = new
        x = self.around_attention.after(x, self.attention(y, *cache, others, by)[0])
        y, weights = self.cross_attention(self.around_cross_attention.before(x), keys, values, barred, by)
        x = self.around_cross_attention.after(x, y)
        return self.around_feed_forward.after(x, self.feed_forward(self.around_feed_forward.before(x))), weights.mean(1)


class TransformerMemory(NamedTuple):
    """An encoded source."""

    layers: tuple[tuple[Tensor, Tensor], ...]  # each decoder layer's keys and values (batch, heads, time, width / heads)
    barred: Tensor  # (batch, 1, 1, time), bars padding, see `bar`


AHEAD = 4  # steps for which a cache makes room


class TransformerState(NamedTuple):
    """Where each hypothesis is: the beams of a sentence are a tree, whose positions are kept once and not once for each.

    So a hypothesis is moved, dropped or repeated by its row of `own` alone, and attention is one product for all beams.
    """

    caches: tuple[tuple[Tensor, Tensor], ...]  # each layer's keys and values (batch, heads, room, width / heads)
    own: Tensor  # (batch, beams, room) bool, true at the positions of a hypothesis
    used: int  # positions of the room that are taken, some of them by hypotheses of the past
    time: int  # positions of each hypothesis

    def map_hypotheses(self, change: Callable[[Tensor], Tensor]) -> TransformerState:
        """The state with its hypotheses changed."""
        return self._replace(own=change(self.own))

    def with_room(self, count: int) -> TransformerState:
        """The state with at least `count` free positions; for new ones the positions that nobody owns any more are left."""
        room = self.own.shape[2]
        if self.used + count <= room:
            return self
        owned = self.own.any(1)  # (batch, room)
        used, heads = int(owned.sum(1).max()) if room else 0, self.caches[0][0].shape[1]
        order = owned.byte().argsort(dim=1, descending=True, stable=True)[:, :used]  # (batch, used)
        wider = -(-(used + AHEAD * count) // 4) * 4  # a CPU's products are fast at multiples of 4

        rows = torch.arange(len(self.own) * heads, device=order.device).view(-1, heads, 1) * room + order[:, None]

        def move(cache: Tensor) -> Tensor:
            new = cache.new_zeros(*cache.shape[:2], wider, cache.shape[3])
            new[:, :, :used] = cache.flatten(0, 2).index_select(0, rows.flatten()).unflatten(0, rows.shape)
            return new

        own = self.own.new_zeros(*self.own.shape[:2], wider)
        own[:, :, :used] = self.own.gather(2, order[:, None].expand(-1, self.own.shape[1], -1))
        caches = tuple((move(keys), move(values)) for keys, values in self.caches)
        return TransformerState(caches, own, used, self.time)


class TransformerTranslator(Translator):
    """The Transformer (Vaswani et al., arXiv 1706.03762).

    Args:
        vocabularies: sizes of the source's and the target's vocabulary.
        width: size of every position's vector.
        inner: size of the feed-forward networks' inner layer.
        heads: of every attention; `width` is a multiple.
        layers: of the encoder and of the decoder.
        dropout: share set to zero, in training, of embeddings and of what each sublayer adds.
        pre_norm: whether layers normalise before (easier to train) or after (the paper's) each sublayer.
        positions: "sinusoidal" adds them to the embeddings (the paper's), "rotary" turns every attention's queries and keys
            by them (see `turn`), also towards the source, as a translation goes along it for the most part.
        word_dropout: share of tokens whose embedding is blanked.
        tie: which embeddings are one matrix, see `Translator`.
    """

    def __init__(
        self,
        vocabularies: tuple[int, int],
        width: int = 128,
        inner: int = 256,
        heads: int = 4,
        layers: int = 4,
        dropout: float = 0.3,
        pre_norm: bool = True,
        positions: str = "sinusoidal",
        word_dropout: float = 0.0,
        tie: str = "all",
    ) -> None:
        super().__init__(vocabularies, width, tie, word_dropout)
        self.rotary, self.head_width = positions == "rotary", width // heads
        options = (width, inner, heads, dropout, pre_norm)
        self.encoder = nn.ModuleList(EncoderLayer(*options) for _ in range(layers))
        self.decoder = nn.ModuleList(DecoderLayer(*options) for _ in range(layers))
        self.encoder_norm = nn.LayerNorm(width) if pre_norm else nn.Identity()
        self.decoder_norm = nn.LayerNorm(width) if pre_norm else nn.Identity()
        self.dropout = Dropout(dropout)

    @property
    def decoder_layers(self) -> Sequence[DecoderLayer]:
        """The decoder's layers, as what they are."""
        return cast(Sequence[DecoderLayer], self.decoder)

    def place(self, x: Tensor, where: slice) -> tuple[Tensor, Tensor | None]:
        """Puts embeddings (batch, time, width) `where` they stand: what the lowest layer reads, and every layer's `by`."""
        if self.rotary:
            return x, turns(where.stop, self.head_width, x.device)[where]
        return x + sinusoids(where.stop, x.shape[-1], x.device)[where], None

    def encode(self, source: Tensor, lengths: Tensor) -> TransformerMemory:
        """Reads (batch, time) ids of `lengths` (batch,)."""
        barred = bar(padding_mask(lengths, source.shape[1]))[:, None, None]
        x, by = self.place(self.embed(self.source_embedding, source), slice(source.shape[1]))
        x = self.dropout(x)
        for layer in self.encoder:
            x = layer(x, barred, by)
        x = self.encoder_norm(x)  # (batch, time, width)
        pairs = (layer.cross_attention.project(x, by) for layer in self.decoder_layers)
        if not self.training:  # every step of a search would copy them into this order for its products
            pairs = ((keys.contiguous(), values.contiguous()) for keys, values in pairs)
        return TransformerMemory(tuple(pairs), barred)

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """What the output layer reads at each step: (batch, target_time, width); arguments as `RecurrentTranslator`'s."""
        memory = self.encode(source, lengths)
        x, by = self.place(self.embed(self.target_embedding, target), slice(target.shape[1]))
        x = self.dropout(x)
        causal = bar(torch.ones(1, 1, target.shape[1], target.shape[1], dtype=torch.bool, device=target.device).tril())
        for layer, (keys, values) in zip(self.decoder_layers, memory.layers, strict=True):
            x = layer(x, keys, values, memory.barred, causal, by)
        return self.decoder_norm(x)

    def start(self, memory: TransformerMemory, beams: int = 1) -> TransformerState:
        """No position so far."""
        empty = tuple((keys[:, :, :0], values[:, :, :0]) for keys, values in memory.layers)
        own = torch.zeros(len(memory.barred), beams, 0, dtype=torch.bool, device=memory.barred.device)
        return TransformerState(empty, own, 0, 0)

    def advance(
        self, tokens: Tensor, live: TransformerState, memory: TransformerMemory
    ) -> tuple[Tensor, TransformerState, Tensor]:
        """See `Translator.advance`.

        The attention is that of the last layer but one, mean over heads: it aligns best (Garg et al., arXiv 1909.02074).
        """
        beams = tokens.shape[1]
        live = live.with_room(beams)
        places = slice(live.used, live.used + beams)
        live.own[:, :, places] = torch.eye(beams, dtype=torch.bool, device=tokens.device)
        x, by = self.place(
            self.embed(self.target_embedding, tokens), slice(live.time, live.time + 1)
        )  # (batch, beams, width)
        others, attentions = bar(live.own)[:, None], []
        for layer, cache, (keys, values) in zip(self.decoder_layers, live.caches, memory.layers, strict=True):
            x, weights = layer.step(x, cache, places, others, keys, values, memory.barred, by)
            attentions.append(weights)
        state = live._replace(used=places.stop, time=live.time + 1)
        return self.decoder_norm(x), state, attentions[max(0, len(attentions) - 2)]
