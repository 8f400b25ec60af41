"""Exercise beam_search: several beginnings at once, and their states with them."""

import math
import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foundations.comparing import Failure, check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="Beam search: the best sequences of a network that says one token at a time",
    level="core",
    minutes=35,
    link="projects.seq2seq.decoding:beam_search",
    why="translations are searched so: all sentences of a batch at once, with more options",
    hints=(
        "Flatten the candidates (K, V) into one row and take the best of all; the place in the row says parent and token.",
        "candidate[k, v] = sum[k] + log_prob[k, v]; parent = place // V, token = place % V; score = sum / n ** penalty.",
        "sums, order = (sums[:, None] + log_probs).flatten().topk(…); state = tuple(part[parents] for part in state)",
    ),
    source="torch._meta_registrations:topk_meta",
    look_at="torch has no beam search; topk, which does the work, is C++, and this says what it demands of k. "
    "A search from end to end in Python is _beam_search in transformers' generation/utils.py.",
)

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], tuple[Tensor, State]]
Hypotheses = list[tuple[list[int], float]]
BOS, EOS = 0, 1


class Network:
    """Recurrent network of random weights: its state holds a vector, and all tokens that it has read.

    Args:
        vocab_size: Number of tokens, V.
        seed: Of the weights.
        sharpness: Factor of the logits.
        with_state: False for a network that knows the last token alone; its state is the empty tuple.
    """

    def __init__(self, vocab_size: int, seed: int, sharpness: float = 2.0, with_state: bool = True) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.vocab_size, self.seed, self.with_state = vocab_size, seed, with_state
        self.table = torch.randn(vocab_size, 4, generator=rng)
        self.mix = torch.randn(4, 4, generator=rng)
        self.readout = sharpness * torch.randn(4, vocab_size, generator=rng)
        self.blocked = torch.zeros(vocab_size, dtype=torch.bool)

    def init_state(self) -> State:
        """State of one hypothesis without tokens."""
        return (torch.zeros(1, 4), torch.zeros(1, 0, dtype=torch.int64)) if self.with_state else ()

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Log-probabilities of the next tokens, and the state after it."""
        if self.with_state:
            hidden, read = state
            if len(hidden) != len(tokens) or len(read) != len(tokens):
                raise ValueError(f"{len(tokens)} tokens come with the states of {len(hidden)} hypotheses")
            hidden = (hidden @ self.mix + self.table[tokens]).tanh()
            state = hidden, torch.cat([read, tokens[:, None]], 1)
        else:
            hidden = self.table[tokens].tanh()
        logits = (hidden @ self.readout).masked_fill(self.blocked, -math.inf)
        return logits.log_softmax(1), state

    def __repr__(self) -> str:
        return f"Network({self.vocab_size} tokens, seed {self.seed})"


def sequences(network: Network, max_length: int, prefix: tuple[int, ...] = ()) -> dict[tuple[int, ...], float]:
    """Log-probability of every finished sequence, one after the other, each from the beginning."""
    state = network.init_state()
    log_probs = torch.zeros(1, network.vocab_size)
    for token in (BOS, *prefix):
        log_probs, state = network.step(torch.tensor([token]), state)
    found = {}
    for token, value in enumerate(log_probs[0].tolist()):
        if value > -math.inf and (token == EOS or len(prefix) + 1 == max_length):
            found[(*prefix, token)] = value
        elif value > -math.inf:
            rest = sequences(network, max_length, (*prefix, token))
            found.update({sequence: value + after for sequence, after in rest.items()})
    return found


def brute_force(network: Network, width: int, max_length: int, length_penalty: float) -> Hypotheses:
    """The best of all sequences."""
    scores = {key: value / len(key) ** length_penalty for key, value in sequences(network, max_length).items()}
    return [(list(key), scores[key]) for key in sorted(scores, key=lambda key: -scores[key])[:width]]


def one_by_one(network: Network, width: int, max_length: int, length_penalty: float) -> Hypotheses:
    """Beam search with a call of the network and a state of its own for each hypothesis."""
    going: list[tuple[list[int], float, State]] = [([], 0.0, network.init_state())]
    finished: Hypotheses = []
    while going:
        candidates = []
        for history, total, state in going:
            log_probs, after = network.step(torch.tensor([history[-1] if history else BOS]), state)
            candidates += [([*history, v], total + x, after) for v, x in enumerate(log_probs[0].tolist()) if x > -math.inf]
        going = []
        for history, total, state in sorted(candidates, key=lambda candidate: -candidate[1])[:width]:
            if history[-1] == EOS or len(history) == max_length:
                finished.append((history, total / len(history) ** length_penalty))
            else:
                going.append((history, total, state))
    return sorted(finished, key=lambda hypothesis: -hypothesis[1])[:width]


def check_search(
    answer: ModuleType, reference: Any, network: Network, width: int, max_length: int, length_penalty: float | None = None
) -> None:
    """Compares the hypotheses and their scores with the reference's; a length penalty of None leaves it at its default."""
    shown = {"network": network, "beam_width": width, "max_length": max_length}
    options = {} if length_penalty is None else {"length_penalty": length_penalty}
    shown.update(options)
    expected = reference(network, width, max_length, 1.0 if length_penalty is None else length_penalty)
    try:
        got = answer.beam_search(network.step, network.init_state(), BOS, EOS, width, max_length, **options)
        pairs = [([int(token) for token in tokens], float(score)) for tokens, score in got]
    except NotImplementedError:
        raise
    except Exception as error:
        raise Failure(f"raises {type(error).__name__}", shown, got=error) from error
    check_that(len(pairs) == len(expected), f"{len(pairs)} hypotheses in place of {len(expected)}", expected, pairs, **shown)
    for place, (mine, theirs) in enumerate(zip(pairs, expected, strict=True), 1):
        check_that(mine[0] == theirs[0], f"hypothesis {place}: the tokens differ", theirs, mine, **shown)
        reason = difference(mine[1], theirs[1], 1e-4, 1e-5)
        check_that(not reason, f"hypothesis {place}: the score differs", theirs, mine, **shown)


@exercise.property("one token")
def one_token(answer: ModuleType, rng: random.Random) -> None:
    check_search(answer, brute_force, Network(3, 0), 1, 1)
    check_search(answer, brute_force, Network(3, 1), 2, 1)
    check_search(answer, brute_force, Network(3, 2), 5, 1)


@exercise.property("a beam of one: greedy search")
def greedy(answer: ModuleType, rng: random.Random) -> None:
    for seed in range(3):
        check_search(answer, one_by_one, Network(4, seed), 1, 4)


@exercise.property("a wide beam: the best of all sequences")
def wide(answer: ModuleType, rng: random.Random) -> None:
    for seed in range(2):
        check_search(answer, brute_force, Network(3, seed), 3**2, 2)
    check_search(answer, brute_force, Network(3, 5), 3**3, 3)
    for length_penalty in (0.0, 0.5, 2.0):
        check_search(answer, brute_force, Network(3, 6), 3**3, 3, length_penalty)


@exercise.property("a narrow beam")
def narrow(answer: ModuleType, rng: random.Random) -> None:
    for seed in range(4):
        check_search(answer, one_by_one, Network(4, seed), 2, 3)
        check_search(answer, one_by_one, Network(5, seed, 1.0), 3, 5)


@exercise.property("no state")
def stateless(answer: ModuleType, rng: random.Random) -> None:
    check_search(answer, one_by_one, Network(4, 3, with_state=False), 3, 4)


@exercise.property("impossible tokens")
def impossible(answer: ModuleType, rng: random.Random) -> None:
    network = Network(4, 1)
    network.blocked[2:] = True  # what is left: bos and eos
    check_search(answer, brute_force, network, 5, 2)
    network.blocked[BOS] = True
    check_search(answer, brute_force, network, 2, 3)


@exercise.property("no graph is kept")
def graph(answer: ModuleType, rng: random.Random) -> None:
    network = Network(3, 1)
    network.readout.requires_grad_()
    scores = [score for _, score in answer.beam_search(network.step, network.init_state(), BOS, EOS, 2, 3)]
    kept = [score for score in scores if isinstance(score, Tensor) and score.requires_grad]
    check_that(not kept, "scores with a graph: take numbers by item()", "numbers", kept, network=network)


def search(fault: str) -> Any:
    """Beam search with one of the known faults."""

    def beam_search(
        step: Step, state: State, bos: int, eos: int, beam_width: int, max_length: int, length_penalty: float = 1.0
    ) -> Hypotheses:
        sums, tokens, histories = torch.zeros(1), torch.tensor([bos]), [[]]
        finished: list[tuple[list[int], float]] = []
        max_length += fault == "one_more"
        for length in range(1, max_length + 1):
            log_probs, state = step(tokens, state)
            vocab = log_probs.size(1)
            if fault == "probabilities":
                log_probs = log_probs.exp()
            extended = sums.unsqueeze(1) + log_probs
            if fault == "per_beam" and length > 1:
                sums, tokens = extended.max(1)
                parents = torch.arange(len(sums))
            else:
                sums, order = extended.reshape(-1).topk(beam_width if fault == "topk" else min(beam_width, extended.numel()))
                parents, tokens = order.div(vocab, rounding_mode="floor"), order.remainder(vocab)
            histories = [histories[k] + [t] for k, t in zip(parents.tolist(), tokens.tolist(), strict=True)]
            ended = (tokens == eos) | (length == max_length)
            if fault == "grows_on":
                ended = torch.full_like(ended, length == max_length)
            if fault == "unfinished_dropped":
                ended = tokens == eos
            possible = torch.ones_like(ended) if fault == "impossible_kept" else sums > -math.inf
            for k in (ended & possible).nonzero()[:, 0].tolist():
                count = (
                    1 if fault == "raw" else length if fault != "without_eos" else max(1, length - (tokens[k] == eos).item())
                )
                finished.append((histories[k], sums[k].item() / count**length_penalty))
            keep = (~ended & possible).nonzero()[:, 0]
            if len(keep) == 0 or (fault == "first_end" and finished) or (fault == "full" and len(finished) >= beam_width):
                break
            sums, tokens, histories = sums[keep], tokens[keep], [histories[k] for k in keep.tolist()]
            if fault == "parents_first":
                state = tuple(part[keep.clamp(max=len(part) - 1)] for part in state)
            elif fault == "untouched":
                pass
            elif fault == "not_reordered":
                state = tuple(part[torch.arange(len(keep)) % len(part)] for part in state)
            else:
                state = tuple(part[parents[keep]] for part in state)
        best = finished if fault == "unsorted" else sorted(finished, key=lambda pair: pair[1], reverse=True)
        if fault == "with_bos":
            best = [([bos, *tokens], score) for tokens, score in best]
        return best if fault == "all" else best[:beam_width]

    return beam_search


for fault, message in {
    "per_beam": "Each beam keeps its own best extension: take the best of all candidates, whichever beams they come from.",
    "grows_on": "A hypothesis that ended with eos is extended further: take it out of the beam when it is finished.",
    "raw": "Sums over unequal lengths are compared: each token makes a sum smaller. Divide by n ** length_penalty.",
    "not_reordered": "The states stay where they are while the hypotheses move: take each one's state from its parent.",
    "parents_first": "The states are taken by the candidates' places, not by their parents.",
    "unfinished_dropped": "A hypothesis of max_length tokens is finished, too, without eos.",
    "first_end": "The search stops at the first finished hypothesis: a longer one may have a better score.",
    "full": "The search stops when beam_width hypotheses are finished: one that goes on may have a better score than they.",
    "all": "Every finished hypothesis is returned: of all that were found, the beam_width best are.",
    "topk": "topk raises where it is asked for more than there are, as at first: take min(beam_width, candidates).",
    "one_more": "A hypothesis goes on after max_length tokens: with the last of them, eos or not, it is finished.",
    "with_bos": "The tokens begin with bos: it was given, not found.",
    "without_eos": "eos is a token, too: its log-probability is in the sum, so it counts in the length.",
    "unsorted": "The hypotheses come in the order in which they ended: sort by score, best first.",
    "impossible_kept": "A candidate of log-probability -inf fills a free place in the beam: it is impossible, leave it out.",
    "probabilities": "Probabilities are added: add log-probabilities.",
}.items():
    exercise.wrong("beam_search", message)(search(fault))
    if fault == "not_reordered":
        exercise.wrong("beam_search", message)(search("untouched"))
exercise.also_right("beam_search")(search(""))


@exercise.also_right("beam_search")
def hypothesis_by_hypothesis(
    step: Step, state: State, bos: int, eos: int, beam_width: int, max_length: int, length_penalty: float = 1.0
) -> Hypotheses:
    beam, done = [(0.0, [], state)], []
    while beam:
        every = []
        for total, words, mine in beam:
            log_probs, after = step(torch.tensor([words[-1] if words else bos]), mine)
            every += [(total + p.item(), [*words, v], after) for v, p in enumerate(log_probs[0]) if p > -math.inf]
        every.sort(key=lambda item: item[0], reverse=True)
        beam = []
        for total, words, after in every[:beam_width]:
            (done if words[-1] == eos or len(words) == max_length else beam).append((total, words, after))
    ranked = sorted(((total / len(words) ** length_penalty, words) for total, words, _ in done), reverse=True)
    return [(words, score) for score, words in ranked[:beam_width]]


@exercise.also_right("beam_search")
def fixed_beam(
    step: Step, state: State, bos: int, eos: int, beam_width: int, max_length: int, length_penalty: float = 1.0
) -> Hypotheses:
    """Always `beam_width` rows; those that are not in use have the sum -inf."""
    state = tuple(part.repeat_interleave(beam_width, 0) for part in state)
    text = torch.full((beam_width, 1), bos)
    total = torch.full((beam_width,), -math.inf).index_fill(0, torch.tensor([0]), 0.0)
    done = []
    for n in range(1, max_length + 1):
        log_probs, state = step(text[:, -1], state)
        flat = (total[:, None] + log_probs).flatten()
        top = flat.argsort(descending=True)[:beam_width]
        total, rows, words = flat[top], top // log_probs.shape[-1], top % log_probs.shape[-1]
        text = torch.cat([text[rows], words[:, None]], 1)
        state = tuple(part.index_select(0, rows) for part in state)
        for k in range(len(top)):
            if total[k] > -math.inf and (n == max_length or words[k] == eos):
                done.append((text[k, 1:].tolist(), total[k].item() / n**length_penalty))
                total[k] = -math.inf
    done.sort(key=lambda pair: pair[1], reverse=True)
    return done[:beam_width]
