"""Exercise mlp: one hidden layer, four parameters, two moons."""

import random
from types import ModuleType

import torch
from torch import Tensor

from foundations.comparing import check_equal, check_gradients, check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="Multilayer perceptron: one hidden layer, four parameters",
    level="core",
    minutes=25,
    link="projects.policy_gradient.networks:mlp",
    why="policy and value network are such layers in a row",
    hints=(
        "Two matrix products with a nonlinearity between; no nonlinearity at the end.",
        "h = max(0, x w1 + b1); out = h w2 + b2. Random weights, std sqrt(2 / in_dim), or all units stay equal.",
        "x.clamp(min=0) is relu; torch.randn(in_dim, hidden_dim, generator=rng) * (2 / in_dim) ** 0.5; requires_grad_().",
    ),
    source="torch._refs.nn.functional:relu",
    look_at="relu is where(x > 0, x, 0) or so. What does torch take for the gradient at exactly 0?",
    barred=(
        "relu",
        "relu6",
        "threshold",
        "hardtanh",
        "torch.nn.Linear",
        "torch.nn.ReLU",
        "torch.optim.SGD",
        "torch.optim.Adam",
    ),
)


def generator(seed: int = 0) -> torch.Generator:
    """A random generator of its own."""
    return torch.Generator().manual_seed(seed)


def moons(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two half moons with noise: points (count, 2) around the origin, classes (count,)."""
    rng = generator(seed)
    y = (torch.rand(count, generator=rng) < 0.5).float()
    angle = torch.pi * torch.rand(count, generator=rng)
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], 1)
    x = torch.where(y[:, None] == 1, -upper, upper)
    return 2 * (x + 0.1 * torch.randn(count, 2, generator=rng)), y


@exercise.property("relu")
def rectifier(answer: ModuleType, rng: random.Random) -> None:
    for x in (torch.tensor([-1.0, 0.0, 2.0]), torch.randn(2, 3), torch.randn(2, 1, 2)):
        check_equal(answer.relu, x, expected=torch.where(x > 0, x, torch.zeros_like(x)))
    check_gradients(answer.relu, torch.relu, torch.tensor([-1.0, 0.5, 2.0]))


@exercise.property("outputs")
def outputs(answer: ModuleType, rng: random.Random) -> None:
    for n, d, h, k in [(1, 1, 2, 1), (2, 3, 4, 2), (3, 3, 3, 3)]:
        parameters = [torch.randn(d, h), torch.randn(h), torch.randn(h, k), torch.randn(k)]
        x = torch.randn(n, d)
        hidden = x @ parameters[0] + parameters[1]
        expected = torch.where(hidden > 0, hidden, torch.zeros(())) @ parameters[2] + parameters[3]
        check_equal(answer.mlp, x, parameters, expected=expected)


@exercise.property("initialization")
def initialization(answer: ModuleType, rng: random.Random) -> None:
    parameters = answer.init_mlp(50, 400, 3, generator())
    shapes = [tuple(p.shape) for p in parameters]
    check_that(shapes == [(50, 400), (400,), (400, 3), (3,)], "the shapes", [(50, 400), (400,), (400, 3), (3,)], shapes)
    check_that(all(p.requires_grad and p.is_leaf for p in parameters), "not all are leaves that require a gradient")
    w1, b1, w2, b2 = (p.detach() for p in parameters)
    check_that(not b1.any() and not b2.any(), "the biases do not begin at zero")
    check_that(not torch.equal(w1[:, 0], w1[:, 1]), "all hidden units begin equal, and stay so: random weights part them")
    std = torch.relu(torch.randn(2000, 50) @ w1).square().mean().sqrt().item()
    check_that(
        0.6 < std < 1.5, "activations of the hidden layer for inputs of standard deviation 1: their size", "about 1", std
    )
    check_that(0.01 < w2.std() < 0.5, "standard deviation of w2", "about 0.05", w2.std().item())
    again = answer.init_mlp(50, 400, 3, generator())
    check_that(torch.equal(w1, again[0]), "the same generator gives other weights: take all random numbers from it")


@exercise.property("two moons")
def two_moons(answer: ModuleType, rng: random.Random) -> None:
    x, y = moons(400, 0)
    parameters = answer.train_mlp(x, y, 16, generator())
    test_x, test_y = moons(1000, 1)
    stated = answer.train_mlp(x, y, 16, generator(), lr=0.5, steps=400)
    for name, got, want in zip(("w1", "b1", "w2", "b2"), parameters, stated, strict=True):
        reason = difference(got, want, 1e-4, 1e-5)
        check_that(not reason, f"{name} differs when the defaults, lr=0.5 and steps=400, are given", want, got)
    with torch.no_grad():
        accuracy = ((answer.mlp(test_x, parameters)[:, 0] > 0) == (test_y == 1)).float().mean().item()
    check_that(accuracy > 0.95, "accuracy on new points of the two moons", "over 0.95", accuracy)


@exercise.property("lr and steps are used")
def settings(answer: ModuleType, rng: random.Random) -> None:
    x, y = moons(50, 2)
    begin = [p.detach().clone() for p in answer.init_mlp(2, 4, 1, generator())]
    for options in ({"steps": 0}, {"lr": 0.0, "steps": 2}):
        parameters = answer.train_mlp(x, y, 4, generator(), **options)
        same = all(torch.equal(a.detach(), b) for a, b in zip(parameters, begin, strict=True))
        check_that(same, "the parameters changed", **options)


@exercise.wrong("init_mlp", "With zero weights all hidden units get the same gradient, and stay equal for ever.")
def zeros(in_dim: int, hidden_dim: int, out_dim: int, rng: torch.Generator) -> list[Tensor]:
    shapes = [(in_dim, hidden_dim), (hidden_dim,), (hidden_dim, out_dim), (out_dim,)]
    return [torch.zeros(shape, requires_grad=True) for shape in shapes]


@exercise.wrong(
    "init_mlp", "Weights of standard deviation 1 make the activations grow with the root of the inputs: sqrt(2 / in_dim)."
)
def unscaled(in_dim: int, hidden_dim: int, out_dim: int, rng: torch.Generator) -> list[Tensor]:
    w1, w2 = (
        torch.randn(in_dim, hidden_dim, generator=rng),
        torch.randn(hidden_dim, out_dim, generator=rng) * hidden_dim**-0.5,
    )
    return [p.requires_grad_() for p in (w1, torch.zeros(hidden_dim), w2, torch.zeros(out_dim))]


@exercise.wrong("init_mlp", "A scaled leaf is no leaf: scale first, then requires_grad_().")
def scaled_leaf(in_dim: int, hidden_dim: int, out_dim: int, rng: torch.Generator) -> list[Tensor]:
    w1 = torch.randn(in_dim, hidden_dim, generator=rng, requires_grad=True) * (2 / in_dim) ** 0.5
    w2 = torch.randn(hidden_dim, out_dim, generator=rng, requires_grad=True) * hidden_dim**-0.5
    return [w1, torch.zeros(hidden_dim, requires_grad=True), w2, torch.zeros(out_dim, requires_grad=True)]


@exercise.wrong("mlp", "A relu on the output cuts off all negative answers.")
def rectified_output(x: Tensor, parameters: list[Tensor]) -> Tensor:
    w1, b1, w2, b2 = parameters
    return ((x @ w1 + b1).clamp(min=0) @ w2 + b2).clamp(min=0)


@exercise.wrong("mlp", "Without the nonlinearity two layers are one: a line cannot part the moons.")
def without_relu(x: Tensor, parameters: list[Tensor]) -> Tensor:
    w1, b1, w2, b2 = parameters
    return (x @ w1 + b1) @ w2 + b2


@exercise.wrong("relu", "torch.maximum compares two tensors; a number raises a TypeError: clamp(min=0).")
def maximum_of_a_number(x: Tensor) -> Tensor:
    return torch.maximum(x, 0)


@exercise.wrong("relu", "This is the absolute value: negative entries become 0, not positive.")
def absolute(x: Tensor) -> Tensor:
    return x.abs()


@exercise.also_right("relu")
def by_mask(x: Tensor) -> Tensor:
    return x * (x > 0)


@exercise.also_right("mlp")
def by_bmm(x: Tensor, parameters: list[Tensor]) -> Tensor:
    first, second = parameters[:2], parameters[2:]
    hidden = torch.addmm(first[1], x, first[0])
    hidden = torch.where(hidden < 0, torch.zeros_like(hidden), hidden)
    return torch.einsum("nh,hk->nk", hidden, second[0]).add(second[1])
