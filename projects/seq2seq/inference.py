"""Sentences as ids in, hypotheses out: sorted into batches, searched with limits, and given back in their order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.data.batches import pad_sequences
from common.nn.device import autocast_context, parallel_map
from projects.seq2seq.search import EncoderDecoder, Hypothesis, SearchOptions, beam_search, sample
from projects.seq2seq.vocabulary import EOS, PAD


@dataclass(frozen=True)
class Sampling:
    """Draw instead of searching; see `search.sample`."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


LENGTH_LIMIT = 1.5, 12.0  # no training pair of Multi30k needs more, either way


def length_limits(lengths: Tensor, limit: tuple[float, float] = LENGTH_LIMIT) -> Tensor:
    """How long a translation may get: (batch,) source lengths -> (batch,) tokens, ratio * length + extra, rounded down.

    What is much longer than its source is a loop or an error. The search asks whether a live hypothesis could still win
    at this length, so that a tight limit saves steps.
    """
    return (lengths * limit[0] + limit[1]).long().clamp(min=1)


def translate_ids(
    net: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    options: SearchOptions,
    device: torch.device,
    sampling: Sampling | None = None,
    prefixes: Sequence[Sequence[int]] | None = None,
    batch_size: int = 100,
    attention: bool = False,
    limit: tuple[float, float] = LENGTH_LIMIT,
    precision: str = "32-true",
) -> list[list[Hypothesis]]:
    """The best hypotheses of each source, in the order of the sources.

    Long sentences come first, so that a batch that does not fit into memory fails at once. An empty source has one empty
    hypothesis.

    Args:
        net: in evaluation mode, on `device`.
        sources: ids without EOS.
        options: of the search.
        device: where to compute.
        sampling: if given, hypotheses are drawn.
        prefixes: ids that each translation has to begin with.
        batch_size: sentences searched at once; on a CPU by each core (see `common.device.parallel_map`).
        attention: whether to return it.
        limit: ratio and extra of `length_limits`; best the training data's.
        precision: `32-true`, the weights' own, or `bf16-mixed`: faster where the hardware has it, but hypotheses of nearly
            the same score may change places.
    """
    results: list[list[Hypothesis]] = [[Hypothesis([EOS], 0.0, 0.0, True, torch.zeros(1, 0))] for _ in sources]
    order = sorted((i for i, ids in enumerate(sources) if ids), key=lambda i: -len(sources[i]))
    generator = None if sampling is None else torch.Generator(device).manual_seed(sampling.seed)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    @torch.no_grad()
    def work(batches: Iterable[list[int]]) -> None:
        with autocast_context(precision, device):
            for batch in batches:
                ids, real = pad_sequences([[*sources[i], EOS] for i in batch], PAD, multiple=16)  # a CPU is faster at such
                lengths = real.sum(1).to(device)
                memory = net.encode(ids.to(device), lengths)
                common: dict[str, Any] = {
                    "limits": length_limits(lengths, limit),
                    "prefix": None if prefixes is None else [prefixes[i] for i in batch],
                    "source_lengths": lengths,
                    "attention": attention,
                }
                if sampling is None:
                    found = beam_search(net, memory, options, **common)
                else:
                    draw = (sampling.temperature, sampling.top_k, sampling.top_p)
                    found = sample(net, memory, options, *draw, generator, **common)
                for i, hypotheses in zip(batch, found, strict=True):
                    results[i] = hypotheses

    if sampling is None:
        parallel_map(work, batches, device)
    else:
        work(batches)  # one after the other, as each goes on with the random numbers
    return results
