"""Exercise manual_update: what autograd must not see, and what it must."""

import random
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foundations.comparing import Note, check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="Manual update: a step of gradient descent that autograd does not see",
    level="core",
    minutes=10,
    link="projects.cifar10.optim:MuonSGD",
    why="every optimizer writes into the parameters under no_grad",
    hints=(
        "Change the tensor itself, in place, while autograd does not record; then clear the gradient.",
        "parameter -= lr * parameter.grad under torch.no_grad().",
        "with torch.no_grad(): parameter -= lr * parameter.grad; parameter.grad = None. Not `.data`: it hides the change.",
    ),
    source="torch.optim.sgd:_single_tensor_sgd",
    look_at="The last line of the loop is this exercise. What comes before it for momentum and weight decay?",
    barred=("torch.optim.SGD", "torch.optim.Adam", "torch.optim.AdamW"),
)


def leaf(*values: float) -> Tensor:
    """Leaf that requires a gradient."""
    return torch.tensor(values, requires_grad=True)


@exercise.property("values, in place")
def values(answer: ModuleType, rng: random.Random) -> None:
    w, b = leaf(1.0, 2.0), leaf(3.0)
    storage = w.data_ptr()
    (w.sum() * 0.5 + 2 * b.sum()).backward()
    answer.sgd_step([w, b], 0.1)
    for got, expected in ((w, torch.tensor([0.95, 1.95])), (b, torch.tensor([2.8]))):
        reason = difference(got.detach(), expected, 1e-6, 1e-7)
        check_that(not reason, reason, expected, got, lr=0.1)
    check_that(w.data_ptr() == storage, "the parameter is another tensor: the model keeps the old one")


@exercise.property("still leaves, gradients cleared")
def leaves(answer: ModuleType, rng: random.Random) -> None:
    w = leaf(1.0)
    for _ in range(3):
        (w * 2).sum().backward()
        answer.sgd_step(iter([w]), 0.1)
        check_that(w.is_leaf and w.requires_grad, "the parameter is no leaf any more: the next .grad would be None")
        check_that(
            w.grad is None or not w.grad.any(), "the gradient is not cleared: the next backward adds to it", got=w.grad
        )
    check_that(not difference(w.detach(), torch.tensor([0.4]), 1e-5, 1e-6), "after three steps", torch.tensor([0.4]), w)


@exercise.property("parameters without a gradient")
def frozen(answer: ModuleType, rng: random.Random) -> None:
    w, unused = leaf(1.0), leaf(5.0)
    w.sum().backward()
    answer.sgd_step([unused, w], 0.5)
    check_that(
        unused.item() == 5.0 and w.item() == 0.5,
        "a parameter without a gradient",
        "5.0 and 0.5",
        Note(f"{unused.item()} and {w.item()}"),
    )


@exercise.property("a stale graph notices")
def stale(answer: ModuleType, rng: random.Random) -> None:
    w = leaf(1.0, 2.0)
    old = (w * w).sum()  # its backward needs w as it was
    w.sum().backward()
    answer.sgd_step([w], 0.1)
    try:
        old.backward()
    except RuntimeError:
        return
    check_that(
        False,
        "backward through a graph from before the step gives a wrong gradient without an error",
        "RuntimeError",
        w.grad,
    )


@exercise.wrong("sgd_step", "w = w - … makes a new tensor: the model's parameter never changes.")
def new_tensor(parameters: Iterable[Tensor], lr: float) -> None:
    for w in parameters:
        if w.grad is not None:
            grad, w.grad = w.grad, None
            w = w - lr * grad


@exercise.wrong(
    "sgd_step",
    "`.data` hides the change from autograd: a graph from before the step gives a wrong gradient and no error. Use no_grad.",
    seen="https://pytorch.org/blog/pytorch-0_4_0-migration-guide/",
)
def through_data(parameters: Iterable[Tensor], lr: float) -> None:
    for w in parameters:
        if w.grad is not None:
            w.data -= lr * w.grad
            w.grad = None


@exercise.wrong("sgd_step", "The gradient is not cleared: the next backward() adds to it.")
def not_cleared(parameters: Iterable[Tensor], lr: float) -> None:
    with torch.no_grad():
        for w in parameters:
            if w.grad is not None:
                w -= lr * w.grad


@exercise.wrong("sgd_step", "A parameter that took no part has no gradient: None * lr is an error. Skip it.")
def none_gradient(parameters: Iterable[Tensor], lr: float) -> None:
    for w in parameters:
        grad: Any = w.grad
        with torch.no_grad():
            w -= lr * grad
        w.grad = None


@exercise.wrong(
    "sgd_step", "In place on a leaf that requires a gradient is an error while autograd records: torch.no_grad()."
)
def recorded(parameters: Iterable[Tensor], lr: float) -> None:
    for w in parameters:
        if w.grad is not None:
            w -= lr * w.grad
            w.grad = None


@exercise.also_right("sgd_step")
@torch.no_grad()
def by_add(parameters: Iterable[Tensor], lr: float) -> None:
    for p in parameters:
        if p.grad is None:
            continue
        p.add_(p.grad, alpha=-lr)
        p.grad.zero_()


@exercise.also_right("sgd_step")
def by_copy(parameters: Iterable[Tensor], lr: float) -> None:
    for p in parameters:
        grad, p.grad = p.grad, None
        if grad is not None:
            with torch.no_grad():
                p.copy_(p - grad * lr)
