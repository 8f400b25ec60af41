"""Exercise numerical_gradient: central differences in float64, of tensors of any layout."""

import random
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from foundations.comparing import check_equal, check_that
from foundations.exercise import Exercise

exercise = Exercise(
    title="Numerical gradient: a check of autograd that trusts nothing but the function",
    level="core",
    minutes=20,
    link="common.debug.gradients:numerical_derivative",
    why="`--debug gradients` compares autograd with such differences for every parameter",
    hints=(
        "Copy x to float64, change one entry at a time by plus and minus eps, and put it back.",
        "(f(x + eps e_i) - f(x - eps e_i)) / (2 eps); the error falls with eps squared.",
        "point = x.double().contiguous().clone(); flat = point.view(-1); flat[i] = value + eps; up = f(point).item(); …",
    ),
    source="torch.autograd.gradcheck:_get_numerical_jacobian",
    look_at="torch's gradcheck does the same for a whole Jacobian. Which dtype does gradcheck ask for, and why?",
    barred=("torch.autograd.gradcheck.gradcheck", "torch.func.grad", "torch.func.jacrev"),
)

Function = Callable[[Tensor], Tensor]


def cubes(x: Tensor) -> Tensor:
    """Sum of cubes."""
    return (x**3).sum()


def mixed(x: Tensor) -> Tensor:
    """A function whose entries meet."""
    return (x.flatten()[:-1] * x.flatten()[1:]).sum() + x.sin().sum()


def gradient_of(f: Function, x: Tensor) -> Tensor:
    """By autograd, in float64."""
    leaf = x.detach().double().clone().requires_grad_()
    return torch.autograd.grad(f(leaf), leaf)[0]


class _Bent(torch.autograd.Function):
    """Square with a gradient that is a tenth too large."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2.2 * x * grad


@exercise.property("values")
def values(answer: ModuleType, rng: random.Random) -> None:
    for f in (cubes, mixed):
        for x in (torch.tensor([1.0, 3.0]), torch.randn(2, 3), torch.randn(2, 1, 2)):
            check_equal(answer.numerical_gradient, f, x, expected=gradient_of(f, x), rtol=1e-6, atol=1e-7)


@exercise.property("large values, small steps")
def precision(answer: ModuleType, rng: random.Random) -> None:
    x = torch.tensor([100.0, 0.01])
    check_equal(answer.numerical_gradient, cubes, x, 1e-4, expected=gradient_of(cubes, x), rtol=1e-6, atol=1e-6)


@exercise.property("any memory layout")
def layouts(answer: ModuleType, rng: random.Random) -> None:
    for x in (torch.randn(3, 2).t(), torch.randn(4)[::2], torch.randn(1, 3).expand(2, 3)):
        check_equal(answer.numerical_gradient, mixed, x, expected=gradient_of(mixed, x), rtol=1e-6, atol=1e-7)


@exercise.property("eps is used")
def step(answer: ModuleType, rng: random.Random) -> None:
    x = torch.tensor([1.0])
    expected = torch.tensor([3.0 + 0.1**2], dtype=torch.float64)  # of x^3, the error is exactly eps^2
    check_equal(answer.numerical_gradient, cubes, x, 0.1, expected=expected, rtol=1e-9)


@exercise.property("agreement with autograd")
def agreement(answer: ModuleType, rng: random.Random) -> None:
    x = torch.tensor([0.5, -1.0, 2.0])
    check_equal(answer.gradients_agree, mixed, x, expected=True)
    check_equal(answer.gradients_agree, lambda x: _Bent.apply(x).sum(), x, expected=False)
    check_equal(answer.gradients_agree, lambda x: _Bent.apply(x).sum() * 1e-5, x, expected=True)
    check_that(not x.requires_grad, "x was changed: it requires a gradient now", x=x)


def central(f: Function, point: Tensor, eps: float) -> Tensor:
    """Central differences at `point`, which is changed on the way."""
    gradient = torch.zeros(point.shape, dtype=torch.float64)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in point.shape)).view(-1, point.ndim).tolist():
        entry = tuple(index)
        value = point[entry].item()
        point[entry] = value + eps
        up = f(point).item()
        point[entry] = value - eps
        gradient[entry] = (up - f(point).item()) / (2 * eps)
        point[entry] = value
    return gradient


@exercise.wrong(
    "numerical_gradient", "float32 has seven digits: the difference of two values is mostly rounding. Use float64."
)
def in_float32(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    return central(f, x.detach().clone(memory_format=torch.contiguous_format), eps)


@exercise.wrong("numerical_gradient", "One-sided differences are off by eps times the curvature: step up and down.")
def one_sided(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    point = x.detach().double().clone(memory_format=torch.contiguous_format)
    base, gradient = f(point).item(), torch.zeros(point.numel(), dtype=torch.float64)
    for i in range(point.numel()):
        moved = point.clone()
        moved.view(-1)[i] += eps
        gradient[i] = (f(moved).item() - base) / eps
    return gradient.view(x.shape)


@exercise.wrong("numerical_gradient", "An entry is not put back after its turn: the later ones are taken at another point.")
def not_restored(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    point = x.detach().double().clone(memory_format=torch.contiguous_format)
    flat, gradient = point.view(-1), torch.zeros(x.numel(), dtype=torch.float64)
    for i in range(len(flat)):
        flat[i] += eps
        up = f(point).item()
        flat[i] -= 2 * eps
        gradient[i] = (up - f(point).item()) / (2 * eps)
    return gradient.view(x.shape)


@exercise.wrong(
    "numerical_gradient",
    "reshape(-1) copies what is not contiguous: you change the copy, f sees no difference, and the gradient is 0.",
)
def into_a_copy(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    point = x.detach().double().clone()
    flat, gradient = point.reshape(-1), torch.zeros(x.numel(), dtype=torch.float64)
    for i in range(len(flat)):
        value = flat[i].item()
        flat[i] = value + eps
        up = f(point).item()
        flat[i] = value - eps
        gradient[i] = (up - f(point).item()) / (2 * eps)
        flat[i] = value
    return gradient.view(x.shape)


@exercise.wrong("gradients_agree", "A relative tolerance alone fails near zero: an absolute one is needed beside it.")
def relative_only(f: Function, x: Tensor) -> bool:
    numerical, exact = central(f, x.detach().double().clone(), 1e-5), gradient_of(f, x)
    return bool(((numerical - exact).abs() <= 1e-4 * exact.abs()).all())


@exercise.also_right("numerical_gradient")
def by_unit_vectors(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    units = torch.eye(x.numel(), dtype=torch.float64).view(x.numel(), *x.shape) * eps
    return torch.tensor([(f(x.double() + u) - f(x.double() - u)).item() / (2 * eps) for u in units]).double().view(x.shape)


@exercise.also_right("numerical_gradient")
def by_entry(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    return central(f, x.detach().to(torch.float64).contiguous().clone(), eps)
