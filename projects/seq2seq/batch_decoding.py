"""Batched decoding: ids of sentences in any order, sorted by length into batches, decoded on all cores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from common.data.batches import pad_sequences
from common.errors import UserError
from common.nn.device import autocast_context
from common.nn.parallel import parallel_map
from projects.seq2seq.config import EOS, PAD, GenerationConfig, SamplingConfig
from projects.seq2seq.constraints import LENGTH_LIMIT, max_lengths
from projects.seq2seq.decoding import NOT_FINITE, DecodingInputs, SupportsTranslation, beam_search, sample
from projects.seq2seq.hypotheses import Hypothesis


def translate_ids(
    model: SupportsTranslation,
    sources: Sequence[Sequence[int]],
    config: GenerationConfig,
    device: torch.device,
    sampling: SamplingConfig | None = None,
    prefix: Sequence[int] = (),
    batch_size: int = 100,
    attention: bool = False,
    length_limit: tuple[float, float] = LENGTH_LIMIT,
    precision: str = "32-true",
) -> list[list[Hypothesis]]:
    """Hypotheses of each source, in the order of the sources; an empty source has one empty hypothesis.

    Long sentences come first, so that a batch that does not fit into memory fails at once.

    Args:
        model: Network in eval mode, on `device`.
        sources: Ids without EOS.
        config: Beam search and constraints.
        device: Where to compute.
        sampling: Samples in place of beam search.
        prefix: Forced prefix: ids that every translation starts with.
        batch_size: Sentences in a batch; on a CPU each core decodes a batch of its own (see `parallel_map`).
        attention: Whether to return attention weights.
        length_limit: Ratio and extra tokens of `max_lengths`; best the training data's.
        precision: `32-true`, or `bf16-mixed`: faster where the hardware has it, but hypotheses of nearly the same score
            may change places.

    Raises:
        UserError: The network's outputs are NaN.
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
                lengths = real.sum(1)  # on the CPU, where limits are checked and packing reads them
                memory = model.encode(ids.to(device, non_blocking=True), lengths)
                inputs = DecodingInputs(max_lengths(lengths, length_limit), [prefix] * len(batch), lengths, attention)
                if sampling is None:
                    found = beam_search(model, memory, config, inputs)
                else:
                    found = sample(model, memory, config, inputs, sampling, generator)
                if any(not hypotheses or math.isnan(hypotheses[0].score) for hypotheses in found):
                    raise UserError(NOT_FINITE)
                for i, hypotheses in zip(batch, found, strict=True):
                    results[i] = hypotheses

    if sampling is None:
        parallel_map(work, batches, device)
    else:
        work(batches)  # one after the other, as each continues with the generator's state
    return results
