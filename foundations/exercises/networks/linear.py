"""Exercise linear: torch.nn.Linear, by hand."""

import random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from foundations.comparing import call, check_equal, check_that
from foundations.exercise import Exercise
from foundations.modules import check_gradients_of, check_state_dict, load_same

exercise = Exercise(
    title="Linear: the layer that most of a network is made of",
    level="core",
    minutes=12,
    link="projects.seq2seq.transformer:FeedForward",
    why="the Transformer's sublayer is two of them with a ReLU between",
    hints=(
        "Two nn.Parameter in __init__ (or one, and None), a matrix product in forward.",
        "y = x W^T + b with W (out, in): the last dimension of x meets the last of W.",
        "nn.Parameter(torch.empty(out, in).uniform_(-bound, bound)), bound = in ** -0.5; x @ self.weight.t() + self.bias",
    ),
    source="torch.nn:Linear",
    look_at="reset_parameters calls kaiming_uniform_ with a = sqrt(5). Work out that this bound is 1 / sqrt(in).",
    barred=("linear", "addmm", "bilinear", "torch.nn.Linear", "torch.nn.LazyLinear", "torch.nn.Bilinear"),
)


@exercise.property("parameters")
def parameters(answer: ModuleType, rng: random.Random) -> None:
    check_state_dict(answer.Linear(3, 2), nn.Linear(3, 2))
    check_state_dict(answer.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False))
    check_that(answer.Linear(3, 2, bias=False).bias is None, "without a bias, the attribute bias is None")


@exercise.property("values")
def values(answer: ModuleType, rng: random.Random) -> None:
    for shape, out, bias in [((1, 2), 1, True), ((2, 3), 4, True), ((3, 3), 3, True), ((2, 3), 2, False)]:
        ours, theirs = load_same(answer.Linear(shape[-1], out, bias), nn.Linear(shape[-1], out, bias))
        x = torch.randn(shape)
        check_equal(ours, x, expected=theirs(x).detach())


@exercise.property("any leading dimensions")
def leading(answer: ModuleType, rng: random.Random) -> None:
    ours, theirs = load_same(answer.Linear(3, 2), nn.Linear(3, 2))
    for shape in [(3,), (2, 2, 3), (0, 3), (1, 2, 2, 3)]:
        x = torch.randn(shape)
        check_equal(ours, x, expected=theirs(x).detach())


@exercise.property("gradients")
def gradients(answer: ModuleType, rng: random.Random) -> None:
    check_gradients_of(*load_same(answer.Linear(3, 2), nn.Linear(3, 2)), torch.randn(4, 3))


@exercise.property("initialization")
def initialization(answer: ModuleType, rng: random.Random) -> None:
    for in_features, out in [(16, 400), (400, 16)]:
        layer = answer.Linear(in_features, out)
        bound = in_features**-0.5
        for name, parameter in layer.named_parameters():
            largest = parameter.abs().max().item()
            fits = 0.75 * bound <= largest <= bound * 1.0001 and abs(parameter.std().item() * 3**0.5 / bound - 1) < 0.25
            check_that(
                fits, f"{name} is not uniform in [-{bound:.3g}, {bound:.3g}]", bound, largest, in_features=in_features
            )
    first, second = call(answer.Linear, 4, 4), call(answer.Linear, 4, 4)
    check_that(not torch.equal(first.weight, second.weight), "two layers begin with the same weights")


def layer(**faults: Any) -> type:
    """The layer with one of the known faults."""

    class Linear(nn.Module):
        def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
            super().__init__()
            shape = (in_features, out_features) if faults.get("transposed") else (out_features, in_features)
            bound = faults.get("bound", lambda i, o: i**-0.5)(in_features, out_features)
            weight, b = torch.empty(shape).uniform_(-bound, bound), torch.empty(out_features).uniform_(-bound, bound)
            make = (lambda x: x) if faults.get("plain") else nn.Parameter
            self.weight: Any = make(weight)
            if bias or not faults.get("missing"):
                self.bias: Any = make(b) if bias else None

        def forward(self, x: Tensor) -> Tensor:
            if faults.get("matrix_only"):
                y = torch.mm(x, self.weight.t())
            else:
                y = x @ (self.weight if faults.get("transposed") else self.weight.t())
            return y if getattr(self, "bias", None) is None else y + self.bias

    return Linear


exercise.wrong(
    "Linear",
    "The weight is (in, out): torch keeps (out, in), nn.Linear(64, 10) holds (10, 64), and multiplies by its transpose.",
)(layer(transposed=True))
exercise.wrong(
    "Linear", "Plain tensors are no parameters: neither an optimizer nor a state dict finds them. Use nn.Parameter."
)(layer(plain=True))
exercise.wrong("Linear", "Without a bias the attribute is missing: set self.bias = None.")(layer(missing=True))
exercise.wrong("Linear", "The bound goes by the inputs, 1 / sqrt(in_features), not by the outputs.")(
    layer(bound=lambda i, o: o**-0.5)
)
exercise.wrong("Linear", "torch.mm takes matrices alone: @ takes any leading dimensions.")(layer(matrix_only=True))
exercise.also_right("Linear")(layer(bound=lambda i, o: (1 / i) ** 0.5))


@exercise.also_right("Linear")
class ByEinsum(nn.Module):
    """The bias first, another initialization call, einsum."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_features)) if bias else None)
        self.weight = nn.Parameter(torch.zeros(out_features, in_features))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(in_features**-0.5), in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.einsum("...i,oi->...o", x, self.weight)
        return out if self.bias is None else out + self.bias
