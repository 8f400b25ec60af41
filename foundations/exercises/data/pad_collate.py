"""Exercise pad_collate: a rectangle of unequal rows."""

import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foundations.comparing import check_equal
from foundations.exercise import Exercise

exercise = Exercise(
    title="Padding: sequences of unequal length in one tensor",
    level="core",
    minutes=15,
    link="projects.seq2seq.data:collate",
    why="each batch of sentence pairs is padded to its own longest sentence, with a mask from the lengths",
    hints=(
        "The lengths say everything: the width of the rectangle, and which positions are padding.",
        "mask[b, t] = t < lengths[b]; begin with a tensor of padding, write each sequence to the front of its row.",
        "mask = torch.arange(T) < lengths[:, None]; tokens[mask] = torch.cat(all_tokens): it is filled row by row.",
    ),
    source="torch.nn.utils.rnn:pad_sequence",
    look_at="Which dimension comes first unless you say batch_first? And how does it tell padding from a token?",
    barred=(
        "pad_sequence",
        "torch.nn.utils.rnn.pad_sequence",
        "torch.nn.utils.rnn.pad_packed_sequence",
        "torch.nn.utils.rnn.pack_sequence",
    ),
)

Samples = list[tuple[Tensor, Tensor]]


def reference(samples: Samples) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row by row, in lists."""
    longest = max(len(tokens) for tokens, _ in samples)
    rows = [(tokens.tolist(), labels.tolist(), longest - len(tokens)) for tokens, labels in samples]
    shape = len(rows), longest
    return (
        torch.tensor([tokens + [0] * gap for tokens, _, gap in rows], dtype=torch.int64).view(shape),
        torch.tensor([len(tokens) for tokens, _, _ in rows]),
        torch.tensor([[True] * len(tokens) + [False] * gap for tokens, _, gap in rows], dtype=torch.bool).view(shape),
        torch.tensor([labels + [-100] * gap for _, labels, gap in rows], dtype=torch.int64).view(shape),
    )


def sequences(lengths: list[int], low: int = 1) -> Samples:
    """Random samples of given lengths, tokens from `low` on."""
    return [(torch.randint(low, 9, (length,)), torch.randint(4, (length,))) for length in lengths]


def check(answer: ModuleType, samples: Samples) -> None:
    """Compares with the reference, whether the result is a tuple or a list."""
    check_equal(answer.pad_collate, samples, expected=reference(samples))


@exercise.property("equal lengths")
def equal(answer: ModuleType, rng: random.Random) -> None:
    for lengths in ([1], [2, 2], [3, 3, 3]):
        check(answer, sequences(lengths))


@exercise.property("unequal lengths")
def unequal(answer: ModuleType, rng: random.Random) -> None:
    for lengths in ([2, 1], [1, 2], [1, 3, 2], [2, 4, 1], [3, 1, 3], [1, 5, 4, 2]):
        check(answer, sequences(lengths))


@exercise.property("0 is a token, too")
def zeros(answer: ModuleType, rng: random.Random) -> None:
    check(answer, [(torch.tensor([0]), torch.tensor([2])), (torch.tensor([3, 0]), torch.tensor([1, 0]))])
    check(answer, sequences([2, 4, 3], low=0))
    check(answer, [(torch.tensor([-100, 7]), torch.tensor([0, -100])), (torch.tensor([1]), torch.tensor([1]))])


@exercise.property("empty sequences")
def empty(answer: ModuleType, rng: random.Random) -> None:
    for lengths in ([0, 1], [2, 0], [0, 3, 0, 1], [0], [0, 0]):
        check(answer, sequences(lengths))


@exercise.property("any memory layout, inputs unchanged")
def layouts(answer: ModuleType, rng: random.Random) -> None:
    samples = [(torch.arange(8)[::2], torch.arange(8)[1::2]), (torch.ones(3, 2).long()[:, 0], torch.arange(3))]
    before = [(tokens.clone(), labels.clone()) for tokens, labels in samples]
    check(answer, samples)
    for (tokens, labels), (old_tokens, old_labels) in zip(samples, before, strict=True):
        check_equal(lambda tokens=tokens, labels=labels: (tokens, labels), expected=(old_tokens, old_labels))


def collate_with(fault: str) -> Callable[[Samples], Any]:
    """The collate function with one of the known faults."""

    def pad_collate(samples: Samples) -> Any:
        if fault == "no_empty":
            samples = [sample for sample in samples if len(sample[0])]
        lengths = torch.tensor([len(tokens) for tokens, _ in samples])
        longest = {"first": len(samples[0][0]), "shortest": min(map(int, lengths)), "fixed": 8}.get(
            fault, int(lengths.max())
        )
        tokens = torch.zeros(len(samples), longest, dtype=torch.float32 if fault == "floats" else torch.int64)
        labels = torch.full(tokens.shape, 0 if fault == "labels_0" else -100)
        for row, (one, targets) in enumerate(samples):
            if fault == "front":
                tokens[row, longest - len(one) :], labels[row, longest - len(one) :] = one, targets
                continue
            tokens[row, : len(one)], labels[row, : len(one)] = one[:longest], targets[:longest]
        mask = torch.arange(longest) < lengths[:, None]
        if fault == "front":
            mask = mask.flip(1)
        if fault == "by_value":
            mask = tokens != 0
        return tokens, lengths, ~mask if fault == "inverted" else mask, labels

    return pad_collate


MESSAGES = {
    "by_value": "The mask is `tokens != 0`, but 0 may be a token: which positions are padding is said by the lengths.",
    "labels_0": "Labels padded with 0: class 0 would be learned at every padded position. -100 is ignored by cross-entropy.",
    "first": "The rectangle is as wide as the first sequence: longer ones are cut.",
    "shortest": "The rectangle is as wide as the shortest sequence: the others are cut.",
    "no_empty": "An empty sequence is left out: the rows no longer belong to the samples.",
    "floats": "torch.zeros makes floats: tokens are indices and stay int64.",
    "inverted": (
        "The mask is True at the padding, as nn.MultiheadAttention takes it; here, as in scaled_dot_product_attention, True "
        "is a token."
    ),
    "front": "The padding stands in front of the tokens; at the end is asked for.",
    "fixed": "Every batch has the same width: the longest sequence of the batch is enough, and anything longer breaks it.",
}
for _fault, _message in MESSAGES.items():
    exercise.wrong("pad_collate", _message)(collate_with(_fault))
exercise.also_right("pad_collate")(collate_with(""))


@exercise.also_right("pad_collate")
def by_padding_each(samples: Samples) -> list[Tensor]:
    longest = max(sample[0].numel() for sample in samples)

    def fill(x: Tensor, value: int) -> Tensor:
        return torch.nn.functional.pad(x, (0, longest - x.numel()), value=value)

    marks = [fill(torch.ones_like(tokens), 0) for tokens, _ in samples]
    mask = torch.stack(marks).bool()
    tokens, labels = zip(*samples, strict=True)
    return [torch.stack([fill(x, 0) for x in tokens]), mask.sum(1), mask, torch.stack([fill(x, -100) for x in labels])]
