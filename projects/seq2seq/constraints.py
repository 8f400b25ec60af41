"""Decoding constraints: minimum length, n-gram blocking, forced prefix, and maximum lengths from the sources' lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from common.errors import UserError
from projects.seq2seq.config import BOS, EOS, PAD, GenerationConfig

LENGTH_LIMIT = 1.5, 12.0  # ratio and extra tokens; no training pair of Multi30k needs more, either way


def max_lengths(source_lengths: Tensor, limit: tuple[float, float] = LENGTH_LIMIT) -> Tensor:
    """Maximum length of each translation: (batch,) source lengths -> ratio * length + extra, rounded down.

    What is much longer than its source is a loop or an error. A search asks whether an unfinished hypothesis could still
    win at this length, so a tight limit saves steps.
    """
    return (source_lengths * limit[0] + limit[1]).long().clamp(min=1)


def apply_constraints(
    log_probs: Tensor, length: int, config: GenerationConfig, history: Tensor | None, forced: Tensor
) -> None:
    """Sets forbidden next tokens to -inf, in place. Something always remains: EOS where all else is blocked.

    Args:
        log_probs: (batch, beams, vocabulary) of token number `length`, counted from 1.
        length: Length of the hypotheses that the token makes.
        config: Minimum length and size of blocked n-grams.
        history: Tokens so far, (batch, beams, length - 1); None if no n-gram is blocked.
        forced: Forced prefixes, see `prefix_table`.
    """
    in_prefix = length <= forced.shape[1]
    if in_prefix:
        rows = (forced[:, length - 1] >= 0).nonzero().squeeze(1)  # sentences whose prefix is this long
        prefix_tokens = forced[rows, length - 1]
        prefix_log_probs = log_probs[rows, :, prefix_tokens]  # (sentences, beams)
    log_probs[:, :, BOS] = log_probs[:, :, PAD] = -math.inf
    if history is not None:
        block_ngrams(log_probs, history, config.no_repeat_ngram_size)
    if length < config.min_length:
        end = log_probs[:, :, EOS].clone()  # (batch, beams)
        log_probs[:, :, EOS] = -math.inf
        log_probs[:, :, EOS] = end.masked_fill(log_probs.amax(2) > -math.inf, -math.inf)
    if in_prefix:
        log_probs[rows] = -math.inf
        log_probs[rows, :, prefix_tokens] = prefix_log_probs


def block_ngrams(log_probs: Tensor, history: Tensor, size: int) -> None:
    """n-gram blocking: sets tokens to -inf, in place, that would repeat an n-gram of their hypothesis.

    Args:
        log_probs: (batch, beams, vocabulary) of the next token.
        history: (batch, beams, length) tokens so far.
        size: n.
    """
    length = history.shape[2]
    if length >= size:
        ngrams = history.unfold(2, size, 1)  # (batch, beams, positions, size)
        latest = history[:, :, None, length - size + 1 :]  # (batch, beams, 1, size - 1)
        i, j, k = (ngrams[..., :-1] == latest).all(3).nonzero(as_tuple=True)
        log_probs[i, j, ngrams[i, j, k, -1]] = -math.inf


def check_limits(limits: Tensor | None, batch: int, max_length: int) -> Tensor:
    """Maximum length of each sentence, (batch,) int64 on the CPU or where `limits` are. Raises UserError for a bad one."""
    limits = torch.full((batch,), max_length) if limits is None else limits.clamp(max=max_length)
    if limits.shape != (batch,) or (limits < 1).any():
        raise UserError(f"limits: give each of {batch} sentences one, of at least 1 token")
    return limits.long()


def prefix_table(prefix: Sequence[Sequence[int]] | None, limits: Tensor) -> Tensor:
    """Forced prefixes as a table: (batch, longest) ids, then -1.

    Raises:
        UserError: The number of prefixes is not that of `limits`, or one is longer than its limit or has a special token.
    """
    rows = [[] for _ in limits] if prefix is None else prefix
    if len(rows) != len(limits):
        raise UserError(f"{len(rows)} prefixes for {len(limits)} sentences: give each one, which may be empty")
    table = torch.full((len(rows), max(map(len, rows), default=0)), -1)
    for i, (row, limit) in enumerate(zip(rows, limits.tolist(), strict=True)):
        if len(row) > limit:
            limits_of = "--max_length or what the length of the source allows"
            raise UserError(f"--prefix: {len(row)} tokens for sentence {i + 1}, but {limits_of} is {limit}; shorten it")
        if {BOS, EOS, PAD} & set(row):
            raise UserError(f"prefix {i} holds the id of bos, eos or pad: give the tokens of the text alone")
        table[i, : len(row)] = torch.tensor(row)
    return table
