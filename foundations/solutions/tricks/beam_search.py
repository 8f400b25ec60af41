"""Beam search: the best sequences of a network that says one token at a time

The most probable token first is not always the beginning of the most probable sequence. A beam keeps several beginnings.
"""

from collections.abc import Callable

import torch
from torch import Tensor

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], tuple[Tensor, State]]


def beam_search(
    step: Step, state: State, bos: int, eos: int, beam_width: int, max_length: int, length_penalty: float = 1.0
) -> list[tuple[list[int], float]]:
    """The best hypotheses that beam search finds.

    There is one hypothesis at first, without tokens. At each position every unfinished one is extended by every token; of
    all these candidates the `beam_width` of highest log-probability (the sum over their tokens) are kept, except those of
    log-probability -inf. A hypothesis is finished when it ends with `eos` or has `max_length` tokens: it is not extended
    any more. The others go on, until none is left.

    Args:
        step: Of the last tokens (K,) int64 of K hypotheses and their state: log-probabilities (K, V) of the next token, and
            the state after it. K may differ from call to call.
        state: The network's state: a tuple of tensors, each with first dimension K, the hypotheses in the order of the
            tokens; K = 1 for the state given here. Later dimensions may grow. The tuple may be empty.
        bos: Token before the first one.
        eos: Token that ends a hypothesis.
        beam_width: Number of candidates kept at each position.
        max_length: Largest number of tokens, eos included; at least 1.
        length_penalty: Exponent of the number of tokens n in the score: sum of log-probabilities / n ** length_penalty.

    Returns:
        Pairs (tokens, score) of finished hypotheses, the `beam_width` of highest score, best first; fewer if there are no
        more. Tokens are without bos, and with eos where it ended the hypothesis.

    Example:
        With beam_width = 1 it is greedy search: at each position the most probable token.
    """
    sums, tokens, histories, finished = torch.zeros(1), torch.tensor([bos]), [[]], []
    for length in range(1, max_length + 1):
        with torch.no_grad():
            log_probs, state = step(tokens, state)  # (K, V)
        sums, order = (sums[:, None] + log_probs).flatten().topk(min(beam_width, log_probs.numel()))
        parents, tokens = order // len(log_probs[0]), order % len(log_probs[0])
        histories = [[*histories[k], token] for k, token in zip(parents.tolist(), tokens.tolist(), strict=True)]
        going = []
        for k, history in enumerate(histories):
            if sums[k] == -torch.inf:
                continue
            if history[-1] == eos or length == max_length:
                finished.append((history, sums[k].item() / length**length_penalty))
            else:
                going.append(k)
        if not going:
            break
        sums, tokens, histories = sums[going], tokens[going], [histories[k] for k in going]
        state = tuple(part[parents[going]] for part in state)
    return sorted(finished, key=lambda hypothesis: -hypothesis[1])[:beam_width]
