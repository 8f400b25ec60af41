"""Decoding: beam search, greedy search and sampling, all by one batched loop over a network's decoding step.

The loop knows a network by two methods (`SupportsDecoding`), so that a recurrent one and a Transformer with a key-value
cache are searched by the same lines. Tested promises: a sentence has the same translations alone and in any batch; it
is left only when no unfinished hypothesis can still win, unless `early_stopping` allows it; scores are those of
`transformers`, and with `early_stopping="never"` its `generate` finds the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from common.errors import UserError
from projects.seq2seq.config import BOS, EOS, GenerationConfig, SamplingConfig
from projects.seq2seq.constraints import apply_constraints, check_limits, prefix_table
from projects.seq2seq.hypotheses import (
    Backpointers,
    Hypothesis,
    Nest,
    compaction_moves,
    first_tensor,
    keep_sentences,
    map_tensors,
    take_hypotheses,
)

NOT_FINITE = "no translation: the network's outputs are not finite; lower the learning rate"
GROUP_SIZE = 16  # tokens that `best_extensions` compares by their maximum first


class SupportsDecoding(Protocol):
    """Network with a decoding step, as `Seq2SeqModel`.

    `memory` belongs to the sentences: tensors (batch, ...). `state` belongs to the hypotheses, for example a recurrent state
    or a key-value cache: tensors (batch, beams, ...), which may grow in a later dimension. A search drops sentences from
    both and reorders, drops and repeats the hypotheses of `state`: `batch` and `beams` may differ from step to step. It
    writes into the logits and the state that `decode_step` returns. A part of `state` that does not hold its hypotheses as
    rows of every tensor has a method `map_hypotheses(function)`, which applies the function to the tensors that do.
    """

    def init_state(self, memory: Nest, beams: int) -> Nest: ...

    def decode_step(self, tokens: Tensor, state: Nest, memory: Nest) -> tuple[Tensor, Nest, Tensor]: ...


class SupportsTranslation(SupportsDecoding, Protocol):
    """Network with an encoder and a decoding step."""

    def encode(self, source: Tensor, lengths: Tensor) -> Nest: ...


@dataclass(frozen=True)
class DecodingInputs:
    """Per-call inputs of decoding, beside its configuration.

    Args:
        limits: Maximum length of each sentence, (batch,) int64; None or more than `max_length` for `max_length`.
        prefix: Forced prefix: the ids that each sentence's hypotheses start with, whatever else is blocked; may be empty.
        source_lengths: Source positions that are not padding, (batch,) int64; None for all.
        attention: Whether to return attention weights.
    """

    limits: Tensor | None = None
    prefix: Sequence[Sequence[int]] | None = None
    source_lengths: Tensor | None = None
    attention: bool = False


# maps log probabilities of the next token (batch, beams, vocabulary) and of the hypotheses so far (batch, beams) to
# candidates: log probabilities, hypotheses they extend, and tokens, (batch, candidates) each; -inf is impossible
Extend = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def beam_search(
    model: SupportsDecoding, memory: Nest, config: GenerationConfig, inputs: DecodingInputs = DecodingInputs()
) -> list[list[Hypothesis]]:
    """Beam search: the `num_return_sequences` best hypotheses of each sentence, best first; fewer if there are no more.

    Each step extends the unfinished hypotheses of a sentence by every token and takes the 2 * num_beams best. Of these, an
    EOS among the first `num_beams` finishes a hypothesis, and the first `num_beams` without EOS continue. No hypothesis
    wins by ending early: a sentence goes on until the best unfinished one could not beat the last one to be returned even
    if all its further tokens were certain. With a length penalty above 0 that is asked at the maximum length, so that
    tight `limits` save steps. (See `early_stopping`.)

    Raises:
        UserError: `num_return_sequences` is above `num_beams`, or a limit or a prefix is not possible.
    """
    if config.num_return_sequences > config.num_beams:
        raise UserError(f"--num_return_sequences {config.num_return_sequences}: more than --num_beams {config.num_beams}")
    # one beam has no second candidate, so that nothing continues beside an EOS: this is greedy search
    count = 2 * config.num_beams if config.num_beams > 1 else 1

    def extend(log_probs: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return best_extensions(log_probs, sums, count)

    # hypotheses without a token are all alike: one is enough to start with
    return decode(model, memory, config, extend, 1, config.num_beams, inputs)


def sample(
    model: SupportsDecoding,
    memory: Nest,
    config: GenerationConfig,
    inputs: DecodingInputs = DecodingInputs(),
    sampling: SamplingConfig = SamplingConfig(),
    generator: torch.Generator | None = None,
) -> list[list[Hypothesis]]:
    """Sampling: `num_return_sequences` independent samples per sentence, best score first; `num_beams` has no meaning.

    The random generator is on the network's device, or None for the global one. Raises UserError for a value out of range.
    """
    temperature, top_k, top_p = sampling.temperature, sampling.top_k, sampling.top_p
    if not (1e-6 <= temperature < math.inf and top_k >= 0 and 0 < top_p <= 1):
        values = f"--temperature {temperature}, --top_k {top_k}, --top_p {top_p}"
        raise UserError(f"{values}: choose >= 1e-6, >= 0, and in (0, 1]")

    def extend(log_probs: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scaled, ids = log_probs / temperature, None  # (batch, samples, vocabulary)
        if top_k > 0 or top_p < 1:
            size = log_probs.shape[2]
            scaled, ids = scaled.topk(min(top_k or size, size))  # most probable first
        probabilities = scaled.softmax(2)
        if probabilities.isnan().any():
            raise UserError(NOT_FINITE)
        if top_p < 1:
            before = probabilities.cumsum(2) - probabilities
            probabilities = probabilities.masked_fill(before >= top_p, 0)
        sampled = probabilities.flatten(0, 1).multinomial(1, generator=generator).view(*sums.shape, 1)
        tokens = sampled if ids is None else ids.gather(2, sampled)
        sums = sums + log_probs.gather(2, tokens).squeeze(2)
        return sums, torch.arange(sums.shape[1], device=sums.device).expand_as(sums), tokens.squeeze(2)

    return decode(model, memory, config, extend, config.num_return_sequences, config.num_return_sequences, inputs)


@torch.no_grad()
def decode(
    model: SupportsDecoding,
    memory: Nest,
    config: GenerationConfig,
    extend: Extend,
    num_initial: int,
    num_beams: int,
    inputs: DecodingInputs,
) -> list[list[Hypothesis]]:
    """Decoding loop of `beam_search` and `sample`: `num_initial` hypotheses at the start, at most `num_beams` later."""
    batch, device = first_tensor(memory).shape[0], first_tensor(memory).device
    limits = check_limits(inputs.limits, batch, config.max_length)
    forced = prefix_table(inputs.prefix, limits).to(device, non_blocking=True)
    limits = limits.to(device, non_blocking=True)
    num_finished = num_beams if config.early_stopping == "heuristic" else config.num_return_sequences

    # of all sentences: the finished hypotheses, by their last candidates
    backpointers, finished = Backpointers(), torch.full((batch, num_finished), -1, device=device)
    # of sentences not done: their rows of `finished`, scores of these, memory (a copy, as it is compacted in place)
    sentence, finished_scores = torch.arange(batch, device=device), torch.full(finished.shape, -math.inf, device=device)
    memory = map_tensors(Tensor.clone, memory)
    # of unfinished hypotheses: decoder state, last token, log probability, last candidate, all tokens if an option asks
    state, tokens = model.init_state(memory, num_initial), torch.full((batch, num_initial), BOS, device=device)
    sums, ends = torch.zeros(tokens.shape, device=device), torch.full(tokens.shape, -1, device=device)
    history = tokens.new_zeros((*tokens.shape, 0)) if config.no_repeat_ngram_size else None

    length = 0
    while len(sentence) > 0:
        length += 1
        logits, state, attention = model.decode_step(tokens, state, memory)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # sums in bfloat16 would be too coarse
        # in place, as each number is written after its row was read: tens of megabytes that are not needed twice
        log_probs = torch.log_softmax(logits, 2, out=logits)  # (batch, beams, vocabulary)
        apply_constraints(log_probs, length, config, history, forced)
        sums, parents, tokens = extend(log_probs, sums)  # (batch, candidates)
        scores = sums / length**config.length_penalty
        ends = backpointers.add(tokens, ends.gather(1, parents), sums, scores)
        if inputs.attention:
            backpointers.attention.append(attention.take_along_dim(parents[:, :, None], 1).flatten(0, 1))

        is_end = (tokens == EOS) | (limits <= length)[:, None]
        end_scores = scores.masked_fill(~is_end, -math.inf)[:, :num_beams]
        finished_scores, order = torch.cat([finished_scores, end_scores], 1).topk(num_finished)
        best = torch.cat([finished[sentence], ends[:, :num_beams]], 1).gather(1, order)
        finished[sentence] = best.masked_fill(finished_scores == -math.inf, -1)

        sums, order = sums.masked_fill(is_end, -math.inf).topk(min(num_beams, sums.shape[1]))  # (batch, beams)
        parents, tokens, ends = (x.gather(1, order) for x in (parents, tokens, ends))  # (batch, beams)
        take = functools.partial(take_hypotheses, parents=parents)
        state, history = map_tensors(take, (state, history), hypotheses=True)
        unfinished = may_still_win(sums[:, 0], finished_scores, length, limits, config).cpu()  # all that the host reads
        if not unfinished.all():
            moves = compaction_moves(unfinished).to(device, non_blocking=True)
            keep = functools.partial(keep_sentences, count=int(unfinished.sum()), moves=moves)
            memory, limits, forced, sentence, finished_scores, sums, tokens, ends, state, history = map_tensors(
                keep, (memory, limits, forced, sentence, finished_scores, sums, tokens, ends, state, history)
            )
        if history is not None:
            history = torch.cat([history, tokens[:, :, None]], 2)
    return backpointers.hypotheses(finished[:, : config.num_return_sequences], inputs.source_lengths)


def may_still_win(best: Tensor, finished_scores: Tensor, length: int, limits: Tensor, config: GenerationConfig) -> Tensor:
    """Stopping criterion: whether a sentence's best unfinished hypothesis may still be among those to be returned.

    Args:
        best: Log probability of the best unfinished hypothesis, (batch,).
        finished_scores: Scores of the finished hypotheses, best first, (batch, finished).
        length: Present length of the unfinished hypotheses.
        limits: Maximum lengths, (batch,).
        config: See `GenerationConfig`.
    """
    # if all further tokens were certain, the score would be highest at this length
    best_length = limits.to(best.dtype) if config.length_penalty > 0 else length + 1
    wins = best / best_length**config.length_penalty > finished_scores[:, config.num_return_sequences - 1]
    if config.early_stopping == "heuristic":
        wins &= best / length**config.length_penalty > finished_scores[:, -1]
    return wins


def best_extensions(log_probs: Tensor, sums: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Beam search candidates: the `count` best extensions, best first; see `Extend`.

    `(log_probs + sums[:, :, None]).flatten(1).topk(count)` finds the same but takes several times as long on a CPU. Here
    tokens are grouped, and only the `count` groups with the greatest maxima are searched: no other can hold one of the best.
    """
    size = log_probs.shape[2]
    groups = math.ceil(size / GROUP_SIZE)  # token i is in group i % groups
    even = size - size % groups
    maxima = log_probs[:, :, :even].unflatten(2, (-1, groups)).amax(2)  # (batch, beams, groups)
    rest = maxima[:, :, : size - even]
    torch.maximum(rest, log_probs[:, :, even:], out=rest)

    maxima = (maxima + sums[:, :, None]).flatten(1)
    chosen = maxima.topk(min(count, maxima.shape[1])).indices[:, :, None]  # (batch, chosen, 1)
    parents, tokens = chosen // groups, chosen % groups + torch.arange(0, size, groups, device=sums.device)
    index = parents * size + tokens.clamp(max=size - 1)  # (batch, chosen, group members)
    values = log_probs.flatten(1).gather(1, index.flatten(1)).view_as(index) + sums.gather(1, parents[:, :, 0])[:, :, None]
    values = values.masked_fill(tokens >= size, -math.inf).flatten(1)
    values, order = values.topk(min(count, values.shape[1]))  # (batch, candidates)
    index = index.flatten(1).gather(1, order)
    return values, index // size, index % size
