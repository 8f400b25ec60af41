"""Recurrent encoder-decoder with attention: bidirectional LSTM or GRU encoder, attentional decoder with input feeding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from common.nn.dropout import Dropout
from projects.seq2seq.attention import Attention
from projects.seq2seq.config import RecurrentConfig, TieWordEmbeddings
from projects.seq2seq.networks import Seq2SeqModel, padding_mask

NUM_GATES = {"lstm": 4, "gru": 3}


class RecurrentCell(nn.Module):
    """LSTM cell (Hochreiter and Schmidhuber, 1997) or GRU cell (Cho et al., arXiv 1406.1078).

    Equal to `nn.LSTMCell` and `nn.GRUCell`, but its input is already multiplied by `self.ih`: a sequence's inputs are known
    beforehand, and one large product is much faster than one small product per step.

    Args:
        kind: "lstm" or "gru".
        input_dim: Dimension of the input.
        hidden_dim: Dimension of the hidden state.
    """

    def __init__(self, kind: str, input_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.kind = kind
        self.ih = nn.Linear(input_dim, NUM_GATES[kind] * hidden_dim)
        self.hh = nn.Linear(hidden_dim, NUM_GATES[kind] * hidden_dim)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden_dim**-0.5), hidden_dim**-0.5)
        if kind == "lstm":
            with torch.no_grad():
                self.ih.bias[hidden_dim : 2 * hidden_dim] += 1  # the forget gate starts open: gradients reach far back

    def forward(self, projected: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One step.

        Args:
            projected: `self.ih` of the input: (..., gates * hidden_dim).
            state: Hidden state h and, of an LSTM, cell state c: (..., hidden_dim) each.

        Returns:
            The new state, as `state`.
        """
        h, recurrent = state[0], self.hh(state[0])
        if self.kind == "gru":
            (r_x, z_x, n_x), (r_h, z_h, n_h) = projected.chunk(3, -1), recurrent.chunk(3, -1)
            r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)  # reset and update gate
            n = torch.tanh(n_x + r * n_h)
            return (n + z * (h - n),)
        i, f, g, o = (projected + recurrent).chunk(4, -1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class RecurrentMemory(NamedTuple):
    """Encoded sources."""

    keys: Tensor  # (batch, time, hidden_dim)
    values: Tensor  # (batch, time, hidden_dim), the encoder's states
    mask: Tensor  # (batch, time) bool, true at tokens
    init_hidden: Tensor  # (batch, hidden_dim), the decoder's initial hidden state


class RecurrentState(NamedTuple):
    """Decoder state."""

    layers: tuple[tuple[Tensor, ...], ...]  # each layer's h and, of an LSTM, c: (batch, beams, hidden_dim)
    attn_hidden: Tensor  # (batch, beams, embed_dim), the last attentional hidden state


class RecurrentModel(Seq2SeqModel):
    """Recurrent encoder-decoder with attention (Luong et al., arXiv 1508.04025).

    Args:
        vocab_sizes: Sizes of the source and the target vocabulary.
        config: Options of the network.
        tie: Weight tying, see `Seq2SeqModel`.
    """

    def __init__(self, vocab_sizes: tuple[int, int], config: RecurrentConfig, tie: TieWordEmbeddings = "all") -> None:
        c, embed_dim, hidden_dim = config, config.embed_dim, config.hidden_dim
        super().__init__(vocab_sizes, embed_dim, tie)
        recurrent = nn.LSTM if c.cell == "lstm" else nn.GRU
        dropout = c.dropout if c.num_layers > 1 else 0.0  # between layers
        self.encoder = recurrent(
            embed_dim, hidden_dim // 2, c.num_layers, batch_first=True, bidirectional=True, dropout=dropout
        )
        self.bridge = nn.Linear(hidden_dim, hidden_dim)
        self.cells = nn.ModuleList(
            RecurrentCell(c.cell, embed_dim if layer == 0 else hidden_dim, hidden_dim) for layer in range(c.num_layers)
        )
        feed_dim = NUM_GATES[c.cell] * hidden_dim
        self.input_feed = nn.Linear(embed_dim, feed_dim, bias=False) if c.input_feeding else None
        self.attention = Attention(c.attention, hidden_dim, hidden_dim)
        self.attn_projection = nn.Linear(2 * hidden_dim, embed_dim)
        self.dropout = Dropout(c.dropout)

    def encode(self, source: Tensor, lengths: Tensor) -> RecurrentMemory:
        """Encodes (batch, time) ids of `lengths` (batch,), best on the CPU: packing reads them there.

        Packed: the backward direction starts at the last word. Sorted here: torch would have the host wait for the device.
        """
        sorted_lengths, order = lengths.cpu().sort(descending=True)
        index, inverse = (part.to(source.device, non_blocking=True) for part in (order, order.argsort()))
        lengths = lengths.to(source.device, non_blocking=True)
        x = self.dropout(self.embed(self.source_embedding, source))  # (batch, time, embed_dim)
        packed = pack_padded_sequence(x.index_select(0, index), sorted_lengths, batch_first=True)
        values, _ = pad_packed_sequence(self.encoder(packed)[0], batch_first=True, total_length=source.shape[1])
        values = self.dropout(values.index_select(0, inverse))  # (batch, time, hidden_dim)
        mask = padding_mask(lengths, source.shape[1])
        mean = (values * mask[:, :, None]).sum(1) / lengths[:, None]  # (batch, hidden_dim)
        return RecurrentMemory(self.attention.key(values), values, mask, torch.tanh(self.bridge(mean)))

    def init_state(self, memory: RecurrentMemory, beams: int = 1) -> RecurrentState:
        """Decoder state of `beams` hypotheses per sentence before the first token."""
        h = memory.init_hidden[:, None].expand(-1, beams, -1)  # (batch, beams, hidden_dim)
        layer = (h, torch.zeros_like(h)) if isinstance(self.encoder, nn.LSTM) else (h,)
        attn_hidden = h.new_zeros(len(h), beams, self.attn_projection.out_features)
        return RecurrentState(tuple(layer for _ in self.cells), attn_hidden)

    def project_inputs(self, tokens: Tensor) -> Tensor:
        """Lowest cell's `ih` of the embeddings of (batch, time) target ids: (batch, time, gates * hidden_dim)."""
        return cast(RecurrentCell, self.cells[0]).ih(self.dropout(self.embed(self.target_embedding, tokens)))

    def step_cells(self, projected: Tensor, state: RecurrentState) -> tuple[tuple[Tensor, ...], ...]:
        """New states of all layers; `projected` (batch, beams, gates * hidden_dim) is the lowest cell's projected input."""
        if self.input_feed is not None:
            projected = projected + self.input_feed(state.attn_hidden)
        layers: list[tuple[Tensor, ...]] = []
        for i, (cell, layer) in enumerate(zip(cast(Sequence[RecurrentCell], self.cells), state.layers, strict=True)):
            layers.append(cell(projected if i == 0 else cell.ih(self.dropout(layers[-1][0])), layer))
        return tuple(layers)

    def attend(self, h: Tensor, memory: RecurrentMemory) -> tuple[Tensor, Tensor]:
        """Attentional hidden state tanh(W [h; context]) of (batch, steps, hidden_dim), and the attention weights."""
        context, weights = self.attention(h, memory.keys, memory.values, memory.mask)
        return torch.tanh(self.attn_projection(torch.cat([h, context], -1))), weights

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor, teacher_forcing: float = 1.0) -> Tensor:
        """Output layer's input at each target position: (batch, target_time, embed_dim).

        Args:
            source: (batch, source_time) ids.
            lengths: (batch,) lengths of the sources.
            target: (batch, target_time) ids of the decoder's inputs, BOS first.
            teacher_forcing: Fraction of steps whose input is the target token; of the others it is the model's own greedy
                prediction (scheduled sampling, Bengio et al., arXiv 1506.03099).
        """
        return self.decode(self.encode(source, lengths), target, teacher_forcing)

    def decode(self, memory: RecurrentMemory, target: Tensor, teacher_forcing: float = 1.0) -> Tensor:
        """Decoder part of `forward`. All that does not depend on the step is computed for all steps at once."""
        state = self.init_state(memory)
        projected_steps = self.project_inputs(target)[:, :, None].unbind(1)  # a slice would have a gradient of full size
        use_own = torch.rand(target.shape, device=target.device) >= teacher_forcing if teacher_forcing < 1 else None
        attend_at_once = self.input_feed is None and use_own is None
        outputs: list[Tensor] = []
        for step, projected in enumerate(projected_steps):  # (batch, 1, gates * hidden_dim)
            if use_own is not None and step:
                prediction = self.output_layer(outputs[-1]).argmax(-1)  # (batch, 1)
                projected = torch.where(use_own[:, step, None, None], self.project_inputs(prediction), projected)
            layers = self.step_cells(projected, state)
            output = layers[-1][0] if attend_at_once else self.attend(layers[-1][0], memory)[0]
            state = RecurrentState(layers, state.attn_hidden if attend_at_once else output)
            outputs.append(output)
        result = torch.cat(outputs, 1)
        return self.dropout(self.attend(result, memory)[0] if attend_at_once else result)

    def decode_hidden(
        self, tokens: Tensor, state: RecurrentState, memory: RecurrentMemory
    ) -> tuple[Tensor, RecurrentState, Tensor]:
        """See `Seq2SeqModel.decode_hidden`."""
        layers = self.step_cells(self.project_inputs(tokens), state)
        attn_hidden, weights = self.attend(layers[-1][0], memory)
        return attn_hidden, RecurrentState(layers, attn_hidden), weights
