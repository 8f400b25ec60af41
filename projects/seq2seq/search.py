"""From a network to sentences: beam search, greedy search and sampling, all one batched loop over a step function.

The loop knows a network by two functions (`Decoder`), so that a recurrent one and a Transformer with a key-value cache are
searched by the same lines. What it promises, and `tests/projects/seq2seq/test_search.py` proves: a sentence gets the same
answer alone and in any batch; a sentence is left only when no live hypothesis can still win, unless `early_stop` allows it;
scores are those that `transformers` ranks by, and with `early_stopping="never"` its `generate` finds the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from common.errors import UserError

Nest: TypeAlias = Any  # a tensor, None, a number, or a tuple, NamedTuple or list of nests
GROUP = 16  # tokens that `best_extensions` looks at together
Choice = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class Decoder(Protocol):
    """What can be searched.

    `memory` belongs to the sentences: tensors (batch, ...). `live` follows the hypotheses, for example a recurrent state or
    a key-value cache: tensors (batch, beams, ...), which may grow in a later dimension. The search drops sentences from
    both and reorders, drops and repeats the hypotheses of `live`: `batch` and `beams` may differ from step to step. What
    `step` returns as logits and `live` is the search's to write in. A part of `live` that keeps its hypotheses in another
    way than by rows of every tensor has a method `map_hypotheses(change)`, which returns it with `change` done to those
    that hold them.
    """

    def start(self, memory: Nest, beams: int) -> Nest:
        """`live` of `beams` hypotheses per sentence that have no token yet."""
        ...

    def step(self, tokens: Tensor, live: Nest, memory: Nest) -> tuple[Tensor, Nest, Tensor]:
        """Reads one more token of each hypothesis, first of all BOS: `tokens` (batch, beams) int64.

        Returns:
            Logits of the next token (batch, beams, vocabulary); the new `live`; attention (batch, beams, source_time).
        """
        ...


class EncoderDecoder(Decoder, Protocol):
    """A decoder that makes its own memory."""

    def encode(self, source: Tensor, lengths: Tensor) -> Nest:
        """`memory` of `source` (batch, source_time) int64, of which `lengths` (batch,) are not padding."""
        ...


@dataclass(frozen=True)
class SearchOptions:
    """What is searched for. A length is in tokens, EOS counted.

    Args:
        beam: hypotheses that are followed at a time; 1 is greedy search.
        length_penalty: p in score = log_probability / length ** p; above 0 it favours long sentences.
        coverage_penalty: weight of sum(log(min(attention that a source position got, 1))) in the score of a finished
            hypothesis, which is below 0 where the source is left unread (Wu et al. 2016, arXiv 1609.08144, eq. 14).
        n_best: hypotheses returned for a sentence, at most `beam`.
        min_length: no hypothesis ends before.
        max_length: a hypothesis that has not ended here is taken as it is.
        no_repeat_ngram: no sequence of so many tokens comes twice in a hypothesis; 0 allows all.
        early_stop: leave a sentence once it has `beam` complete hypotheses that are all ahead of its best live one at the
            length that this has now. Fewer steps, but under a length penalty above 0 a better one that is still to come may
            be missed. It is how `generate` of `transformers` stops unless told otherwise.
        bos: id that a hypothesis starts with; never produced.
        eos: id that ends a hypothesis.
        pad: id that is never produced.

    Raises:
        UserError: a value is out of range.
    """

    beam: int = 5
    length_penalty: float = 1.0
    coverage_penalty: float = 0.0
    n_best: int = 1
    min_length: int = 0
    max_length: int = 128
    no_repeat_ngram: int = 0
    early_stop: bool = False
    bos: int = 1
    eos: int = 2
    pad: int = 0

    def __post_init__(self) -> None:
        for name, least in [("beam", 1), ("n_best", 1), ("max_length", 1), ("no_repeat_ngram", 0), ("coverage_penalty", 0)]:
            if not getattr(self, name) >= least:
                raise UserError(f"{name} {getattr(self, name)}: choose at least {least}")
        if self.min_length > self.max_length:
            raise UserError(f"min_length {self.min_length} is more than max_length {self.max_length}: lower it")
        if self.eos in (self.bos, self.pad):
            raise UserError(f"eos {self.eos} is bos or pad as well, which are never produced: give it an id of its own")


@dataclass
class Hypothesis:
    """A sentence that was found.

    Args:
        tokens: its ids without BOS, a forced prefix included, EOS included if it was reached.
        score: what it is ranked by.
        log_probability: natural logarithm, the sum over `tokens`, as the network has it: whatever was blocked or drawn.
        finished: whether it ends in EOS; else it was cut at its limit.
        attention: (tokens, source positions without padding) what was attended to at each token, if it was asked for.
    """

    tokens: list[int]
    score: float
    log_probability: float
    finished: bool
    attention: Tensor | None = field(default=None, compare=False)


def beam_search(
    decoder: Decoder,
    memory: Nest,
    options: SearchOptions,
    limits: Tensor | None = None,
    prefix: Sequence[Sequence[int]] | None = None,
    source_lengths: Tensor | None = None,
    attention: bool = False,
) -> list[list[Hypothesis]]:
    """The `n_best` hypotheses of each sentence, best first; fewer only where there are no more.

    Each step extends the live hypotheses of a sentence by every token and takes the 2 * beam best of all. Of these, an end
    among the first `beam` completes a hypothesis, and the first `beam` that are no end live on. No hypothesis wins by
    ending early: a sentence goes on until the best live one could not beat the n_best-th complete one even if all its
    further tokens were certain. With a length penalty above 0 it is given the limit's length in that, so that tight
    `limits` save steps. (`early_stop` has it leave a sentence sooner.)

    Args:
        decoder: in evaluation mode.
        memory: of the sentences, as `decoder` takes it.
        options: what is searched for.
        limits: (batch,) int64, a `max_length` for each sentence; the lower of the two holds.
        prefix: for each sentence the ids that its hypotheses start with, whatever else is blocked; may be empty.
        source_lengths: (batch,) int64, the source positions that are not padding; without it none is.
        attention: whether to return it.

    Raises:
        UserError: `n_best` is above `beam`, or a limit or a prefix is not possible.
    """
    if options.n_best > options.beam:
        raise UserError(f"n_best {options.n_best} is more than beam {options.beam}: widen the beam")
    # beam 1 has no second candidate, so that nothing lives on beside an end: this is greedy search
    wanted = 2 * options.beam if options.beam > 1 else 1

    def choose(log_probs: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return best_extensions(log_probs, sums, wanted)

    # hypotheses without a token are all alike: one is enough to start with
    return search(decoder, memory, options, choose, 1, options.beam, limits, prefix, source_lengths, attention)


def sample(
    decoder: Decoder,
    memory: Nest,
    options: SearchOptions,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    limits: Tensor | None = None,
    prefix: Sequence[Sequence[int]] | None = None,
    source_lengths: Tensor | None = None,
    attention: bool = False,
) -> list[list[Hypothesis]]:
    """`n_best` independent draws from the network for each sentence, best score first; the same may come twice.

    Arguments not named here are those of `beam_search`; `beam` has no meaning.

    Args:
        temperature: divides the logits: below 1 likely tokens become likelier.
        top_k: draw among the so many likeliest tokens; 0 for all.
        top_p: draw among the fewest tokens whose probabilities reach this sum (nucleus sampling: Holtzman et al. 2020,
            arXiv 1904.09751); they are counted after temperature and `top_k`.
        generator: what is drawn from, on the network's device; the global one if None.

    Raises:
        UserError: a value is out of range.
    """
    if not (temperature > 0 and top_k >= 0 and 0 < top_p <= 1):
        raise UserError(f"temperature {temperature}, top_k {top_k}, top_p {top_p}: choose > 0, >= 0, and in (0, 1]")

    def choose(log_probs: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scaled, ids = log_probs / temperature, None  # (batch, draws, vocabulary)
        if top_k > 0 or top_p < 1:
            size = log_probs.shape[2]
            scaled, ids = scaled.topk(min(top_k or size, size))  # likeliest first
        probabilities = scaled.softmax(2)
        if top_p < 1:
            before = probabilities.cumsum(2) - probabilities
            probabilities = probabilities.masked_fill(before >= top_p, 0)
        drawn = probabilities.flatten(0, 1).multinomial(1, generator=generator).view(*sums.shape, 1)
        tokens = drawn if ids is None else ids.gather(2, drawn)
        sums = sums + log_probs.gather(2, tokens).squeeze(2)
        return sums, torch.arange(sums.shape[1], device=sums.device).expand_as(sums), tokens.squeeze(2)

    draws = options.n_best
    return search(decoder, memory, options, choose, draws, draws, limits, prefix, source_lengths, attention)


@torch.no_grad()
def search(
    decoder: Decoder,
    memory: Nest,
    options: SearchOptions,
    choose: Choice,
    first: int,
    beams: int,
    limits: Tensor | None,
    prefix: Sequence[Sequence[int]] | None,
    source_lengths: Tensor | None,
    attention: bool,
) -> list[list[Hypothesis]]:
    """The loop of `beam_search` and `sample`, which say by `choose` how hypotheses are extended.

    Args:
        choose: maps log-probabilities of the next token (batch, beams, vocabulary) and those of the hypotheses so far
            (batch, beams) to candidates: their log-probabilities, the hypotheses that they extend and the tokens that they
            add, each (batch, candidates). -inf is impossible.
        first: hypotheses of a sentence at the start.
        beams: hypotheses of a sentence that may live on.
    """
    batch, device = first_tensor(memory).shape[0], first_tensor(memory).device
    limits = torch.full((batch,), options.max_length) if limits is None else limits.clamp(max=options.max_length)
    if limits.shape != (batch,) or (limits < 1).any():
        raise UserError(f"limits: give each of {batch} sentences one, of at least 1 token")
    limits, forced = limits.long().to(device), prefix_table(prefix, limits, options).to(device)
    kept = beams if options.early_stop else options.n_best  # complete hypotheses, the best of a sentence
    trail, found = Trail(), torch.full((batch, kept), -1, device=device)  # these, by their last places

    memory = map_tensors(Tensor.clone, memory)  # written in when a sentence is done
    # what the sentences that are left have beside `memory`: their rows of `found`, and the scores of the best
    sentence, best_scores = torch.arange(batch, device=device), torch.full(found.shape, -math.inf, device=device)
    lengths = None if source_lengths is None else source_lengths.to(device, copy=True)
    # what hypotheses have beside `live`: last token, log-probability, last place in the trail, and where an option needs
    # them all tokens (batch, beams, length) and the attention that the source got (batch, beams, source_time)
    live, tokens = decoder.start(memory, first), torch.full((batch, first), options.bos, device=device)
    sums, ends = torch.zeros(tokens.shape, device=device), torch.full(tokens.shape, -1, device=device)
    history: Tensor | None = tokens.new_zeros((*tokens.shape, 0)) if options.no_repeat_ngram else None
    coverage: Tensor | None = None

    length = 0
    while len(sentence) > 0:
        length += 1
        logits, live, attended = decoder.step(tokens, live, memory)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # sums in bfloat16 would be too coarse
        # in place, as each number is written after its row was read: tens of megabytes that no other memory is needed for
        log_probs = torch.log_softmax(logits, 2, out=logits)  # (batch, beams, vocabulary)
        constrain(log_probs, length, options, history, forced)
        sums, parents, tokens = choose(log_probs, sums)  # (batch, candidates)

        scores = sums / length**options.length_penalty
        if options.coverage_penalty > 0:
            coverage = attended if coverage is None else coverage + attended
            scores = scores + options.coverage_penalty * log_coverage(coverage, lengths).gather(1, parents)
        ends = trail.add(tokens, ends.gather(1, parents), sums, scores)
        if attention:
            trail.attention.append(attended.take_along_dim(parents[:, :, None], 1).flatten(0, 1))

        ended = (tokens == options.eos) | (limits <= length)[:, None]
        complete = scores.masked_fill(~ended, -math.inf)[:, :beams]
        best_scores, order = torch.cat([best_scores, complete], 1).topk(kept)
        best = torch.cat([found[sentence], ends[:, :beams]], 1).gather(1, order)
        found[sentence] = best.masked_fill(best_scores == -math.inf, -1)

        sums, order = sums.masked_fill(ended, -math.inf).topk(min(beams, sums.shape[1]))  # (batch, beams)
        # if all further tokens were certain, the score would be highest at this length
        longest = limits.to(sums.dtype) if options.length_penalty > 0 else length + 1
        may_win = sums[:, 0] / longest**options.length_penalty > best_scores[:, options.n_best - 1]
        if options.early_stop:
            may_win &= sums[:, 0] / length**options.length_penalty > best_scores[:, -1]
        parents, tokens, ends = (x.gather(1, order) for x in (parents, tokens, ends))  # (batch, beams)
        take = functools.partial(take_hypotheses, parents=parents)
        live, history, coverage = map_tensors(take, (live, history, coverage), hypotheses=True)
        if not may_win.all():
            keep = functools.partial(keep_sentences, count=int(may_win.sum()), moves=fill_up(may_win))
            memory, limits, forced, lengths = map_tensors(keep, (memory, limits, forced, lengths))
            sentence, best_scores, sums, tokens, ends = map_tensors(keep, (sentence, best_scores, sums, tokens, ends))
            live, history, coverage = map_tensors(keep, (live, history, coverage))
        if history is not None:
            history = torch.cat([history, tokens[:, :, None]], 2)
    return trail.hypotheses(found[:, : options.n_best], options.eos, source_lengths)


def best_extensions(log_probs: Tensor, sums: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` best candidates of beam search, best first; arguments and results as those of `choose` in `search`.

    `(log_probs + sums[:, :, None]).flatten(1).topk(count)` finds the same but takes several times as long on a CPU. Here
    tokens are put in groups, and only the `count` groups of the greatest maxima are looked into: no other can hold one of
    the best.
    """
    size = log_probs.shape[2]
    groups = math.ceil(size / GROUP)  # token i is in group i % groups
    even = size - size % groups
    maxima = log_probs[:, :, :even].unflatten(2, (-1, groups)).amax(2)  # (batch, beams, groups)
    rest = maxima[:, :, : size - even]
    torch.maximum(rest, log_probs[:, :, even:], out=rest)

    maxima = (maxima + sums[:, :, None]).flatten(1)
    chosen = maxima.topk(min(count, maxima.shape[1])).indices[:, :, None]  # (batch, chosen, 1)
    parents, tokens = chosen // groups, chosen % groups + torch.arange(0, size, groups, device=sums.device)
    places = parents * size + tokens.clamp(max=size - 1)  # (batch, chosen, members)
    values = log_probs.flatten(1).gather(1, places.flatten(1)).view_as(places) + sums.gather(1, parents[:, :, 0])[:, :, None]
    values = values.masked_fill(tokens >= size, -math.inf).flatten(1)
    values, order = values.topk(min(count, values.shape[1]))  # (batch, candidates)
    places = places.flatten(1).gather(1, order)
    return values, places // size, places % size


class Trail:
    """All candidates of all steps, each with the place of the one it extends: a hypothesis is known by its last place."""

    def __init__(self) -> None:
        self.steps: list[tuple[Tensor, ...]] = []
        self.attention: list[Tensor] = []  # (candidates, source_time) of each step, or of none
        self.count = 0

    def add(self, tokens: Tensor, previous: Tensor, sums: Tensor, scores: Tensor) -> Tensor:
        """Notes a step's candidates, all (batch, candidates), and returns their places; `previous` are what they extend."""
        self.steps.append((tokens.flatten(), previous.flatten(), sums.flatten(), scores.flatten()))
        self.count += tokens.numel()
        return torch.arange(self.count - tokens.numel(), self.count, device=tokens.device).view_as(tokens)

    def hypotheses(self, ends: Tensor, eos: int, source_lengths: Tensor | None) -> list[list[Hypothesis]]:
        """Those that end at the places `ends` (batch, n_best); -1 is none."""
        if not self.steps:
            return []
        tokens, previous, sums, scores = (torch.cat(column).tolist() for column in zip(*self.steps, strict=True))
        attention = torch.cat(self.attention) if self.attention else None
        columns = [None] * len(ends) if source_lengths is None else source_lengths.tolist()

        def read(end: int, columns: int | None) -> Hypothesis:
            path = []
            place = end
            while place >= 0:
                path.append(place)
                place = previous[place]
            path.reverse()
            rows = None if attention is None else attention[path, :columns]
            return Hypothesis([tokens[place] for place in path], scores[end], sums[end], tokens[end] == eos, rows)

        return [[read(end, count) for end in row if end >= 0] for row, count in zip(ends.tolist(), columns, strict=True)]


def constrain(log_probs: Tensor, length: int, options: SearchOptions, history: Tensor | None, forced: Tensor) -> None:
    """Sets what may not come next to -inf, in place. Something is always left: EOS where all is blocked.

    Args:
        log_probs: (batch, beams, vocabulary) of token number `length`, counted from 1.
        length: of the hypotheses that it makes.
        options: what is blocked.
        history: (batch, beams, length - 1) the tokens before; None if no n-gram is blocked.
        forced: see `prefix_table`.
    """
    in_prefix = length <= forced.shape[1]
    if in_prefix:
        held = (forced[:, length - 1] >= 0).nonzero().squeeze(1)  # sentences
        must = forced[held, length - 1]
        kept = log_probs[held, :, must]  # (held, beams)
    log_probs[:, :, options.bos] = log_probs[:, :, options.pad] = -math.inf
    if history is not None:
        block_ngrams(log_probs, history, options.no_repeat_ngram)
    if length < options.min_length:
        end = log_probs[:, :, options.eos].clone()  # (batch, beams)
        log_probs[:, :, options.eos] = -math.inf
        log_probs[:, :, options.eos] = end.masked_fill(log_probs.amax(2) > -math.inf, -math.inf)
    if in_prefix:
        log_probs[held] = -math.inf
        log_probs[held, :, must] = kept


def block_ngrams(log_probs: Tensor, history: Tensor, size: int) -> None:
    """Sets tokens to -inf, in place, that would repeat an n-gram of `size` in their hypothesis.

    Args:
        log_probs: (batch, beams, vocabulary) of the next token.
        history: (batch, beams, length) the tokens before.
        size: n.
    """
    length = history.shape[2]
    if length >= size:
        ngrams = history.unfold(2, size, 1)  # (batch, beams, places, size)
        latest = history[:, :, None, length - size + 1 :]  # (batch, beams, 1, size - 1)
        i, j, k = (ngrams[..., :-1] == latest).all(3).nonzero(as_tuple=True)
        log_probs[i, j, ngrams[i, j, k, -1]] = -math.inf


def log_coverage(attention: Tensor, source_lengths: Tensor | None) -> Tensor:
    """(batch, beams) how much of the source is unread, 0 if none: eq. 14 of Wu et al. without its weight.

    Args:
        attention: (batch, beams, source_time) summed over the tokens of each hypothesis.
        source_lengths: (batch,) positions that are not padding; None for all.
    """
    # no attention at all is -inf, and would make all such hypotheses alike
    logs = attention.clamp(torch.finfo(attention.dtype).tiny, 1).log()
    if source_lengths is not None:
        padding = torch.arange(attention.shape[2], device=attention.device) >= source_lengths[:, None, None]
        logs = logs.masked_fill(padding, 0)
    return logs.sum(2)


def prefix_table(prefix: Sequence[Sequence[int]] | None, limits: Tensor, options: SearchOptions) -> Tensor:
    """(batch, longest) the ids that the hypotheses of a sentence start with, then -1.

    Raises:
        UserError: there are more or fewer prefixes than `limits`, or one is longer than its limit or holds a special id.
    """
    rows = [[] for _ in limits] if prefix is None else prefix
    if len(rows) != len(limits):
        raise UserError(f"{len(rows)} prefixes for {len(limits)} sentences: give each one, which may be empty")
    table = torch.full((len(rows), max(map(len, rows), default=0)), -1)
    for i, (row, limit) in enumerate(zip(rows, limits.tolist(), strict=True)):
        if len(row) > limit:
            raise UserError(
                f"prefix {i} has {len(row)} tokens and its limit is {limit}: raise the limit or shorten the prefix"
            )
        if {options.bos, options.eos, options.pad} & set(row):
            raise UserError(f"prefix {i} holds the id of bos, eos or pad: give the tokens of the text alone")
        table[i, : len(row)] = torch.tensor(row)
    return table


class Ensemble:
    """Several networks of one vocabulary as one: the mean of their probabilities, and of their attention.

    Args:
        members: each an `EncoderDecoder`, in evaluation mode.

    Raises:
        UserError: there is none.
    """

    def __init__(self, members: Sequence[EncoderDecoder]) -> None:
        if not members:
            raise UserError("an ensemble of no network: give at least one")
        self.members = members

    def encode(self, source: Tensor, lengths: Tensor) -> Nest:
        """One memory for each network; its arguments are those of `EncoderDecoder.encode`."""
        return tuple(member.encode(source, lengths) for member in self.members)

    def start(self, memory: Nest, beams: int) -> Nest:
        """See `Decoder.start`."""
        return tuple(member.start(part, beams) for member, part in zip(self.members, memory, strict=True))

    def step(self, tokens: Tensor, live: Nest, memory: Nest) -> tuple[Tensor, Nest, Tensor]:
        """See `Decoder.step`; the logits are log-probabilities."""
        steps = [member.step(tokens, *parts) for member, *parts in zip(self.members, live, memory, strict=True)]
        logits, states, attention = zip(*steps, strict=True)
        summed = functools.reduce(torch.logaddexp, (x.log_softmax(2) for x in logits))
        return summed - math.log(len(steps)), states, torch.stack(attention).mean(0)


def fill_up(kept: Tensor) -> Tensor:
    """(2, count) moves of the last of the `kept` (batch,) bool sentences to the places of those not kept before them."""
    left = kept.nonzero().squeeze(1)
    return torch.stack([(~kept[: len(left)]).nonzero().squeeze(1), left[left >= len(left)]])


def take_hypotheses(tensor: Tensor, parents: Tensor) -> Tensor:
    """The hypotheses `parents` (batch, beams) of a tensor (batch, any other number, ...)."""
    rows = torch.arange(len(tensor), device=tensor.device)[:, None] * tensor.shape[1] + parents
    return tensor.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)


def keep_sentences(tensor: Tensor, count: int, moves: Tensor) -> Tensor:
    """The first `count` sentences after the `moves`, in place: to copy all would cost more than the step."""
    tensor[moves[0]] = tensor.index_select(0, moves[1])
    return tensor[:count]


def map_tensors(change: Callable[[Tensor], Tensor], nest: Nest, hypotheses: bool = False) -> Nest:
    """The same nest with each tensor as `change` returns it.

    Where `change` is one of `hypotheses`, a nest with a method `map_hypotheses` is asked for it.
    """
    if isinstance(nest, Tensor):
        return change(nest)
    if nest is None or isinstance(nest, int):
        return nest
    if hypotheses and hasattr(nest, "map_hypotheses"):
        return nest.map_hypotheses(change)
    parts = [map_tensors(change, part, hypotheses) for part in nest]
    return type(nest)(*parts) if hasattr(nest, "_fields") else type(nest)(parts)  # a NamedTuple has fields


def first_tensor(nest: Nest) -> Tensor:
    """Any tensor of `memory`; they agree on batch and device."""
    return nest if isinstance(nest, Tensor) else first_tensor(nest[0])
