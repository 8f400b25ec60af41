"""The search is right: held against searches that are too slow to be wrong, hand-made tables, and `transformers`."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import nn

from common.errors import UserError
from projects.seq2seq.search import (
    Ensemble,
    SearchOptions,
    beam_search,
    best_extensions,
    fill_up,
    keep_sentences,
    sample,
)

PAD, BOS, EOS, A, B, C = range(6)
PENALTIES = [-1.0, 0.0, 0.6, 1.0, 2.0]


# networks in float64: each can go step by step, and compute all steps of given tokens from scratch


class Tiny(nn.Module):
    """Embeddings, an encoder of one layer, and a read-out whose logits are far apart and depend on the source."""

    def __init__(self, seed, vocabulary=9, width=8, eos=0.0):
        super().__init__()
        torch.manual_seed(seed)
        self.source, self.target = nn.Embedding(20, width), nn.Embedding(vocabulary, width)
        self.mix = nn.Linear(width, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(3 * width, vocabulary)
        self.double().requires_grad_(False)
        self.out.weight *= 4
        self.out.bias[EOS] += eos

    def encode(self, source, lengths):
        mask = torch.arange(source.shape[1]) < lengths[:, None]
        states = self.source(source) * mask[:, :, None]
        states = torch.tanh(self.mix(states + states.sum(1, keepdim=True)))
        return states, mask

    def read_out(self, state, embedded, memory):
        """(batch, positions, width) twice -> logits, attention"""
        states, mask = memory
        weights = (2 * state @ states.transpose(1, 2)).masked_fill(~mask[:, None], -math.inf).softmax(2)
        return self.out(torch.cat([state, embedded, weights @ states], 2)), weights


class Attentive(Tiny):
    """One layer of causal self-attention; `live` is its cache of keys and values."""

    def from_scratch(self, tokens, memory):
        x = self.target(tokens)  # (batch, time, width)
        weights = 3 * self.query(x) @ self.key(x).transpose(1, 2)
        future = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
        state = torch.tanh(weights.masked_fill(future, -math.inf).softmax(2) @ self.value(x))
        return self.read_out(state, x, memory)

    def start(self, memory, beams):
        empty = torch.zeros(len(memory[0]), beams, 0, self.mix.in_features, dtype=torch.float64)
        return empty, empty

    def step(self, tokens, live, memory):
        x = self.target(tokens)  # (batch, beams, width)
        keys = torch.cat([live[0], self.key(x)[:, :, None]], 2)
        values = torch.cat([live[1], self.value(x)[:, :, None]], 2)
        weights = (3 * self.query(x)[:, :, None] @ keys.transpose(2, 3)).softmax(3)
        logits, attention = self.read_out(torch.tanh((weights @ values).squeeze(2)), x, memory)
        return logits, (keys, values), attention


class Recurrent(Tiny):
    """A simple recurrent network; `live` is its state."""

    def from_scratch(self, tokens, memory):
        state, outputs = torch.zeros(len(tokens), self.mix.in_features, dtype=torch.float64), []
        for token in tokens.T:
            state = torch.tanh(2 * self.key(state) + self.value(self.target(token)))
            outputs.append(state)
        return self.read_out(torch.stack(outputs, 1), self.target(tokens), memory)

    def start(self, memory, beams):
        return [torch.zeros(len(memory[0]), beams, self.mix.in_features, dtype=torch.float64)]

    def step(self, tokens, live, memory):
        state = torch.tanh(2 * self.key(live[0]) + self.value(self.target(tokens)))
        logits, attention = self.read_out(state, self.target(tokens), memory)
        return logits, [state], attention


class FromScratch:
    """Steps of a network that remembers no more than the tokens."""

    def __init__(self, net):
        self.net = net

    def start(self, memory, beams):
        return torch.zeros(len(memory[0]), beams, 0, dtype=torch.int64)

    def step(self, tokens, live, memory):
        history = torch.cat([live, tokens[:, :, None]], 2)
        results = [self.net.from_scratch(history[:, beam], memory) for beam in range(tokens.shape[1])]
        logits, attention = (torch.stack([x[:, -1] for x in column], 1) for column in zip(*results, strict=True))
        return logits, history, attention


class Table:
    """The next token follows from the last alone: rows of {token: probability}, and of attention."""

    def __init__(self, rows, attention=None):
        self.logits = torch.full((6, 6), -math.inf, dtype=torch.float64)
        self.logits[:, EOS] = 0.0  # of rows not given: what is impossible is stepped as well
        for last, row in rows.items():
            self.logits[last] = -math.inf
            for token, probability in row.items():
                self.logits[last, token] = math.log(probability)
        self.attention = torch.full((6, 2), 0.5, dtype=torch.float64)
        for last, row in (attention or {}).items():
            self.attention[last] = torch.tensor(row)

    def start(self, memory, beams):
        return ()

    def step(self, tokens, live, memory):
        return self.logits[tokens], (), self.attention[tokens]


class Pair(NamedTuple):
    left: object
    right: object


class Watched:
    """Another decoder, and what was asked of it."""

    def __init__(self, decoder):
        self.decoder, self.start, self.tokens = decoder, decoder.start, []

    def step(self, tokens, live, memory):
        self.tokens.append(tokens)
        return self.decoder.step(tokens, live, memory)


NOTHING = (torch.zeros(1, 2),)  # memory of one sentence for a Table
NETS = [Attentive, Recurrent]


def sources(count=5, seed=0, longest=7):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator)
    source = torch.randint(3, 20, (count, longest), generator=generator)
    return source.masked_fill(torch.arange(longest) >= lengths[:, None], PAD)[:, : lengths.max()], lengths


def row(memory, i):
    return tuple(part[i : i + 1] for part in memory)


# searches that are too slow to be wrong: one hypothesis at a time, computed from scratch


class Scorer:
    """log p(next token | tokens) of one sentence as a list, remembered."""

    def __init__(self, net, memory, blocked=(PAD, BOS)):
        self.net, self.memory, self.blocked, self.known = net, memory, blocked, {}

    def __call__(self, tokens):
        if tokens not in self.known:
            logits, _ = self.net.from_scratch(torch.tensor([[BOS, *tokens]]), self.memory)
            self.known[tokens] = logits[0, -1].log_softmax(0).tolist()
        return self.known[tokens]

    def following(self, tokens):
        return [(token, p) for token, p in enumerate(self(tokens)) if token not in self.blocked]


def naive_greedy(scorer, limit):
    tokens = ()
    while len(tokens) < limit and tokens[-1:] != (EOS,):
        tokens += (max(scorer.following(tokens), key=lambda pair: pair[1])[0],)
    return list(tokens)


def brute_force(scorer, limit, penalty):
    """(score, tokens) of everything that can be said, best first."""
    found, live = [], [(0.0, ())]
    for length in range(1, limit + 1):
        longer = [(s + p, (*tokens, token)) for s, tokens in live for token, p in scorer.following(tokens)]
        ends = [(s, tokens) for s, tokens in longer if tokens[-1] == EOS or length == limit]
        found += [(s / length**penalty, list(tokens)) for s, tokens in ends]
        live = [(s, tokens) for s, tokens in longer if tokens[-1] != EOS]
    return sorted(found, reverse=True)


def naive_beam(scorer, beam, limit, penalty, n_best):
    """(score, tokens), best first, of a search that goes on to the limit; and the step after which it could have stopped."""
    found, live, enough = [], [(0.0, ())], None
    for length in range(1, limit + 1):
        longer = [(s + p, (*tokens, token)) for s, tokens in live for token, p in scorer.following(tokens)]
        longer = sorted(longer, reverse=True)[: 2 * beam]
        ends = [(s, tokens) for s, tokens in longer[:beam] if tokens[-1] == EOS or length == limit]
        found = sorted(found + [(s / length**penalty, list(tokens)) for s, tokens in ends], reverse=True)
        live = [(s, tokens) for s, tokens in longer if tokens[-1] != EOS][:beam]
        reachable = [live[0][0] / further**penalty for further in range(length + 1, limit + 1)]
        if enough is None and (not reachable or (len(found) >= n_best and max(reachable) <= found[n_best - 1][0])):
            enough = length
    return found[:n_best], enough


def words(answers):
    return [[h.tokens for h in hypotheses] for hypotheses in answers]


def scores(answers):
    return torch.tensor([h.score for hypotheses in answers for h in hypotheses], dtype=torch.float64)


def same(answers, others):
    assert words(answers) == words(others)
    assert torch.allclose(scores(answers), scores(others), rtol=1e-12, atol=0)


# the proof


@pytest.mark.parametrize("kind", NETS)
def test_beam_1_is_greedy_search_ends_included(kind):
    lengths = set()
    for seed in range(6):
        net = kind(seed, eos=1.0)
        source = sources(seed=seed)
        memory = net.encode(*source)
        answers = beam_search(net, memory, SearchOptions(beam=1, max_length=12))
        for i, [hypothesis] in enumerate(answers):
            assert hypothesis.tokens == naive_greedy(Scorer(net, row(memory, i)), 12)
            assert hypothesis.finished == (hypothesis.tokens[-1] == EOS)
            lengths.add(len(hypothesis.tokens))
    assert 12 in lengths and len(lengths) > 3, "both ended and cut ones have to be among them"


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("kind", NETS)
def test_beam_as_wide_as_all_prefixes_is_brute_force(kind, penalty):
    net = kind(1, vocabulary=6)
    memory = net.encode(*sources(3))
    answers = beam_search(net, memory, SearchOptions(beam=3**5, n_best=20, length_penalty=penalty, max_length=5))
    for i, hypotheses in enumerate(answers):
        expected = brute_force(Scorer(net, row(memory, i)), 5, penalty)[:20]
        assert [h.tokens for h in hypotheses] == [tokens for _, tokens in expected]
        assert [h.score for h in hypotheses] == pytest.approx([s for s, _ in expected], rel=1e-12)


@pytest.mark.parametrize("n_best", [1, 3])
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("kind", NETS)
def test_it_stops_exactly_when_no_live_hypothesis_can_still_win(kind, penalty, n_best):
    """The answer is that of a search that never stops early, and no step is made that could not change it."""
    limit, steps_saved = 12, 0
    for seed in range(4):
        net = kind(seed, eos=2.0)
        memory = net.encode(*sources(2, seed))
        options = SearchOptions(beam=3, n_best=n_best, length_penalty=penalty, max_length=limit)
        for i in range(2):
            watched = Watched(net)
            [hypotheses] = beam_search(watched, row(memory, i), options)
            expected, enough = naive_beam(Scorer(net, row(memory, i)), 3, limit, penalty, n_best)
            assert [h.tokens for h in hypotheses] == [tokens for _, tokens in expected]
            assert [h.score for h in hypotheses] == pytest.approx([s for s, _ in expected], rel=1e-12)
            assert len(watched.tokens) == enough
            steps_saved += limit - enough
    assert steps_saved > 0 or penalty == 2.0, "a poor test: it never stopped early"


def test_a_hypothesis_that_ends_early_is_beaten_later():
    table = Table({BOS: {EOS: 0.6, A: 0.4}, A: {A: 0.9, EOS: 0.1}})
    for length in (2, 7):  # log(0.4 * 0.9 * ...) / length passes log(0.6) only after some tokens
        [[best]] = beam_search(table, NOTHING, SearchOptions(beam=2, max_length=length))
        assert best.tokens == ([EOS] if length == 2 else [A] * 7)
    [[best]] = beam_search(table, NOTHING, SearchOptions(beam=2, max_length=7, length_penalty=0.0))
    assert best.tokens == [EOS]


@pytest.mark.parametrize("kind", NETS)
def test_score_and_attention_are_those_of_teacher_forcing(kind):
    net = kind(2, eos=1.0)
    source, lengths = sources()
    memory = net.encode(source, lengths)
    options = SearchOptions(
        beam=4, n_best=4, length_penalty=0.7, coverage_penalty=0.3, min_length=3, max_length=9, no_repeat_ngram=2
    )
    wanted = {"source_lengths": lengths, "attention": True}
    generator = torch.Generator().manual_seed(0)
    for answers in (
        beam_search(net, memory, options, prefix=[[], [4], [5, 5, 5, 5], [], [7]], **wanted),
        sample(net, memory, options, temperature=2.0, top_k=6, top_p=0.9, generator=generator, **wanted),
    ):
        for i, hypotheses in enumerate(answers):
            for h in hypotheses:
                logits, attention = net.from_scratch(torch.tensor([[BOS, *h.tokens[:-1]]]), row(memory, i))
                each = logits[0].log_softmax(1).gather(1, torch.tensor(h.tokens)[:, None])
                attention = attention[0, :, : lengths[i]]  # (tokens, source_time)
                penalty = 0.3 * attention.sum(0).clamp(max=1).log().sum()
                assert h.log_probability == pytest.approx(each.sum().item(), rel=1e-12)
                assert h.score == pytest.approx((each.sum() / len(h.tokens) ** 0.7 + penalty).item(), rel=1e-12)
                assert torch.allclose(h.attention, attention)


@pytest.mark.parametrize("kind", NETS)
def test_a_sentence_gets_the_same_answer_alone_batched_permuted_and_padded(kind):
    net = kind(3, eos=1.0)
    source, lengths = sources(8)
    limits = lengths + 4
    prefix = [[], [A], [], [B, C], [A, A], [], [], [C]]
    options = SearchOptions(beam=3, n_best=2, coverage_penalty=0.4, no_repeat_ngram=2, min_length=3)

    def answers(order, padding=0):
        some = nn.functional.pad(source[order], (0, padding))
        memory = net.encode(some, lengths[order])
        return beam_search(net, memory, options, limits[order], [prefix[i] for i in order], lengths[order], attention=True)

    everyone = list(range(8))
    together = answers(everyone)
    same([answers([i])[0] for i in everyone], together)
    same(answers(everyone, padding=5), together)
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    same(answers(order), [together[i] for i in order])
    for i, hypotheses in enumerate(together):
        [alone] = answers([i], padding=2)
        for h, other in zip(hypotheses, alone, strict=True):
            assert h.attention.shape == (len(h.tokens), lengths[i])
            assert torch.allclose(h.attention, other.attention)


def test_finished_sentences_leave_the_batch_and_finished_hypotheses_the_beam():
    table = Table({BOS: {EOS: 0.5, A: 0.3, B: 0.2}, A: {EOS: 0.5, A: 0.5}, B: {B: 1.0}})
    watched = Watched(table)
    limits = torch.tensor([2, 6, 1, 4])
    options = SearchOptions(beam=2, n_best=2)
    answers = beam_search(watched, (torch.zeros(4, 2),), options, limits)
    assert [tuple(tokens.shape) for tokens in watched.tokens] == [(4, 1), (3, 2), (2, 2), (2, 2), (1, 2), (1, 2)]
    assert not any((tokens == EOS).any() for tokens in watched.tokens)
    assert [max(map(len, of_sentence)) for of_sentence in words(answers)] == [2, 6, 1, 4]


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("kind", NETS)
def test_n_best_is_full_distinct_sorted_and_does_not_change_the_best(kind, penalty):
    net = kind(4, eos=1.0)
    memory = net.encode(*sources())
    best = {n: beam_search(net, memory, SearchOptions(n_best=n, length_penalty=penalty, max_length=9)) for n in (1, 2, 5)}
    for n, answers in best.items():
        for i, hypotheses in enumerate(answers):
            assert len(hypotheses) == n == len({tuple(h.tokens) for h in hypotheses})
            assert hypotheses == sorted(hypotheses, key=lambda h: -h.score)
            assert hypotheses[0] == best[1][i][0]
            assert all(h.finished == (h.tokens[-1] == EOS) for h in hypotheses)
            assert not any({PAD, BOS} & set(h.tokens) or EOS in h.tokens[:-1] for h in hypotheses)


def test_fewer_than_n_best_only_where_there_are_no_more():
    table = Table({BOS: {A: 0.5, B: 0.5}, A: {EOS: 1.0}, B: {EOS: 1.0}})
    [hypotheses] = beam_search(table, NOTHING, SearchOptions(n_best=5))
    assert sorted(h.tokens for h in hypotheses) == [[A, EOS], [B, EOS]]


@pytest.mark.parametrize("beam", [1, 4])
def test_cached_is_uncached(beam):
    for seed in range(3):
        net = Attentive(seed, eos=1.0)
        memory = net.encode(*sources(seed=seed))
        options = SearchOptions(beam=beam, n_best=beam, max_length=10)
        cached, uncached = (beam_search(decoder, memory, options, attention=True) for decoder in (net, FromScratch(net)))
        same(cached, uncached)
        for i, hypotheses in enumerate(cached):
            for h in hypotheses:
                _, expected = net.from_scratch(torch.tensor([[BOS, *h.tokens[:-1]]]), row(memory, i))
                assert torch.allclose(h.attention, expected[0]), "the rows are those of this hypothesis"


def test_nests_of_any_kind_and_no_sentence():
    net = Recurrent(0)
    source, lengths = sources(3)
    assert beam_search(net, net.encode(source[:0], lengths[:0]), SearchOptions()) == []

    class Wrapped:
        def start(self, memory, beams):
            return Pair(net.start(memory.left, beams), (None, ()))

        def step(self, tokens, live, memory):
            logits, state, attention = net.step(tokens, live.left, memory.left)
            return logits, live._replace(left=state), attention

    memory = net.encode(source, lengths)
    options = SearchOptions(max_length=8)
    same(beam_search(Wrapped(), Pair(memory, None), options), beam_search(net, memory, options))


def test_a_network_of_nan_ends_the_search():
    table = Table({})
    table.logits[:] = math.nan
    for beam in (1, 3):
        [hypotheses] = beam_search(table, NOTHING, SearchOptions(beam=beam, max_length=4))
        assert all(math.isnan(h.score) and len(h.tokens) <= 4 for h in hypotheses)


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 31, 33, 100, 255])
def test_best_extensions_are_those_of_a_plain_topk(size):
    for beams, count in [(1, 1), (1, 6), (3, 6), (4, 50)]:
        log_probs = torch.randn(3, beams, size, dtype=torch.float64).log_softmax(2)
        log_probs[0, :, size // 2 :] = -math.inf
        sums = torch.randn(3, beams, dtype=torch.float64)
        sums[1, 1:] = -math.inf
        values, parents, tokens = best_extensions(log_probs, sums, count)
        everything = (log_probs + sums[:, :, None]).flatten(1)
        expected = everything.topk(min(count, beams * size))
        finite = expected.values > -math.inf
        wide = expected.values.shape[1]
        assert torch.equal(values[:, :wide], expected.values)
        assert (values[:, wide:] == -math.inf).all()
        assert torch.equal((parents * size + tokens)[:, :wide][finite], expected.indices[finite])
        assert ((tokens < size) & (parents < beams)).all()


# hand-made tables


def only(answers):
    [[hypothesis]] = answers
    return hypothesis


ENDS = {A: {EOS: 1.0}, B: {EOS: 1.0}, C: {EOS: 1.0}}


def test_length_penalty_by_hand():
    table = Table({BOS: {A: 0.6, EOS: 0.4}, A: {B: 0.5, EOS: 0.5}, B: {EOS: 1.0}})
    three = math.log(0.6 * 0.5)
    for penalty, tokens, score in [
        (0.0, [EOS], math.log(0.4)),
        (0.5, [A, B, EOS], three / math.sqrt(3)),  # -0.695; [EOS] has -0.916, [A, EOS] -0.851
        (1.0, [A, B, EOS], three / 3),
        (2.0, [A, B, EOS], three / 9),
        (-1.0, [EOS], math.log(0.4)),
    ]:
        best = only(beam_search(table, NOTHING, SearchOptions(length_penalty=penalty)))
        assert best.tokens == tokens and best.finished
        assert best.score == pytest.approx(score)
        assert best.log_probability == pytest.approx(score * len(tokens) ** penalty)


def test_coverage_penalty_by_hand():
    # A reads both source positions, B the first alone
    attention = {BOS: [0.5, 0.5], A: [0.25, 0.75], B: [0.875, 0.125]}
    table = Table({BOS: {A: 0.4, B: 0.6}, A: {EOS: 1.0}, B: {EOS: 1.0}}, attention)
    a = math.log(0.4) + 0.8 * math.log(0.75)  # received: 0.75, 1.25
    b = math.log(0.6) + 0.8 * math.log(0.625)  # received: 1.375, 0.625
    options = SearchOptions(n_best=2, length_penalty=0.0, coverage_penalty=0.8)
    [[first, second]] = beam_search(table, NOTHING, options, source_lengths=torch.tensor([2]))
    assert (first.tokens, second.tokens) == ([B, EOS], [A, EOS])
    assert (first.score, second.score) == pytest.approx((b, a))
    assert first.log_probability == pytest.approx(math.log(0.6)), "the penalty is no part of it"
    # a strong one turns them round
    options = SearchOptions(length_penalty=0.0, coverage_penalty=4.0)
    assert only(beam_search(table, NOTHING, options)).tokens == [A, EOS]
    # without the second position, which is padding, A misses 0.25 of the first and B nothing
    options = SearchOptions(n_best=2, length_penalty=0.0, coverage_penalty=1.0)
    [[first, second]] = beam_search(table, NOTHING, options, source_lengths=torch.tensor([1]))
    assert first.score == pytest.approx(math.log(0.6))
    assert second.score == pytest.approx(math.log(0.4 * 0.75))


def test_source_that_is_not_read_at_all_has_a_finite_penalty():
    table = Table({BOS: {A: 0.6, EOS: 0.4}, A: {EOS: 1.0}}, {BOS: [1.0, 0.0], A: [1.0, 0.0]})
    [[first, second]] = beam_search(table, NOTHING, SearchOptions(n_best=2, length_penalty=0.0, coverage_penalty=1.0))
    assert (first.tokens, second.tokens) == ([A, EOS], [EOS])
    assert first.score - second.score == pytest.approx(math.log(0.6 / 0.4))


def test_minimum_and_maximum_length_by_hand():
    for least, tokens in [(0, [EOS]), (1, [EOS]), (2, [A, EOS]), (3, [A, A, EOS])]:
        table = Table({BOS: {EOS: 0.9, A: 0.1}, A: {EOS: 0.8, A: 0.2}})
        best = only(beam_search(table, NOTHING, SearchOptions(length_penalty=0.0, min_length=least)))
        assert best.tokens == tokens and best.finished
    table = Table({BOS: {A: 1.0}, A: {B: 1.0}, B: {C: 1.0}, C: {EOS: 1.0}})
    for most, tokens in [(1, [A]), (3, [A, B, C]), (4, [A, B, C, EOS]), (9, [A, B, C, EOS])]:
        for beam in (1, 3):
            best = only(beam_search(table, NOTHING, SearchOptions(beam=beam, max_length=most)))
            assert best.tokens == tokens
            assert best.finished == (most > 3)
    answers = beam_search(table, (torch.zeros(3, 2),), SearchOptions(max_length=3), limits=torch.tensor([2, 1, 99]))
    assert words(answers) == [[[A, B]], [[A]], [[A, B, C]]]
    assert only(beam_search(table, NOTHING, SearchOptions(), limits=torch.tensor([2.9]))).tokens == [A, B]


def test_ngram_blocking_by_hand():
    # left alone: A B A B ...; C is never likely
    rows = {BOS: {A: 1.0}, A: {B: 0.8, A: 0.12, C: 0.08}, B: {A: 0.7, B: 0.2, C: 0.1}, C: {C: 0.9, EOS: 0.1}}
    for size, tokens in [
        (0, [A, B, A, B, A, B, A, B]),
        (1, [A, B, C, EOS]),
        (2, [A, B, A, A, C, C, EOS]),
        (3, [A, B, A, B, B, A, A, B]),  # A after A B and B after B A are blocked by the first four
    ]:
        options = SearchOptions(beam=1, no_repeat_ngram=size, max_length=8)
        assert only(beam_search(Table(rows), NOTHING, options)).tokens == tokens, size


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_comes_twice_and_the_rest_is_free(size):
    net = Attentive(5, vocabulary=12)
    memory = net.encode(*sources())
    answers = beam_search(net, memory, SearchOptions(beam=4, n_best=4, max_length=15, no_repeat_ngram=size))
    for hypotheses in answers:
        for h in hypotheses:
            ngrams = [tuple(h.tokens[i : i + size]) for i in range(len(h.tokens) - size + 1)]
            assert len(ngrams) == len(set(ngrams))
    for i, [hypothesis] in enumerate(beam_search(net, memory, SearchOptions(beam=1, max_length=15, no_repeat_ngram=size))):
        scorer, tokens = Scorer(net, row(memory, i)), ()
        while len(tokens) < 15 and tokens[-1:] != (EOS,):
            ngrams = {tokens[j : j + size] for j in range(len(tokens) - size + 1)}
            free = [pair for pair in scorer.following(tokens) if (*tokens, pair[0])[-size:] not in ngrams]
            tokens += (max(free, key=lambda pair: pair[1])[0],)
        assert hypothesis.tokens == list(tokens)


def test_a_sentence_ends_where_everything_is_blocked():
    table = Table({BOS: {A: 0.5, B: 0.5}, A: {B: 0.9, EOS: 0.1}, B: {A: 0.8, EOS: 0.2}})
    options = SearchOptions(beam=2, no_repeat_ngram=1, min_length=8)
    best = only(beam_search(table, NOTHING, options))
    assert best.tokens == [A, B, EOS]
    assert best.log_probability == pytest.approx(math.log(0.5 * 0.9 * 0.2))
    assert only(sample(table, NOTHING, options)).tokens[-1] == EOS


def test_forced_prefix_by_hand():
    rows = {BOS: {A: 0.7, B: 0.2, C: 0.1}, A: {A: 0.5, EOS: 0.5}, B: {EOS: 0.6, C: 0.4}, C: {A: 0.9, B: 0.1}}
    for beam in (1, 3):
        # the last repeats a bigram and a token that are blocked elsewhere
        prefix = [[], [B], [C, B], [C, A, A, A]]
        options = SearchOptions(beam=beam, length_penalty=0.0, no_repeat_ngram=2)
        answers = beam_search(Table(rows), (torch.zeros(4, 2),), options, prefix=prefix)
        assert words(answers) == [[[A, EOS]], [[B, EOS]], [[C, B, EOS]], [[C, A, A, A, EOS]]]
        probabilities = [0.7 * 0.5, 0.2 * 0.6, 0.1 * 0.1 * 0.6, 0.1 * 0.9 * 0.5**3]
        assert scores(answers).exp().tolist() == pytest.approx(probabilities)
    answers = beam_search(Table(rows), NOTHING, SearchOptions(max_length=2), prefix=[[C, B]])
    assert words(answers) == [[[C, B]]] and not only(answers).finished


@pytest.mark.parametrize("kind", NETS)
def test_behind_a_prefix_the_search_is_as_wide_as_ever(kind):
    net = kind(6, vocabulary=6)
    memory = net.encode(*sources(3))
    prefix = [[C, A], [], [B]]
    answers = beam_search(net, memory, SearchOptions(beam=3**5, n_best=5, max_length=5), prefix=prefix)
    for i, hypotheses in enumerate(answers):
        everything = brute_force(Scorer(net, row(memory, i)), 5, 1.0)
        expected = [tokens for _, tokens in everything if tokens[: len(prefix[i])] == prefix[i]][:5]
        assert [h.tokens for h in hypotheses] == expected


# ensembles


def test_ensemble_of_one_is_the_network():
    net = Attentive(7)
    source, lengths = sources()
    ensemble, options = Ensemble([net]), SearchOptions(beam=4, n_best=4, max_length=8)
    alone = beam_search(net, net.encode(source, lengths), options)
    same(beam_search(ensemble, ensemble.encode(source, lengths), options), alone)


def test_ensemble_of_two_has_the_mean_of_their_probabilities():
    nets = [Attentive(8), Recurrent(9)]
    source, lengths = sources()
    ensemble = Ensemble(nets)
    options = SearchOptions(beam=4, n_best=2, max_length=8)
    answers = beam_search(ensemble, ensemble.encode(source, lengths), options, attention=True)
    for i, hypotheses in enumerate(answers):
        for h in hypotheses:
            fed = torch.tensor([[BOS, *h.tokens[:-1]]])
            results = [net.from_scratch(fed, row(net.encode(source, lengths), i)) for net in nets]
            mean = (results[0][0].softmax(2) + results[1][0].softmax(2)) / 2  # (1, tokens, vocabulary)
            expected = mean[0].gather(1, torch.tensor(h.tokens)[:, None]).log().sum()
            assert h.log_probability == pytest.approx(expected.item(), rel=1e-12)
            assert torch.allclose(h.attention, (results[0][1] + results[1][1])[0] / 2)


def test_ensemble_is_greedy_by_averaged_probabilities():
    one, two = Table({BOS: {A: 0.5, B: 0.4, C: 0.1}, **ENDS}), Table({BOS: {C: 0.5, B: 0.4, A: 0.1}, **ENDS})
    best = only(beam_search(Ensemble([one, two]), (NOTHING, NOTHING), SearchOptions(beam=1)))
    assert best.tokens == [B, EOS]
    assert best.log_probability == pytest.approx(math.log(0.4))


# sampling


def chi_square(answers, probabilities):
    """(statistic, degrees of freedom) of how often each sentence was drawn."""
    [drawn] = words(answers)
    counts = {tokens: drawn.count(list(tokens)) for tokens in probabilities}
    assert sum(counts.values()) == len(drawn), "nothing else may be drawn"
    expected = {tokens: p * len(drawn) for tokens, p in probabilities.items()}
    return sum((counts[t] - e) ** 2 / e for t, e in expected.items()), len(probabilities) - 1


def test_samples_are_distributed_as_the_network_says():
    net = Attentive(0, vocabulary=6)
    memory = net.encode(*sources(1))
    scorer = Scorer(net, memory, blocked=())
    generator = torch.Generator().manual_seed(1)
    answers = sample(net, memory, SearchOptions(n_best=4000, max_length=2, bos=BOS), generator=generator)
    probabilities = {}
    for first, p in following(scorer, ()):
        for second, q in [(None, 1.0)] if first == EOS else following(scorer, (first,)):
            probabilities[(first,) if second is None else (first, second)] = p * q
    statistic, freedom = chi_square(answers, probabilities)
    assert sum(probabilities.values()) == pytest.approx(1)
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def following(scorer, tokens):
    """(token, probability) of what may come next; PAD and BOS may not."""
    free = {token: math.exp(p) for token, p in enumerate(scorer(tokens)) if token not in (PAD, BOS)}
    return [(token, p / sum(free.values())) for token, p in free.items()]


@pytest.mark.parametrize(
    "settings, probabilities",
    [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        ({"temperature": 0.5}, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_k": 99}, [0.4, 0.3, 0.2, 0.1]),
        ({"top_p": 0.65}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.75}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.7}, [4 / 7, 3 / 7, 0, 0]),  # of 4/9, 3/9, 2/9
        ({"temperature": 0.5, "top_p": 0.8}, [16 / 25, 9 / 25, 0, 0]),
    ],
)
def test_temperature_top_k_and_top_p_by_hand(settings, probabilities):
    table = Table({BOS: {B: 0.4, EOS: 0.3, A: 0.2, C: 0.1}})
    generator = torch.Generator().manual_seed(0)
    answers = sample(table, NOTHING, SearchOptions(n_best=3000, max_length=1), generator=generator, **settings)
    possible = {(token,): p for token, p in zip((B, EOS, A, C), probabilities, strict=True) if p}
    statistic, freedom = chi_square(answers, possible)
    assert statistic <= 4 * freedom + 6 * (freedom > 0)
    for h in answers[0]:
        assert h.log_probability == pytest.approx(table.logits[BOS, h.tokens[0]].item()), "not of what was drawn from"


@pytest.mark.parametrize("kind", NETS)
def test_top_k_1_is_greedy_and_a_seed_repeats_the_samples(kind):
    net = kind(1, eos=1.0)
    memory = net.encode(*sources())
    greedy = beam_search(net, memory, SearchOptions(beam=1, max_length=12))
    same(sample(net, memory, SearchOptions(max_length=12), top_k=1), greedy)

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return words(sample(net, memory, SearchOptions(n_best=4, max_length=12), generator=generator))

    assert draw(1) == draw(1) != draw(2)


def test_samples_are_all_returned_in_order_of_score():
    net = Attentive(0, eos=2.0)
    memory = net.encode(*sources())
    answers = sample(net, memory, SearchOptions(n_best=7, max_length=9, min_length=2), prefix=[[4], [5], [], [], []])
    for hypotheses in answers:
        assert len(hypotheses) == 7
        assert hypotheses == sorted(hypotheses, key=lambda h: -h.score)
        assert all(2 <= len(h.tokens) <= 9 and h.finished == (h.tokens[-1] == EOS) for h in hypotheses)
    assert all(h.tokens[0] == 4 for h in answers[0]) and all(h.tokens[0] == 5 for h in answers[1])


# the same as `transformers`


class Marian:
    """A MarianMTModel as a decoder, from scratch at each step."""

    def __init__(self, model):
        self.model = model

    def encode(self, source, lengths):
        mask = (torch.arange(source.shape[1]) < lengths[:, None]).long()
        return self.model.get_encoder()(input_ids=source, attention_mask=mask).last_hidden_state, mask

    def start(self, memory, beams):
        return torch.zeros(len(memory[0]), beams, 0, dtype=torch.int64)

    def step(self, tokens, live, memory):
        history = torch.cat([live, tokens[:, :, None]], 2)
        states, mask = (x.repeat_interleave(tokens.shape[1], 0) for x in memory)
        result = self.model(
            encoder_outputs=(states,), attention_mask=mask, decoder_input_ids=history.flatten(0, 1), use_cache=False
        )
        return result.logits[:, -1].unflatten(0, tokens.shape), history, torch.zeros(*tokens.shape, mask.shape[1])


@pytest.fixture(scope="module")
def marian():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.MarianConfig(
        vocab_size=30,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        init_std=0.1,
        dropout=0.0,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
    )
    model = transformers.MarianMTModel(config)
    # random weights end at the first token or never: some steps on copying, so that lengths differ and depend on the source
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for seed in range(60):
        source, _ = sources(32, seed, longest=9)
        labels = nn.functional.pad(source, (0, 1))
        labels[torch.arange(32), (source != PAD).sum(1)] = EOS
        fed = nn.functional.pad(labels[:, :-1], (1, 0), value=BOS)
        result = model(input_ids=source, attention_mask=(source != PAD).long(), decoder_input_ids=fed)
        nn.functional.cross_entropy(result.logits.flatten(0, 1), labels.flatten(), ignore_index=PAD).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def generate(model, source, lengths, early_stopping="never", **settings):
    """What `generate` finds: tokens without BOS and padding, and scores; of `num_return_sequences` to a sentence."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        early_stopping=early_stopping,
        do_sample=False,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
        suppress_tokens=[PAD, BOS],
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **settings,
    )
    model.generation_config = config
    mask = (torch.arange(source.shape[1]) < lengths[:, None]).long()
    result = model.generate(input_ids=source, attention_mask=mask, generation_config=config)
    tokens = [line[: (*line, EOS).index(EOS) + 1] for line in result.sequences[:, 1:].tolist()]  # without padding
    if config.num_beams > 1:
        return tokens, result.sequences_scores.tolist()
    log_probs = torch.stack(result.logits, 1).log_softmax(2)  # greedy search has no score
    sums = [sum(log_probs[i, j, token].item() for j, token in enumerate(line)) for i, line in enumerate(tokens)]
    return tokens, [s / len(line) ** config.length_penalty for s, line in zip(sums, tokens, strict=True)]


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("beam", [1, 4, 8])
def test_generate_of_transformers_finds_the_same(marian, beam, penalty):
    source, lengths = sources(12, seed=99, longest=9)
    decoder = Marian(marian)
    options = SearchOptions(beam=beam, length_penalty=penalty, max_length=12)
    answers = beam_search(decoder, decoder.encode(source, lengths), options)
    tokens, expected = generate(marian, source, lengths, num_beams=beam, length_penalty=penalty, max_new_tokens=12)
    assert words(answers) == [[line] for line in tokens]
    assert scores(answers).tolist() == pytest.approx(expected, abs=1e-5)
    assert len(set(map(len, tokens))) > 1, "a poor test: all are of one length"


def test_generate_of_transformers_finds_the_same_under_constraints(marian):
    source, lengths = sources(12, seed=99, longest=9)
    decoder = Marian(marian)
    options = SearchOptions(beam=6, n_best=6, min_length=5, max_length=14, no_repeat_ngram=2)
    answers = beam_search(decoder, decoder.encode(source, lengths), options)
    tokens, expected = generate(
        marian,
        source,
        lengths,
        num_beams=6,
        num_return_sequences=6,
        min_new_tokens=4,  # EOS not counted
        max_new_tokens=14,
        no_repeat_ngram_size=2,
    )
    assert [h.tokens for hypotheses in answers for h in hypotheses] == tokens
    assert scores(answers).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("n_best", [1, 4])
@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
def test_generate_of_transformers_stops_early_at_the_same_step(marian, penalty, n_best):
    source, lengths = sources(12, seed=99, longest=9)
    memory, decoder = Marian(marian).encode(source, lengths), Watched(Marian(marian))
    options = SearchOptions(beam=4, n_best=n_best, length_penalty=penalty, max_length=24, early_stop=True)

    def one_by_one(options):
        return [beam_search(decoder, row(memory, i), options)[0] for i in range(12)]

    early = one_by_one(options)
    settings = {"num_beams": 4, "num_return_sequences": n_best, "length_penalty": penalty, "max_new_tokens": 24}
    tokens, expected = generate(marian, source, lengths, early_stopping=False, **settings)
    assert [h.tokens for hypotheses in early for h in hypotheses] == tokens
    assert scores(early).tolist() == pytest.approx(expected, abs=1e-5)

    steps = len(decoder.tokens)
    one_by_one(replace(options, early_stop=False))
    assert 2 * steps < len(decoder.tokens) or penalty == 0, "a poor test: it never stopped earlier than it does without"


# errors


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"beam": 0}, "beam 0"),
        ({"n_best": 0}, "n_best 0"),
        ({"max_length": 0}, "max_length 0"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram -1"),
        ({"coverage_penalty": -0.5}, "coverage_penalty -0.5"),
        ({"min_length": 5, "max_length": 4}, "min_length 5 is more than max_length 4"),
        ({"eos": 1}, "eos 1"),
    ],
)
def test_options_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        SearchOptions(**settings)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"limits": torch.tensor([3, 0])}, "of at least 1 token"),
        ({"limits": torch.tensor([3])}, "each of 2 sentences one"),
        ({"prefix": [[A]]}, "1 prefixes for 2 sentences"),
        ({"prefix": [[A], [A, B, C]], "limits": torch.tensor([3, 2])}, "prefix 1 has 3 tokens"),
        ({"prefix": [[], [A, EOS]]}, "prefix 1 holds the id"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(UserError, match=message):
        beam_search(Table({BOS: {A: 1.0}, **ENDS}), (torch.zeros(2, 2),), SearchOptions(), **arguments)


def test_other_errors():
    with pytest.raises(UserError, match="n_best 6 is more than beam 5"):
        beam_search(Table({BOS: {A: 1.0}, **ENDS}), NOTHING, SearchOptions(n_best=6))
    for settings in ({"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(UserError, match="temperature"):
            sample(Table({BOS: {A: 1.0}, **ENDS}), NOTHING, SearchOptions(), **settings)
    with pytest.raises(UserError, match="no network"):
        Ensemble([])


# how sentences move


@pytest.mark.parametrize("kept", itertools.product([True, False], repeat=4))
def test_the_last_sentences_fill_the_places_of_those_that_are_done(kept):
    sentences, kept = torch.arange(4), torch.tensor(kept)
    left = keep_sentences(sentences.clone(), int(kept.sum()), fill_up(kept))
    assert sorted(left.tolist()) == sentences[kept].tolist()


@pytest.mark.parametrize("net", NETS)
def test_what_the_caller_has_is_left_as_it_was(net):
    net = net(0)
    source, lengths = sources(5)
    memory, limits = net.encode(source, lengths), torch.tensor([3, 8, 5, 2, 6])
    before = [x.clone() for x in (*memory, limits, lengths)]
    beam_search(net, memory, SearchOptions(beam=3), limits=limits, source_lengths=lengths)
    assert all(torch.equal(x, y) for x, y in zip(before, (*memory, limits, lengths), strict=True))
