"""Exercise linear_regression: the first training loop."""

import random
from types import ModuleType

import torch
from torch import Tensor

from foundations.comparing import check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="Linear regression: the first training loop, with tensors alone",
    level="warm-up",
    minutes=15,
    link="projects.blank.module:BlankModule",
    why="the same problem with a network, an optimizer and a Trainer",
    hints=(
        "Predict, compute the mean of the squared differences, take gradients, step against them, clear them; again.",
        "w -= lr * dL/dw and b -= lr * dL/db, with L = mean((x w + b - y)^2).",
        "loss = (x @ w + b - y).square().mean(); loss.backward(); with torch.no_grad(): w -= lr * w.grad; w.grad = None",
    ),
    source="torch.nn.functional:mse_loss",
    look_at="It warns where input and target have different shapes. Why does it not raise?",
    barred=("lstsq", "torch.optim.SGD", "torch.optim.Adam", "torch.nn.Linear", "pinv"),
)

Fit = tuple[Tensor, Tensor]


def case(n: int, d: int, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """Samples of a linear function, with noise."""
    x = torch.randn(n, d)
    return x, x @ torch.arange(1.0, d + 1) + 0.5 + noise * torch.randn(n)


def least_squares(x: Tensor, y: Tensor) -> Fit:
    """The minimum, by the normal equations."""
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1)], 1), y[:, None]).solution[:, 0]
    return solution[:-1], solution[-1]


def check_fit(answer: ModuleType, x: Tensor, y: Tensor, expected: Fit, tolerance: float = 1e-3, **options: float) -> None:
    """Compares the fit with the expected one."""
    shown = {"x": x, "y": y, **options}
    try:
        w, b = answer.fit_line(x, y, **options)
    except (ValueError, TypeError) as error:
        check_that(False, f"does not return weights and bias: {error}", **shown)
    for name, got, want in (("weights", w, expected[0]), ("bias", b, expected[1])):
        reason = difference(got, want, tolerance, tolerance)
        check_that(not reason, f"{name}: {reason}", want, got, **shown)
        check_that(not got.requires_grad, f"the {name} still have a graph: detach them", **shown)


@exercise.property("one step")
def one_step(answer: ModuleType, rng: random.Random) -> None:
    x, y = torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 2.0])
    check_fit(answer, x, y, (torch.tensor([0.8]), torch.tensor(0.4)), 1e-5, lr=0.1, steps=1)


@exercise.property("two steps")
def two_steps(answer: ModuleType, rng: random.Random) -> None:
    x, y = torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 2.0])
    w = b = torch.tensor(0.0)
    for _ in range(2):
        error = x[:, 0] * w + b - y
        w, b = w - 0.05 * 2 * (error * x[:, 0]).mean(), b - 0.05 * 2 * error.mean()
    check_fit(answer, x, y, (w[None], b), 1e-5, lr=0.05, steps=2)


@exercise.property("as good as least squares")
def converged(answer: ModuleType, rng: random.Random) -> None:
    for n, d in [(20, 1), (40, 3)]:
        x, y = case(n, d, 0.3)
        check_fit(answer, x, y, least_squares(x, y))


@exercise.property("500 steps of 0.1 by default")
def defaults(answer: ModuleType, rng: random.Random) -> None:
    x, y = torch.tensor([[-0.15], [-0.05], [0.2]]), torch.tensor([1.0, 2.0, 6.0])  # so small that 500 steps are not enough
    check_fit(answer, x, y, descend(x, y, 0.1, 500, ""), 1e-4)


def descend(x: Tensor, y: Tensor, lr: float, steps: int, form: str) -> Fit:
    """Gradient descent with one of the known faults."""
    w, b = torch.zeros(x.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    for _ in range(steps):
        error = (x @ w + b)[:, None] - y if form == "column" else x @ w + b - y
        loss = error.square().sum() if form == "sum" else error.square().mean()
        loss.backward()
        with torch.no_grad():
            for parameter in (w, b):
                if form != "no_bias" or parameter is w:
                    parameter += (lr if form == "ascent" else -lr) * (parameter.grad if parameter.grad is not None else 0)
                if form != "kept":
                    parameter.grad = None
    return w.detach(), b.detach()


@exercise.wrong(
    "fit_line", "(N, 1) minus (N,) is (N, N): every prediction meets every target, and the loss stops at the variance."
)
def every_pair(x: Tensor, y: Tensor, lr: float = 0.1, steps: int = 500) -> Fit:
    return descend(x, y, lr, steps, "column")


@exercise.wrong("fit_line", "The gradients are never cleared: each step goes along the sum of all before.")
def gradients_kept(x: Tensor, y: Tensor, lr: float = 0.1, steps: int = 500) -> Fit:
    return descend(x, y, lr, steps, "kept")


@exercise.wrong("fit_line", "The loss is a sum: the steps grow with the number of samples. Take the mean.")
def summed(x: Tensor, y: Tensor, lr: float = 0.1, steps: int = 500) -> Fit:
    return descend(x, y, lr, steps, "sum")


@exercise.wrong("fit_line", "The step goes along the gradient, uphill: subtract it.")
def ascent(x: Tensor, y: Tensor, lr: float = 0.1, steps: int = 500) -> Fit:
    return descend(x, y, lr, steps, "ascent")


@exercise.wrong("fit_line", "The bias never moves.")
def bias_forgotten(x: Tensor, y: Tensor, lr: float = 0.1, steps: int = 500) -> Fit:
    return descend(x, y, lr, steps, "no_bias")


@exercise.also_right("fit_line")
def by_formulas(x: Tensor, y: Tensor, lr: float = 0.1, steps: int = 500) -> Fit:
    w, b = x.new_zeros(x.shape[1]), x.new_zeros(())
    for _ in range(steps):
        residual = x @ w + b - y
        w, b = w - lr * 2 * x.t() @ residual / len(y), b - lr * 2 * residual.mean()
    return w, b


@exercise.also_right("fit_line")
def with_a_column_of_ones(x: Tensor, y: Tensor, lr: float = 0.1, steps: int = 500) -> Fit:
    inputs = torch.hstack([x, torch.ones(len(x), 1)])
    theta = torch.zeros(inputs.shape[1])
    for _ in range(steps):
        theta.requires_grad_(True)
        (grad,) = torch.autograd.grad(torch.nn.functional.mse_loss(inputs @ theta, y), theta)
        theta = (theta - lr * grad).detach()
    return theta[:-1], theta[-1]
