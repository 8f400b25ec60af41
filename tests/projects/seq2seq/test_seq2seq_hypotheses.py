"""Hypotheses and sentences move inside tensors without a loss."""

from __future__ import annotations

import itertools

import pytest
import torch
from search_references import NETS, sources

from projects.seq2seq.config import GenerationConfig
from projects.seq2seq.decoding import DecodingInputs, beam_search
from projects.seq2seq.hypotheses import compaction_moves, keep_sentences


@pytest.mark.parametrize("kept", itertools.product([True, False], repeat=4))
def test_the_last_sentences_fill_the_gaps_of_those_that_are_done(kept):
    sentences, kept = torch.arange(4), torch.tensor(kept)
    left = keep_sentences(sentences.clone(), int(kept.sum()), compaction_moves(kept))
    assert sorted(left.tolist()) == sentences[kept].tolist()


@pytest.mark.parametrize("net", NETS)
def test_the_callers_tensors_are_not_changed(net):
    net = net(0)
    source, lengths = sources(5)
    memory, limits = net.encode(source, lengths), torch.tensor([3, 8, 5, 2, 6])
    before = [x.clone() for x in (*memory, limits, lengths)]
    beam_search(net, memory, GenerationConfig(num_beams=3), DecodingInputs(limits, source_lengths=lengths))
    assert all(torch.equal(x, y) for x, y in zip(before, (*memory, limits, lengths), strict=True))
