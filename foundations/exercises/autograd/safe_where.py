"""Exercise safe_where: finite values, finite gradients."""

import random
from types import ModuleType

import torch
from torch import Tensor

from foundations.comparing import check_equal, check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="Safe where: functions that are fine, with gradients that are not",
    level="core",
    minutes=15,
    link="projects.gan.losses:squared_gradient_norms",
    why="gradient penalties differentiate a norm, which has no gradient at zero",
    hints=(
        "The branch that where does not pick is differentiated all the same: give it an input at which all is finite.",
        "safe = where(x > 0, x, 1), then where(x > 0, x * log(safe), 0).",
        "Two wheres: one around the input, one around the result. The same for the square root.",
    ),
    source="torch._refs:where",
    look_at="where itself is this short. Its derivative is the gradient where it was picked, else 0; and 0 * inf is nan.",
)


def gradient_of(function: object, x: Tensor) -> Tensor:
    """Gradient of the sum of the result."""
    copy = x.clone().requires_grad_()
    result = function(copy)
    check_that(result.requires_grad, "the result does not depend on x for autograd", x=x)
    return torch.autograd.grad(result.sum(), copy)[0]


def check_gradient(function: object, x: Tensor, expected: Tensor) -> None:
    """Compares the gradient with a formula's."""
    got = gradient_of(function, x)
    reason = difference(got, expected, 1e-4, 1e-6)
    check_that(not reason, f"gradient: {reason}", expected, got, x=x)


def entropy_values(x: Tensor) -> Tensor:
    """x log x, entry by entry in Python."""
    import math

    return torch.tensor([v * math.log(v) if v > 0 else 0.0 for v in x.flatten().tolist()], dtype=x.dtype).view(x.shape)


POSITIVE = torch.tensor([0.5, 1.0, 2.718281828, 2e-12, 1e-20, 1e-30])
ZEROS = torch.tensor([[0.0, 1.0], [0.25, 0.0]])


@exercise.property("x log x: values")
def entropy(answer: ModuleType, rng: random.Random) -> None:
    for x in (POSITIVE[:2], ZEROS, POSITIVE, ZEROS.double(), torch.tensor([float("inf")])):
        check_equal(answer.entropy_term, x, expected=entropy_values(x), atol=0.0)


@exercise.property("x log x: gradients")
def entropy_gradient(answer: ModuleType, rng: random.Random) -> None:
    check_gradient(answer.entropy_term, POSITIVE[:2], POSITIVE[:2].log() + 1)
    check_gradient(answer.entropy_term, torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
    check_gradient(answer.entropy_term, POSITIVE, POSITIVE.log() + 1)


@exercise.property("norms: values")
def norms(answer: ModuleType, rng: random.Random) -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-8, 0.0]])
    check_equal(answer.row_norms, x, expected=torch.tensor([5.0, 0.0, 1e-8]), atol=1e-14)
    check_equal(answer.row_norms, x[:0], expected=torch.zeros(0))


@exercise.property("norms: gradients")
def norm_gradient(answer: ModuleType, rng: random.Random) -> None:
    check_gradient(answer.row_norms, torch.tensor([[3.0, 4.0]]), torch.tensor([[0.6, 0.8]]))
    check_gradient(answer.row_norms, torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    check_gradient(answer.row_norms, torch.tensor([[1e-8, 0.0]]), torch.tensor([[1.0, 0.0]]))


@exercise.wrong(
    "entropy_term",
    "where picks 0, but the other branch is differentiated too: 0 * inf is nan in the gradient.",
    seen="https://github.com/pytorch/pytorch/issues/68425",
)
def one_where(x: Tensor) -> Tensor:
    return torch.where(x > 0, x * x.log(), 0.0)


@exercise.wrong(
    "entropy_term", "nan_to_num mends the value (and makes 3e38 of inf); the gradient of what came before is still nan."
)
def repaired(x: Tensor) -> Tensor:
    return (x * x.log()).nan_to_num() + 0.0 * (x > 0)


@exercise.wrong(
    "entropy_term", "clamp changes the values below its limit: 1e-20 is not 0, and the gradient there is cut off."
)
def clamped(x: Tensor) -> Tensor:
    return x * x.clamp(min=1e-12).log()


@exercise.wrong("entropy_term", "An eps inside the logarithm moves every value: 1e-20 gives log(1e-12).")
def with_eps(x: Tensor) -> Tensor:
    return x * (x + 1e-12).log()


@exercise.wrong("row_norms", "The square root has an infinite gradient at 0: the gradient of a row of zeros is nan.")
def plain_root(x: Tensor) -> Tensor:
    return x.square().sum(1).sqrt()


@exercise.wrong("row_norms", "An eps under the root makes the norm of zeros 1e-6: ask for positive sums instead.")
def root_with_eps(x: Tensor) -> Tensor:
    return (x.square().sum(1) + 1e-12).sqrt()


@exercise.also_right("entropy_term")
def by_mask(x: Tensor) -> Tensor:
    zero = x == 0
    return x * x.masked_fill(zero, 1.0).log()


@exercise.also_right("row_norms")
def by_library(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=1)
