"""Translators of torch's parts, with the faults that people make: the known answers to exercise tiny_translator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def translator(fault: str) -> type:
    """The translator of torch's parts, with one of the known faults."""

    class Translator(nn.Module):
        """Translator whose layers are torch's."""

        def __init__(
            self, source_size: int, target_size: int, dim: int, heads: int, hidden: int, layers: int, dropout: float = 0.0
        ) -> None:
            super().__init__()
            options: dict[str, Any] = {"dropout": dropout, "batch_first": True, "norm_first": True}
            self.words = nn.ModuleList(nn.Embedding(size, dim) for size in (source_size, target_size))
            encoder = [nn.TransformerEncoderLayer(dim, heads, hidden, **options) for _ in range(layers)]
            decoder = [nn.TransformerDecoderLayer(dim, heads, hidden, **options) for _ in range(layers)]
            self.encoder = encoder if fault == "plain_list" else nn.ModuleList(encoder)
            self.decoder = decoder if fault == "plain_list" else nn.ModuleList(decoder)
            if fault == "one_encoder_layer":
                self.encoder = nn.ModuleList(encoder[:1] * layers)
            if fault == "one_decoder_layer":
                self.decoder = nn.ModuleList(decoder[:1])
            self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
            self.head = nn.Linear(dim, target_size)

        def embed(self, number: int, tokens: Tensor, restart: bool = False) -> Tensor:
            x = self.words[number](tokens)
            if fault == "no_positions":
                return x
            positions = torch.arange(1 if restart else tokens.shape[1])[:, None]
            angles = positions / 10000 ** (torch.arange(0, x.shape[2], 2) / x.shape[2])
            return x + torch.stack([angles.sin(), angles.cos()], -1).flatten(1)

        def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
            x, hidden = self.embed(0, source), source == 0
            for layer in self.encoder:
                x = layer(x, src_key_padding_mask=None if fault == "encoder_sees" else hidden)
            return self.norms[0](x), hidden

        def decode(self, target: Tensor, memory: tuple[Tensor, Tensor], restart: bool = False) -> Tensor:
            x, future = self.embed(1, target, restart), torch.ones(target.shape[1], target.shape[1]).triu(1).bool()
            hidden = None if fault == "decoder_sees" else memory[1]
            for layer in self.decoder:
                x = layer(x, memory[0], tgt_mask=future, memory_key_padding_mask=hidden)
            return self.head(self.norms[1](x))

        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            return self.decode(target, self.encode(source))

        def step(self, prefixes: Tensor, memory: tuple[Tensor, Tensor]) -> Tensor:
            prefixes = prefixes[:, -1:] if fault == "last_alone" else prefixes
            return self.decode(prefixes, memory, restart=fault == "restarts")[:, -1]

        @torch.no_grad()
        def translate(self, source: Tensor, max_length: int) -> list[list[int]]:
            return search(self, source, max_length, fault)

    return Translator


def search(model: Any, source: Tensor, max_length: int, fault: str) -> list[list[int]]:
    """Greedy search with one of the known faults."""
    modes = [(part, part.training) for part in model.modules()]
    mode = model.training
    model.train(mode and fault == "drops_out")
    memory, tokens = model.encode(source), torch.full((len(source), 1), 2)
    for _ in range(max_length):
        best = model.step(tokens, memory).argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, best], 1)
        if fault == "first_ends" and (best == 3).any():
            break
    model.train(mode and fault != "left_in_eval")
    for part, before in modes if not fault else []:
        part.training = before
    rows = [row[1:] for row in tokens.tolist()]
    if fault == "goes_on":
        return rows
    return [row[: row.index(3) + (fault == "keeps_eos")] if 3 in row else row for row in rows]


def fit_with(fault: str) -> Any:
    """Training with one of the known faults."""

    def fit(model: nn.Module, source: Tensor, target: Tensor, steps: int, lr: float) -> list[float]:
        model.train(fault != "eval_mode" or model.training)
        inputs, labels = target[:, 1:] if fault == "copies" else target[:, :-1], target[:, 1:]
        optimizer, values = torch.optim.Adam(model.parameters(), lr=lr), []
        for _ in range(steps):
            if fault != "kept":
                optimizer.zero_grad()
            chosen = torch.ones_like(labels, dtype=torch.bool) if fault == "counts" else labels != 0
            loss = nn.functional.cross_entropy(model(source, inputs)[chosen], labels[chosen])
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        return values

    return fit
