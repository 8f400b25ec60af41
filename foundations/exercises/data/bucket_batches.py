"""Exercise bucket_batches: next to no padding, and still random."""

import copy
import itertools
import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from foundations.comparing import Note, call, check_that
from foundations.exercise import Exercise
from foundations.exercises.data.generators import global_states_kept

exercise = Exercise(
    title="Bucketing: batches of similar length under a budget of tokens",
    level="core",
    minutes=20,
    link="common.data.batches:token_batches",
    why="sentences of similar length share a batch of equally many tokens",
    hints=(
        "Sort by length, fill one batch after the other, and shuffle the batches at the end.",
        "In rising order the sequence at hand is the longest: close the batch if (rows + 1) * length > max_tokens.",
        "Shuffle the indices before a stable sort by length, so that ties are random; random.Random(seed) is your own.",
    ),
    source="torch.utils.data.sampler:BatchSampler.__iter__",
    look_at="It counts samples, not tokens. A list of lists such as yours can be given to DataLoader(batch_sampler=...).",
    barred=("torch.utils.data.BatchSampler",),
)


def batches_of(answer: ModuleType, lengths: list[int], max_tokens: int, seed: int = 0) -> list[list[int]]:
    """The learner's batches. Raises Failure if they are not lists of whole numbers that have each index once."""
    given = copy.copy(lengths)
    got = call(answer.bucket_batches, given, max_tokens, seed)
    shown: dict[str, Any] = {"lengths": lengths if len(lengths) < 25 else len(lengths), "max_tokens": max_tokens}
    check_that(given == lengths, "changes its input lengths", lengths, given, **shown)
    good = isinstance(got, list) and all(isinstance(b, list) and all(isinstance(i, int) for i in b) for b in got)
    check_that(good, "a list of lists of whole numbers is expected", got=got, **shown)
    check_that(all(got), "a batch is empty", got=got, **shown)
    found, expected = sorted(i for batch in got for i in batch), list(range(len(lengths)))
    check_that(found == expected, "the indices of all batches, sorted", expected, found, **shown)
    return got


def check_budget(answer: ModuleType, lengths: list[int], max_tokens: int, seed: int = 0) -> list[list[int]]:
    """Batches, of which each is within its budget, padding included, or one sequence alone."""
    got = batches_of(answer, lengths, max_tokens, seed)
    for batch in got:
        own = [lengths[i] for i in batch]
        check_that(
            len(batch) * max(own) <= max_tokens or len(batch) == 1,
            "rows times the longest of a batch",
            f"at most {max_tokens}",
            len(batch) * max(own),
            lengths_of_the_batch=own,
            max_tokens=max_tokens,
        )
    return got


def many_lengths() -> list[int]:
    """A thousand lengths, as of sentences."""
    rng = random.Random(1)
    return [rng.randint(1, 40) for _ in range(1000)]


@exercise.property("each sequence once, within the budget")
def budget(answer: ModuleType, rng: random.Random) -> None:
    for lengths, size in [
        ([2], 4),
        ([1, 1], 1),
        ([1, 2], 4),
        ([1, 3], 4),
        ([1, 1, 4, 4], 8),
        ([3, 1, 2], 6),
        ([2, 9, 4, 1, 5], 12),
    ]:
        check_budget(answer, lengths, size)
    for size in (7, 16, 33):
        check_budget(answer, [rng.randint(1, 7) for _ in range(24)], size, seed=size)


@exercise.property("one length: as many as fit")
def full(answer: ModuleType, rng: random.Random) -> None:
    for count, length, size, expected in [(2, 1, 2, [2]), (4, 2, 4, [2, 2]), (5, 3, 7, [1, 2, 2]), (6, 1, 5, [1, 5])]:
        got = sorted(len(batch) for batch in check_budget(answer, [length] * count, size))
        check_that(got == expected, "sizes of the batches, sorted", expected, got, lengths=[length] * count, max_tokens=size)


@exercise.property("too long, empty, none")
def extremes(answer: ModuleType, rng: random.Random) -> None:
    for lengths, size in [([5], 3), ([5, 1], 3), ([9, 9, 1], 4), ([0, 1], 2), ([0, 0, 0], 2), ([0, 9], 4)]:
        check_budget(answer, lengths, size)
    got = call(answer.bucket_batches, [], 4, 0)
    check_that(got == [], "batches of no sequence", [], got)


@exercise.property("little padding, few batches")
def efficiency(answer: ModuleType, rng: random.Random) -> None:
    lengths = many_lengths()
    got = check_budget(answer, lengths, 400)
    filled = sum(lengths) / (400 * len(got))
    check_that(filled >= 0.7, "too much of the budget is no token", Note(f"at least 0.7 is tokens, not {filled:.2f}"))


@exercise.property("the same by seed, the global state left alone")
def seeds(answer: ModuleType, rng: random.Random) -> None:
    lengths = many_lengths()[:200]
    first = batches_of(answer, lengths, 100, 3)
    torch.rand(1)
    random.random()
    check_that(batches_of(answer, lengths, 100, 3) == first, "the same seed gives other batches the second time")
    with global_states_kept("the function"):
        batches_of(answer, lengths, 100, 3)
    check_that(batches_of(answer, lengths, 100, 4) != first, "another seed gives the same batches")


@exercise.property("batches in random order")
def order(answer: ModuleType, rng: random.Random) -> None:
    lengths = many_lengths()[:200]
    for seed in range(4):
        longest = [max(lengths[i] for i in batch) for batch in batches_of(answer, lengths, 100, seed)]
        steps = [a <= b for a, b in itertools.pairwise(longest)]
        rising = sum(steps) / len(steps)
        check_that(0.2 < rising < 0.8, "how often a batch is at least as long as the one before it", "about half", rising)


@exercise.property("random companions")
def companions(answer: ModuleType, rng: random.Random) -> None:
    lengths = [3] * 12
    for seed in range(20):
        mine = next(batch for batch in batches_of(answer, lengths, 9, seed) if 0 in batch)
        if sorted(mine) != [0, 1, 2]:
            break
    else:
        check_that(False, "in 20 epochs, sequences of one length share a batch with their neighbors in the list")
    partners = {i for seed in range(60) for batch in batches_of(answer, lengths, 9, seed) if 0 in batch for i in batch}
    check_that(partners == set(range(12)), "sequences that share a batch with 0, in 60 epochs", 12, len(partners))


def batches_with(fault: str) -> Callable[[list[int], int, int], list[list[int]]]:
    """The function with one of the known faults."""

    def bucket_batches(lengths: list[int], max_tokens: int, seed: int) -> list[list[int]]:
        rng: Any = random if fault in ("global", "unseeded") else random.Random(seed)
        if fault == "torch":
            torch.manual_seed(seed)
            rng.seed(int(torch.randint(10**9, ())))
        if fault == "global":
            random.seed(seed)
        order = list(range(len(lengths)))
        if fault != "companions" and fault != "sorted":
            rng.shuffle(order)
        if fault != "unsorted":
            order.sort(key=lambda i: lengths[i])
        batches: list[list[int]] = [[]]
        for i in order:
            batch = [lengths[j] for j in (*batches[-1], i)]
            size = sum(batch) if fault == "without_padding" else len(batch) * max(batch)
            if fault == "before":
                size = (len(batch) - 1) * max(batch)
            if fault == "exact":
                size += 1
            if fault == "vanishes" and lengths[i] > max_tokens:
                continue
            if size > max_tokens and batches[-1]:
                batches.append([])
            batches[-1].append(i)
        if fault == "last":
            batches.pop()
        batches = [batch for batch in batches if batch]
        if fault not in ("sorted", "rising"):
            rng.shuffle(batches)
        return batches

    return bucket_batches


MESSAGES = {
    "without_padding": "The budget counts the tokens alone: with padding, a batch has rows times its longest sequence.",
    "sorted": "Sorted, and the same in every epoch: nothing is random here.",
    "rising": "The batches come by length: short ones first teach the network nothing about long ones. Shuffle the batches.",
    "companions": "The same sequences share a batch in every epoch: shuffle before the stable sort by length.",
    "vanishes": "A sequence longer than the budget vanishes without a word: it makes a batch alone.",
    "before": "The budget is compared before the sequence is added: each batch may be one row too large.",
    "exact": "A batch that fits exactly is cut: `at most max_tokens` allows equality.",
    "unsorted": "The sequences are not sorted by length: half of the budget is padding.",
    "last": "The last batch, which is still open when the loop ends, is lost.",
    "torch": "torch.manual_seed sets the global generator, which initialization and dropout use: make a torch.Generator().",
    "unseeded": "The batches come from a global generator, not from the seed.",
    "global": "random.seed sets Python's global generator, which others use too: random.Random(seed) is one of your own.",
}
for _fault, _message in MESSAGES.items():
    exercise.wrong("bucket_batches", _message)(batches_with(_fault))


@exercise.also_right("bucket_batches")
def from_the_longest(lengths: list[int], max_tokens: int, seed: int) -> list[list[int]]:
    """Torch, and from the longest to the shortest: the first of a batch is its longest."""
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(lengths), generator=rng)
    order = order[torch.tensor(lengths, dtype=torch.int64)[order].argsort(descending=True)]
    batches = []
    while len(order):
        rows = max(1, max_tokens // max(lengths[int(order[0])], 1))
        batches.append(order[:rows].tolist())
        order = order[rows:]
    return [batches[i] for i in torch.randperm(len(batches), generator=rng)]


@exercise.also_right("bucket_batches")
def by_classes_of_length(lengths: list[int], max_tokens: int, seed: int) -> list[list[int]]:
    """Buckets of lengths that differ by an eighth at most; each is cut by itself."""
    rng = random.Random(seed)
    buckets: dict[int, list[int]] = {}
    for i in rng.sample(range(len(lengths)), len(lengths)):
        bound, step = 8, 1
        while bound < lengths[i]:
            bound, step = bound + step, max(1, bound // 8)
        buckets.setdefault(lengths[i] if lengths[i] <= 8 else bound, []).append(i)
    batches = []
    for members in buckets.values():
        longest = max(lengths[i] for i in members)
        rows = max(1, max_tokens // max(longest, 1))
        batches += [members[i : i + rows] for i in range(0, len(members), rows)]
    return rng.sample(batches, len(batches))
