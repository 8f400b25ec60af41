"""Sampling: frequencies are the network's, with temperature, top-k and nucleus sampling by hand."""

from __future__ import annotations

import math

import pytest
import torch
from search_references import BOS, EOS, NETS, NOTHING, PAD, A, Attentive, B, C, Scorer, Table, same, sources, words

from projects.seq2seq.config import GenerationConfig, SamplingConfig
from projects.seq2seq.decoding import DecodingInputs, beam_search, sample


def chi_square(answers, probabilities):
    """(statistic, degrees of freedom) of how often each sentence was sampled."""
    [sampled] = words(answers)
    counts = {tokens: sampled.count(list(tokens)) for tokens in probabilities}
    assert sum(counts.values()) == len(sampled), "nothing else may be sampled"
    expected = {tokens: p * len(sampled) for tokens, p in probabilities.items()}
    return sum((counts[t] - e) ** 2 / e for t, e in expected.items()), len(probabilities) - 1


def test_samples_follow_the_probabilities_of_the_network():
    net = Attentive(0, vocabulary=6)
    memory = net.encode(*sources(1))
    scorer = Scorer(net, memory, blocked=())
    generator = torch.Generator().manual_seed(1)
    answers = sample(net, memory, GenerationConfig(num_return_sequences=4000, max_length=2), generator=generator)
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
    answers = sample(
        table,
        NOTHING,
        GenerationConfig(num_return_sequences=3000, max_length=1),
        sampling=SamplingConfig(**settings),
        generator=generator,
    )
    possible = {(token,): p for token, p in zip((B, EOS, A, C), probabilities, strict=True) if p}
    statistic, freedom = chi_square(answers, possible)
    assert statistic <= 4 * freedom + 6 * (freedom > 0)
    for h in answers[0]:
        assert h.log_probability == pytest.approx(table.logits[BOS, h.tokens[0]].item()), "not of what was sampled from"


@pytest.mark.parametrize("kind", NETS)
def test_top_k_1_is_greedy_and_a_seed_repeats_the_samples(kind):
    net = kind(1, eos=1.0)
    memory = net.encode(*sources())
    greedy = beam_search(net, memory, GenerationConfig(num_beams=1, max_length=12))
    same(sample(net, memory, GenerationConfig(max_length=12), sampling=SamplingConfig(top_k=1)), greedy)

    def sampled(seed):
        generator = torch.Generator().manual_seed(seed)
        return words(sample(net, memory, GenerationConfig(num_return_sequences=4, max_length=12), generator=generator))

    assert sampled(1) == sampled(1) != sampled(2)


def test_samples_are_all_returned_in_order_of_score():
    net = Attentive(0, eos=2.0)
    memory = net.encode(*sources())
    inputs = DecodingInputs(prefix=[[4], [5], [], [], []])
    answers = sample(net, memory, GenerationConfig(num_return_sequences=7, max_length=9, min_length=2), inputs)
    for hypotheses in answers:
        assert len(hypotheses) == 7
        assert hypotheses == sorted(hypotheses, key=lambda h: -h.score)
        assert all(2 <= len(h.tokens) <= 9 and h.finished == (h.tokens[-1] == EOS) for h in hypotheses)
    assert all(h.tokens[0] == 4 for h in answers[0]) and all(h.tokens[0] == 5 for h in answers[1])
