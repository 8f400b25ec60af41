"""Hypotheses of a search: their backpointers, and how sentences and hypotheses move inside a nest of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from projects.seq2seq.config import EOS

Nest: TypeAlias = Any  # a tensor, None, a number, or a tuple, NamedTuple or list of nests


@dataclass
class Hypothesis:
    """Hypothesis of a search: a translation with its score.

    Args:
        tokens: Ids without BOS, a forced prefix included, EOS included if it was reached.
        score: Log probability / length ** length_penalty.
        log_probability: Natural logarithm, the sum over `tokens`, by the network alone: whatever was blocked or sampled.
        finished: Whether it ends in EOS; else it was cut at the maximum length.
        attention: Attention weights of each token, (tokens, source positions without padding), if asked for.
    """

    tokens: list[int]
    score: float
    log_probability: float
    finished: bool
    attention: Tensor | None = field(default=None, compare=False)


class Backpointers:
    """Candidates of all steps, each with a pointer to the one it extends: a hypothesis is its last candidate's index."""

    def __init__(self) -> None:
        self.steps: list[tuple[Tensor, ...]] = []
        self.attention: list[Tensor] = []  # (candidates, source_time) of each step, if asked for
        self.count = 0

    def add(self, tokens: Tensor, previous: Tensor, sums: Tensor, scores: Tensor) -> Tensor:
        """Adds the candidates of a step and returns their indices; all (batch, candidates)."""
        self.steps.append((tokens.flatten(), previous.flatten(), sums.flatten(), scores.flatten()))
        self.count += tokens.numel()
        return torch.arange(self.count - tokens.numel(), self.count, device=tokens.device).view_as(tokens)

    def hypotheses(self, ends: Tensor, source_lengths: Tensor | None) -> list[list[Hypothesis]]:
        """Hypotheses that end at the candidates `ends` (batch, num_return_sequences); -1 is none."""
        if not self.steps:
            return []
        columns = [torch.cat(column) for column in zip(*self.steps, strict=True)]
        tokens, previous = torch.stack(columns[:2]).tolist()
        sums, scores = torch.stack(columns[2:]).tolist()
        attention = torch.cat(self.attention) if self.attention else None
        lengths = [None] * len(ends) if source_lengths is None else source_lengths.tolist()

        def trace_back(end: int, source_length: int | None) -> Hypothesis:
            path, index = [], end
            while index >= 0:
                path.append(index)
                index = previous[index]
            path.reverse()
            rows = None if attention is None else attention[path, :source_length]
            return Hypothesis([tokens[i] for i in path], scores[end], sums[end], tokens[end] == EOS, rows)

        return [[trace_back(end, n) for end in row if end >= 0] for row, n in zip(ends.tolist(), lengths, strict=True)]


def take_hypotheses(tensor: Tensor, parents: Tensor) -> Tensor:
    """Rows `parents` (batch, beams) of a tensor (batch, previous beams, ...)."""
    rows = torch.arange(len(tensor), device=tensor.device)[:, None] * tensor.shape[1] + parents
    return tensor.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)


def compaction_moves(kept: Tensor) -> Tensor:
    """Moves (2, count), to and from, of the last of the `kept` (batch,) bool sentences into the gaps before them."""
    left = kept.nonzero().squeeze(1)
    return torch.stack([(~kept[: len(left)]).nonzero().squeeze(1), left[left >= len(left)]])


def keep_sentences(tensor: Tensor, count: int, moves: Tensor) -> Tensor:
    """First `count` sentences after the `moves`, in place: copying all would cost more than a decoding step."""
    tensor[moves[0]] = tensor.index_select(0, moves[1])
    return tensor[:count]


def map_tensors(function: Callable[[Tensor], Tensor], nest: Nest, hypotheses: bool = False) -> Nest:
    """The nest with `function` applied to each tensor.

    With `hypotheses`, a part that has a method `map_hypotheses` applies it itself.
    """
    if isinstance(nest, Tensor):
        return function(nest)
    if nest is None or isinstance(nest, int):
        return nest
    if hypotheses and hasattr(nest, "map_hypotheses"):
        return nest.map_hypotheses(function)
    parts = [map_tensors(function, part, hypotheses) for part in nest]
    return type(nest)(*parts) if hasattr(nest, "_fields") else type(nest)(parts)  # a NamedTuple has fields


def first_tensor(nest: Nest) -> Tensor:
    """Any tensor of the nest; all of a memory agree in batch size and device."""
    return nest if isinstance(nest, Tensor) else first_tensor(nest[0])
