"""Exercise gather: an entry of each row by an index tensor."""

import random
from types import ModuleType

import torch
from torch import Tensor

from foundations.comparing import check_equal, check_gradients
from foundations.exercise import Exercise

exercise = Exercise(
    title="Gather: the score of each row's label",
    level="core",
    minutes=8,
    link="projects.policy_gradient.losses:policy_gradient_loss",
    why="the log-probability of the action that was taken, of each transition",
    hints=(
        "Two index tensors of the same shape pick one entry each: the first says the row, the second the column.",
        "out[i] = scores[i, labels[i]] for i = 0 … N - 1.",
        "scores[torch.arange(N), labels], or scores.gather(1, labels[:, None]) and then drop the dimension of size 1.",
    ),
    source="torch._meta_registrations:gather_shape_check",
    look_at="gather is C++; this says what it demands of shapes. In which dimension may the index be longer than the input?",
)


def reference(scores: Tensor, labels: Tensor) -> Tensor:
    """Entry by entry."""
    return torch.stack([scores[i, label] for i, label in enumerate(labels.tolist())]) if len(labels) else scores.new_empty(0)


@exercise.property("values")
def values(answer: ModuleType, rng: random.Random) -> None:
    for n, c in [(2, 3), (3, 2), (4, 4), (7, 5)]:
        scores, labels = torch.randn(n, c), torch.randint(c, (n,))
        check_equal(answer.gather_scores, scores, labels, expected=reference(scores, labels))


@exercise.property("one row, no row")
def sizes(answer: ModuleType, rng: random.Random) -> None:
    for n in (1, 0):
        scores, labels = torch.randn(n, 3), torch.randint(3, (n,))
        check_equal(answer.gather_scores, scores, labels, expected=reference(scores, labels))


@exercise.property("any memory layout")
def layouts(answer: ModuleType, rng: random.Random) -> None:
    scores, labels = torch.randn(5, 3).t(), torch.randint(5, (6,))[::2]
    check_equal(answer.gather_scores, scores, labels, expected=reference(scores, labels))


@exercise.property("gradient")
def gradient(answer: ModuleType, rng: random.Random) -> None:
    check_gradients(answer.gather_scores, reference, torch.randn(4, 3), torch.tensor([2, 0, 2, 1]))


@exercise.wrong(
    "gather_scores", "scores[:, labels] picks the columns of all labels in every row: (N, N), which is right for N = 1 only."
)
def every_label_of_every_row(scores: Tensor, labels: Tensor) -> Tensor:
    return scores[:, labels]


@exercise.wrong("gather_scores", "squeeze() without a dimension also drops the batch when N is 1: squeeze(1), or [:, 0].")
def squeezed_batch(scores: Tensor, labels: Tensor) -> Tensor:
    return scores.gather(1, labels[:, None]).squeeze()


@exercise.wrong("gather_scores", "gather keeps the index's shape, (N, 1): drop its second dimension.")
def kept_dimension(scores: Tensor, labels: Tensor) -> Tensor:
    return scores.gather(1, labels[:, None])


@exercise.also_right("gather_scores")
def by_gather(scores: Tensor, labels: Tensor) -> Tensor:
    return scores.gather(1, labels[:, None]).squeeze(1)


@exercise.also_right("gather_scores")
def by_loop(scores: Tensor, labels: Tensor) -> Tensor:
    result = scores.new_empty(len(labels))
    for i in range(len(labels)):
        result[i] = scores[i, labels[i]]
    return result
