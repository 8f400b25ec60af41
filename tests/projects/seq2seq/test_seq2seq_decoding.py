"""Beam search is right: held against searches that are too slow to be wrong, and hand-made tables."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from search_references import (
    BOS,
    ENDS,
    EOS,
    NETS,
    NOTHING,
    PAD,
    PENALTIES,
    A,
    Attentive,
    B,
    C,
    FromScratch,
    Recurrent,
    Scorer,
    Table,
    Watched,
    brute_force,
    naive_beam,
    naive_greedy,
    only,
    row,
    same,
    sources,
    words,
)
from torch import nn

from common.errors import UserError
from projects.seq2seq.config import GenerationConfig, SamplingConfig
from projects.seq2seq.decoding import DecodingInputs, beam_search, best_extensions, sample


class Pair(NamedTuple):
    left: object
    right: object


@pytest.mark.parametrize("kind", NETS)
def test_one_beam_is_greedy_search(kind):
    lengths = set()
    for seed in range(6):
        net = kind(seed, eos=1.0)
        source = sources(seed=seed)
        memory = net.encode(*source)
        answers = beam_search(net, memory, GenerationConfig(num_beams=1, max_length=12))
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
    answers = beam_search(
        net, memory, GenerationConfig(num_beams=3**5, num_return_sequences=20, length_penalty=penalty, max_length=5)
    )
    for i, hypotheses in enumerate(answers):
        expected = brute_force(Scorer(net, row(memory, i)), 5, penalty)[:20]
        assert [h.tokens for h in hypotheses] == [tokens for _, tokens in expected]
        assert [h.score for h in hypotheses] == pytest.approx([s for s, _ in expected], rel=1e-12)


@pytest.mark.parametrize("n_best", [1, 3])
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("kind", NETS)
def test_search_stops_exactly_when_no_unfinished_hypothesis_can_still_win(kind, penalty, n_best):
    """The answer is that of a search that never stops early, and no step is made that could not change it."""
    limit, steps_saved = 12, 0
    for seed in range(4):
        net = kind(seed, eos=2.0)
        memory = net.encode(*sources(2, seed))
        options = GenerationConfig(num_beams=3, num_return_sequences=n_best, length_penalty=penalty, max_length=limit)
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
        [[best]] = beam_search(table, NOTHING, GenerationConfig(num_beams=2, max_length=length))
        assert best.tokens == ([EOS] if length == 2 else [A] * 7)
    [[best]] = beam_search(table, NOTHING, GenerationConfig(num_beams=2, max_length=7, length_penalty=0.0))
    assert best.tokens == [EOS]


@pytest.mark.parametrize("kind", NETS)
def test_score_and_attention_are_those_of_teacher_forcing(kind):
    net = kind(2, eos=1.0)
    source, lengths = sources()
    memory = net.encode(source, lengths)
    options = GenerationConfig(
        num_beams=4,
        num_return_sequences=4,
        length_penalty=0.7,
        min_length=3,
        max_length=9,
        no_repeat_ngram_size=2,
    )
    asked = {"source_lengths": lengths, "attention": True}
    generator = torch.Generator().manual_seed(0)
    for answers in (
        beam_search(net, memory, options, DecodingInputs(prefix=[[], [4], [5, 5, 5, 5], [], [7]], **asked)),
        sample(net, memory, options, DecodingInputs(**asked), SamplingConfig(2.0, 6, 0.9), generator),
    ):
        for i, hypotheses in enumerate(answers):
            for h in hypotheses:
                logits, attention = net.from_scratch(torch.tensor([[BOS, *h.tokens[:-1]]]), row(memory, i))
                each = logits[0].log_softmax(1).gather(1, torch.tensor(h.tokens)[:, None])
                attention = attention[0, :, : lengths[i]]  # (tokens, source_time)
                assert h.log_probability == pytest.approx(each.sum().item(), rel=1e-12)
                assert h.score == pytest.approx((each.sum() / len(h.tokens) ** 0.7).item(), rel=1e-12)
                assert torch.allclose(h.attention, attention)


@pytest.mark.parametrize("kind", NETS)
def test_a_sentence_gets_the_same_answer_alone_batched_permuted_and_padded(kind):
    net = kind(3, eos=1.0)
    source, lengths = sources(8)
    limits = lengths + 4
    prefix = [[], [A], [], [B, C], [A, A], [], [], [C]]
    options = GenerationConfig(num_beams=3, num_return_sequences=2, no_repeat_ngram_size=2, min_length=3)

    def answers(order, padding=0):
        some = nn.functional.pad(source[order], (0, padding))
        memory = net.encode(some, lengths[order])
        return beam_search(
            net, memory, options, DecodingInputs(limits[order], [prefix[i] for i in order], lengths[order], attention=True)
        )

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
    options = GenerationConfig(num_beams=2, num_return_sequences=2)
    answers = beam_search(watched, (torch.zeros(4, 2),), options, DecodingInputs(limits))
    assert [tuple(tokens.shape) for tokens in watched.tokens] == [(4, 1), (3, 2), (2, 2), (2, 2), (1, 2), (1, 2)]
    assert not any((tokens == EOS).any() for tokens in watched.tokens)
    assert [max(map(len, of_sentence)) for of_sentence in words(answers)] == [2, 6, 1, 4]


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("kind", NETS)
def test_the_n_best_list_is_full_distinct_sorted_and_does_not_change_the_best(kind, penalty):
    net = kind(4, eos=1.0)
    memory = net.encode(*sources())
    best = {
        n: beam_search(net, memory, GenerationConfig(num_return_sequences=n, length_penalty=penalty, max_length=9))
        for n in (1, 2, 5)
    }
    for n, answers in best.items():
        for i, hypotheses in enumerate(answers):
            assert len(hypotheses) == n == len({tuple(h.tokens) for h in hypotheses})
            assert hypotheses == sorted(hypotheses, key=lambda h: -h.score)
            assert hypotheses[0] == best[1][i][0]
            assert all(h.finished == (h.tokens[-1] == EOS) for h in hypotheses)
            assert not any({PAD, BOS} & set(h.tokens) or EOS in h.tokens[:-1] for h in hypotheses)


def test_fewer_than_num_return_sequences_only_if_there_are_no_more():
    table = Table({BOS: {A: 0.5, B: 0.5}, A: {EOS: 1.0}, B: {EOS: 1.0}})
    [hypotheses] = beam_search(table, NOTHING, GenerationConfig(num_return_sequences=5))
    assert sorted(h.tokens for h in hypotheses) == [[A, EOS], [B, EOS]]


@pytest.mark.parametrize("beam", [1, 4])
def test_a_cached_search_equals_an_uncached_one(beam):
    for seed in range(3):
        net = Attentive(seed, eos=1.0)
        memory = net.encode(*sources(seed=seed))
        options = GenerationConfig(num_beams=beam, num_return_sequences=beam, max_length=10)
        cached, uncached = (
            beam_search(decoder, memory, options, DecodingInputs(attention=True)) for decoder in (net, FromScratch(net))
        )
        same(cached, uncached)
        for i, hypotheses in enumerate(cached):
            for h in hypotheses:
                _, expected = net.from_scratch(torch.tensor([[BOS, *h.tokens[:-1]]]), row(memory, i))
                assert torch.allclose(h.attention, expected[0]), "the rows are those of this hypothesis"


def test_nests_of_any_kind_and_no_sentence():
    net = Recurrent(0)
    source, lengths = sources(3)
    assert beam_search(net, net.encode(source[:0], lengths[:0]), GenerationConfig()) == []

    class Wrapped:
        def init_state(self, memory, beams):
            return Pair(net.init_state(memory.left, beams), (None, ()))

        def decode_step(self, tokens, state, memory):
            logits, left, attention = net.decode_step(tokens, state.left, memory.left)
            return logits, state._replace(left=left), attention

    memory = net.encode(source, lengths)
    options = GenerationConfig(max_length=8)
    same(beam_search(Wrapped(), Pair(memory, None), options), beam_search(net, memory, options))


def test_a_network_of_nan_ends_the_search():
    table = Table({})
    table.logits[:] = math.nan
    for beam in (1, 3):
        [hypotheses] = beam_search(table, NOTHING, GenerationConfig(num_beams=beam, max_length=4))
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
        best = only(beam_search(table, NOTHING, GenerationConfig(length_penalty=penalty)))
        assert best.tokens == tokens and best.finished
        assert best.score == pytest.approx(score)
        assert best.log_probability == pytest.approx(score * len(tokens) ** penalty)


def test_options_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="num_return_sequences 6: more than --num_beams 5"):
        beam_search(Table({BOS: {A: 1.0}, **ENDS}), NOTHING, GenerationConfig(num_return_sequences=6))
    for settings in (
        {"temperature": 0.0},
        {"temperature": math.inf},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
    ):
        with pytest.raises(UserError, match="temperature"):
            sample(Table({BOS: {A: 1.0}, **ENDS}), NOTHING, GenerationConfig(), sampling=SamplingConfig(**settings))
