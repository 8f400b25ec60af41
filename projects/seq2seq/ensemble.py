"""Ensemble decoding: several networks of one vocabulary as one, by the mean of their next-token probabilities."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from projects.seq2seq.decoding import SupportsTranslation
from projects.seq2seq.hypotheses import Nest


class Ensemble:
    """Ensemble of networks: the mean of their probabilities, and of their attention weights.

    Args:
        members: At least one network, in eval mode.
    """

    def __init__(self, members: Sequence[SupportsTranslation]) -> None:
        self.members = members

    def encode(self, source: Tensor, lengths: Tensor) -> Nest:
        """Memories of all members."""
        return tuple(member.encode(source, lengths) for member in self.members)

    def init_state(self, memory: Nest, beams: int) -> Nest:
        """States of all members."""
        return tuple(member.init_state(part, beams) for member, part in zip(self.members, memory, strict=True))

    def decode_step(self, tokens: Tensor, state: Nest, memory: Nest) -> tuple[Tensor, Nest, Tensor]:
        """See `SupportsDecoding.decode_step`; the logits are log probabilities."""
        steps = [member.decode_step(tokens, *parts) for member, *parts in zip(self.members, state, memory, strict=True)]
        logits, states, attention = zip(*steps, strict=True)
        total = functools.reduce(torch.logaddexp, (x.log_softmax(2) for x in logits))
        return total - math.log(len(steps)), states, torch.stack(attention).mean(0)
