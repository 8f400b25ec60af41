"""Ensemble decoding: the mean of the probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from search_references import BOS, ENDS, EOS, NOTHING, A, Attentive, B, C, Recurrent, Table, only, row, same, sources

from projects.seq2seq.config import GenerationConfig
from projects.seq2seq.decoding import DecodingInputs, beam_search
from projects.seq2seq.ensemble import Ensemble


def test_ensemble_of_one_is_the_network():
    net = Attentive(7)
    source, lengths = sources()
    ensemble, options = Ensemble([net]), GenerationConfig(num_beams=4, num_return_sequences=4, max_length=8)
    alone = beam_search(net, net.encode(source, lengths), options)
    same(beam_search(ensemble, ensemble.encode(source, lengths), options), alone)


def test_ensemble_of_two_has_the_mean_of_their_probabilities():
    nets = [Attentive(8), Recurrent(9)]
    source, lengths = sources()
    ensemble = Ensemble(nets)
    options = GenerationConfig(num_beams=4, num_return_sequences=2, max_length=8)
    answers = beam_search(ensemble, ensemble.encode(source, lengths), options, DecodingInputs(attention=True))
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
    best = only(beam_search(Ensemble([one, two]), (NOTHING, NOTHING), GenerationConfig(num_beams=1)))
    assert best.tokens == [B, EOS]
    assert best.log_probability == pytest.approx(math.log(0.4))
