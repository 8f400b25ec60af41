"""Beam search finds what `generate` of `transformers` finds, and stops where it stops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from search_references import BOS, EOS, PAD, Watched, row, scores, sources, words
from torch import nn

from projects.seq2seq.config import GenerationConfig
from projects.seq2seq.decoding import beam_search


class Marian:
    """A MarianMTModel as a decoder, from scratch at each step."""

    def __init__(self, model):
        self.model = model

    def encode(self, source, lengths):
        mask = (torch.arange(source.shape[1]) < lengths[:, None]).long()
        return self.model.get_encoder()(input_ids=source, attention_mask=mask).last_hidden_state, mask

    def init_state(self, memory, beams):
        return torch.zeros(len(memory[0]), beams, 0, dtype=torch.int64)

    def decode_step(self, tokens, state, memory):
        history = torch.cat([state, tokens[:, :, None]], 2)
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
    options = GenerationConfig(num_beams=beam, length_penalty=penalty, max_length=12)
    answers = beam_search(decoder, decoder.encode(source, lengths), options)
    tokens, expected = generate(marian, source, lengths, num_beams=beam, length_penalty=penalty, max_new_tokens=12)
    assert words(answers) == [[line] for line in tokens]
    assert scores(answers).tolist() == pytest.approx(expected, abs=1e-5)
    assert len(set(map(len, tokens))) > 1, "a poor test: all are of one length"


def test_generate_of_transformers_finds_the_same_under_constraints(marian):
    source, lengths = sources(12, seed=99, longest=9)
    decoder = Marian(marian)
    options = GenerationConfig(num_beams=6, num_return_sequences=6, min_length=5, max_length=14, no_repeat_ngram_size=2)
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
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_generate_of_transformers_stops_early_at_the_same_step(marian, penalty, n_best):
    source, lengths = sources(12, seed=99, longest=9)
    memory, decoder = Marian(marian).encode(source, lengths), Watched(Marian(marian))
    options = GenerationConfig(
        num_beams=4, num_return_sequences=n_best, length_penalty=penalty, max_length=24, early_stopping="heuristic"
    )

    def one_by_one(options):
        return [beam_search(decoder, row(memory, i), options)[0] for i in range(12)]

    early = one_by_one(options)
    settings = {"num_beams": 4, "num_return_sequences": n_best, "length_penalty": penalty, "max_new_tokens": 24}
    tokens, expected = generate(marian, source, lengths, early_stopping=False, **settings)
    assert [h.tokens for hypotheses in early for h in hypotheses] == tokens
    assert scores(early).tolist() == pytest.approx(expected, abs=1e-5)

    steps = len(decoder.tokens)
    one_by_one(replace(options, early_stopping="never"))
    assert 2 * steps < len(decoder.tokens) or penalty == 0, "a poor test: it never stopped earlier than it does without"
