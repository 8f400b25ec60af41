"""Tiny networks with a decoding step, hand-made tables, and searches that are too slow to be wrong, for the tests."""

from __future__ import annotations

import math

import torch
from torch import nn

PAD, BOS, EOS, A, B, C = range(6)
PENALTIES = [-1.0, 0.0, 0.6, 1.0, 2.0]


class Tiny(nn.Module):
    """Embeddings, an encoder of one layer, and a output layer whose logits are far apart and depend on the source."""

    def __init__(self, seed, vocabulary=9, dim=8, eos=0.0):
        super().__init__()
        torch.manual_seed(seed)
        self.source, self.target = nn.Embedding(20, dim), nn.Embedding(vocabulary, dim)
        self.mix = nn.Linear(dim, dim)
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(3 * dim, vocabulary)
        self.double().requires_grad_(False)
        self.out.weight *= 4
        self.out.bias[EOS] += eos

    def encode(self, source, lengths):
        mask = torch.arange(source.shape[1]) < lengths[:, None]
        states = self.source(source) * mask[:, :, None]
        states = torch.tanh(self.mix(states + states.sum(1, keepdim=True)))
        return states, mask

    def attend(self, state, embedded, memory):
        """(batch, positions, dim) twice -> logits, attention"""
        states, mask = memory
        weights = (2 * state @ states.transpose(1, 2)).masked_fill(~mask[:, None], -math.inf).softmax(2)
        return self.out(torch.cat([state, embedded, weights @ states], 2)), weights


class Attentive(Tiny):
    """One layer of causal self-attention; `state` is its cache of keys and values."""

    def from_scratch(self, tokens, memory):
        x = self.target(tokens)  # (batch, time, dim)
        weights = 3 * self.query(x) @ self.key(x).transpose(1, 2)
        future = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
        state = torch.tanh(weights.masked_fill(future, -math.inf).softmax(2) @ self.value(x))
        return self.attend(state, x, memory)

    def init_state(self, memory, beams):
        empty = torch.zeros(len(memory[0]), beams, 0, self.mix.in_features, dtype=torch.float64)
        return empty, empty

    def decode_step(self, tokens, state, memory):
        x = self.target(tokens)  # (batch, beams, dim)
        keys = torch.cat([state[0], self.key(x)[:, :, None]], 2)
        values = torch.cat([state[1], self.value(x)[:, :, None]], 2)
        weights = (3 * self.query(x)[:, :, None] @ keys.transpose(2, 3)).softmax(3)
        logits, attention = self.attend(torch.tanh((weights @ values).squeeze(2)), x, memory)
        return logits, (keys, values), attention


class Recurrent(Tiny):
    """A simple recurrent network; `state` is its state."""

    def from_scratch(self, tokens, memory):
        state, outputs = torch.zeros(len(tokens), self.mix.in_features, dtype=torch.float64), []
        for token in tokens.T:
            state = torch.tanh(2 * self.key(state) + self.value(self.target(token)))
            outputs.append(state)
        return self.attend(torch.stack(outputs, 1), self.target(tokens), memory)

    def init_state(self, memory, beams):
        return [torch.zeros(len(memory[0]), beams, self.mix.in_features, dtype=torch.float64)]

    def decode_step(self, tokens, state, memory):
        new = torch.tanh(2 * self.key(state[0]) + self.value(self.target(tokens)))
        logits, attention = self.attend(new, self.target(tokens), memory)
        return logits, [new], attention


class FromScratch:
    """Steps of a network that remembers no more than the tokens."""

    def __init__(self, net):
        self.net = net

    def init_state(self, memory, beams):
        return torch.zeros(len(memory[0]), beams, 0, dtype=torch.int64)

    def decode_step(self, tokens, state, memory):
        history = torch.cat([state, tokens[:, :, None]], 2)
        results = [self.net.from_scratch(history[:, beam], memory) for beam in range(tokens.shape[1])]
        logits, attention = (torch.stack([x[:, -1] for x in column], 1) for column in zip(*results, strict=True))
        return logits, history, attention


class Table:
    """The next token follows from the last alone: rows of {token: probability}, and of attention."""

    def __init__(self, rows, attention=None):
        self.logits = torch.full((6, 6), -math.inf, dtype=torch.float64)
        self.logits[:, EOS] = 0.0  # rows that are left out: impossible tokens are stepped too
        for last, row in rows.items():
            self.logits[last] = -math.inf
            for token, probability in row.items():
                self.logits[last, token] = math.log(probability)
        self.attention = torch.full((6, 2), 0.5, dtype=torch.float64)
        for last, row in (attention or {}).items():
            self.attention[last] = torch.tensor(row)

    def init_state(self, memory, beams):
        return ()

    def decode_step(self, tokens, state, memory):
        return self.logits[tokens], (), self.attention[tokens]


class Watched:
    """Another decoder, and the tokens that were fed to it."""

    def __init__(self, decoder):
        self.decoder, self.init_state, self.tokens = decoder, decoder.init_state, []

    def decode_step(self, tokens, state, memory):
        self.tokens.append(tokens)
        return self.decoder.decode_step(tokens, state, memory)


NOTHING = (torch.zeros(1, 2),)  # memory of one sentence for a Table
NETS = [Attentive, Recurrent]
ENDS = {A: {EOS: 1.0}, B: {EOS: 1.0}, C: {EOS: 1.0}}


def sources(count=5, seed=0, longest=7):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator)
    source = torch.randint(3, 20, (count, longest), generator=generator)
    return source.masked_fill(torch.arange(longest) >= lengths[:, None], PAD)[:, : lengths.max()], lengths


def row(memory, i):
    return tuple(part[i : i + 1] for part in memory)


def words(answers):
    return [[h.tokens for h in hypotheses] for hypotheses in answers]


def scores(answers):
    return torch.tensor([h.score for hypotheses in answers for h in hypotheses], dtype=torch.float64)


def same(answers, others):
    assert words(answers) == words(others)
    assert torch.allclose(scores(answers), scores(others), rtol=1e-12, atol=0)


def only(answers):
    [[hypothesis]] = answers
    return hypothesis


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
    found, state = [], [(0.0, ())]
    for length in range(1, limit + 1):
        longer = [(s + p, (*tokens, token)) for s, tokens in state for token, p in scorer.following(tokens)]
        ends = [(s, tokens) for s, tokens in longer if tokens[-1] == EOS or length == limit]
        found += [(s / length**penalty, list(tokens)) for s, tokens in ends]
        state = [(s, tokens) for s, tokens in longer if tokens[-1] != EOS]
    return sorted(found, reverse=True)


def naive_beam(scorer, beam, limit, penalty, n_best):
    """(score, tokens), best first, of a search that goes on to the limit; and the step after which it could have stopped."""
    found, state, enough = [], [(0.0, ())], None
    for length in range(1, limit + 1):
        longer = [(s + p, (*tokens, token)) for s, tokens in state for token, p in scorer.following(tokens)]
        longer = sorted(longer, reverse=True)[: 2 * beam]
        ends = [(s, tokens) for s, tokens in longer[:beam] if tokens[-1] == EOS or length == limit]
        found = sorted(found + [(s / length**penalty, list(tokens)) for s, tokens in ends], reverse=True)
        state = [(s, tokens) for s, tokens in longer if tokens[-1] != EOS][:beam]
        reachable = [state[0][0] / further**penalty for further in range(length + 1, limit + 1)]
        if enough is None and (not reachable or (len(found) >= n_best and max(reachable) <= found[n_best - 1][0])):
            enough = length
    return found[:n_best], enough
