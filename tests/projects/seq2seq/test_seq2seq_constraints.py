"""Decoding constraints: lengths, n-gram blocking and forced prefixes, by hand and against brute force."""

from __future__ import annotations

import math

import pytest
import torch
from search_references import (
    BOS,
    ENDS,
    EOS,
    NETS,
    NOTHING,
    A,
    Attentive,
    B,
    C,
    Scorer,
    Table,
    brute_force,
    only,
    row,
    scores,
    sources,
    words,
)

from common.errors import UserError
from projects.seq2seq.config import GenerationConfig
from projects.seq2seq.decoding import DecodingInputs, beam_search, sample


def test_minimum_and_maximum_length_by_hand():
    for least, tokens in [(0, [EOS]), (1, [EOS]), (2, [A, EOS]), (3, [A, A, EOS])]:
        table = Table({BOS: {EOS: 0.9, A: 0.1}, A: {EOS: 0.8, A: 0.2}})
        best = only(beam_search(table, NOTHING, GenerationConfig(length_penalty=0.0, min_length=least)))
        assert best.tokens == tokens and best.finished
    table = Table({BOS: {A: 1.0}, A: {B: 1.0}, B: {C: 1.0}, C: {EOS: 1.0}})
    for most, tokens in [(1, [A]), (3, [A, B, C]), (4, [A, B, C, EOS]), (9, [A, B, C, EOS])]:
        for beam in (1, 3):
            best = only(beam_search(table, NOTHING, GenerationConfig(num_beams=beam, max_length=most)))
            assert best.tokens == tokens
            assert best.finished == (most > 3)
    answers = beam_search(
        table, (torch.zeros(3, 2),), GenerationConfig(max_length=3), DecodingInputs(torch.tensor([2, 1, 99]))
    )
    assert words(answers) == [[[A, B]], [[A]], [[A, B, C]]]
    assert only(beam_search(table, NOTHING, GenerationConfig(), DecodingInputs(torch.tensor([2.9])))).tokens == [A, B]


def test_ngram_blocking_by_hand():
    # left alone: A B A B ...; C is never likely
    rows = {BOS: {A: 1.0}, A: {B: 0.8, A: 0.12, C: 0.08}, B: {A: 0.7, B: 0.2, C: 0.1}, C: {C: 0.9, EOS: 0.1}}
    for size, tokens in [
        (0, [A, B, A, B, A, B, A, B]),
        (1, [A, B, C, EOS]),
        (2, [A, B, A, A, C, C, EOS]),
        (3, [A, B, A, B, B, A, A, B]),  # A after A B and B after B A are blocked by the first four
    ]:
        options = GenerationConfig(num_beams=1, no_repeat_ngram_size=size, max_length=8)
        assert only(beam_search(Table(rows), NOTHING, options)).tokens == tokens, size


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_comes_twice_and_the_rest_is_free(size):
    net = Attentive(5, vocabulary=12)
    memory = net.encode(*sources())
    answers = beam_search(
        net, memory, GenerationConfig(num_beams=4, num_return_sequences=4, max_length=15, no_repeat_ngram_size=size)
    )
    for hypotheses in answers:
        for h in hypotheses:
            ngrams = [tuple(h.tokens[i : i + size]) for i in range(len(h.tokens) - size + 1)]
            assert len(ngrams) == len(set(ngrams))
    for i, [hypothesis] in enumerate(
        beam_search(net, memory, GenerationConfig(num_beams=1, max_length=15, no_repeat_ngram_size=size))
    ):
        scorer, tokens = Scorer(net, row(memory, i)), ()
        while len(tokens) < 15 and tokens[-1:] != (EOS,):
            ngrams = {tokens[j : j + size] for j in range(len(tokens) - size + 1)}
            free = [pair for pair in scorer.following(tokens) if (*tokens, pair[0])[-size:] not in ngrams]
            tokens += (max(free, key=lambda pair: pair[1])[0],)
        assert hypothesis.tokens == list(tokens)


def test_a_sentence_ends_where_everything_is_blocked():
    table = Table({BOS: {A: 0.5, B: 0.5}, A: {B: 0.9, EOS: 0.1}, B: {A: 0.8, EOS: 0.2}})
    options = GenerationConfig(num_beams=2, no_repeat_ngram_size=1, min_length=8)
    best = only(beam_search(table, NOTHING, options))
    assert best.tokens == [A, B, EOS]
    assert best.log_probability == pytest.approx(math.log(0.5 * 0.9 * 0.2))
    assert only(sample(table, NOTHING, options)).tokens[-1] == EOS


def test_forced_prefix_by_hand():
    rows = {BOS: {A: 0.7, B: 0.2, C: 0.1}, A: {A: 0.5, EOS: 0.5}, B: {EOS: 0.6, C: 0.4}, C: {A: 0.9, B: 0.1}}
    for beam in (1, 3):
        # the last repeats a bigram and a token that are blocked elsewhere
        prefix = [[], [B], [C, B], [C, A, A, A]]
        options = GenerationConfig(num_beams=beam, length_penalty=0.0, no_repeat_ngram_size=2)
        answers = beam_search(Table(rows), (torch.zeros(4, 2),), options, DecodingInputs(prefix=prefix))
        assert words(answers) == [[[A, EOS]], [[B, EOS]], [[C, B, EOS]], [[C, A, A, A, EOS]]]
        probabilities = [0.7 * 0.5, 0.2 * 0.6, 0.1 * 0.1 * 0.6, 0.1 * 0.9 * 0.5**3]
        assert scores(answers).exp().tolist() == pytest.approx(probabilities)
    answers = beam_search(Table(rows), NOTHING, GenerationConfig(max_length=2), DecodingInputs(prefix=[[C, B]]))
    assert words(answers) == [[[C, B]]] and not only(answers).finished


@pytest.mark.parametrize("kind", NETS)
def test_behind_a_prefix_the_search_is_as_wide_as_ever(kind):
    net = kind(6, vocabulary=6)
    memory = net.encode(*sources(3))
    prefix = [[C, A], [], [B]]
    answers = beam_search(
        net, memory, GenerationConfig(num_beams=3**5, num_return_sequences=5, max_length=5), DecodingInputs(prefix=prefix)
    )
    for i, hypotheses in enumerate(answers):
        everything = brute_force(Scorer(net, row(memory, i)), 5, 1.0)
        expected = [tokens for _, tokens in everything if tokens[: len(prefix[i])] == prefix[i]][:5]
        assert [h.tokens for h in hypotheses] == expected


def test_a_minimum_length_above_the_maximum_is_named():
    with pytest.raises(UserError, match="--min_length 5: more than --max_length 4"):
        GenerationConfig(min_length=5, max_length=4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"limits": torch.tensor([3, 0])}, "of at least 1 token"),
        ({"limits": torch.tensor([3])}, "each of 2 sentences one"),
        ({"prefix": [[A]]}, "1 prefixes for 2 sentences"),
        ({"prefix": [[A], [A, B, C]], "limits": torch.tensor([3, 2])}, "--prefix: 3 tokens for sentence 2, but .* is 2"),
        ({"prefix": [[], [A, EOS]]}, "prefix 1 holds the id"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(UserError, match=message):
        beam_search(Table({BOS: {A: 1.0}, **ENDS}), (torch.zeros(2, 2),), GenerationConfig(), DecodingInputs(**arguments))
