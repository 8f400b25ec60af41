"""Exercise sgd: torch.optim.SGD, step by step."""

import random
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foundations.exercise import Exercise
from foundations.optimizers import Schedule, check_optimizer

exercise = Exercise(
    title="SGD: the optimizer, with momentum",
    level="core",
    minutes=20,
    link="projects.cifar10.optim:MuonSGD",
    why="biases and the output layer are trained by SGD with Nesterov momentum",
    hints=(
        "Keep one buffer for each parameter; the first buffer is the first gradient.",
        "g = grad + wd * w; buffer = momentum * buffer + g; w -= lr * buffer, or lr * (g + momentum * buffer) for Nesterov.",
        "The learning rate stands outside of the buffer, or a change of it would change what is remembered.",
    ),
    source="torch.optim.sgd:_single_tensor_sgd",
    look_at="The first buffer is a clone of the gradient. Where does dampening come in, and what is it by default?",
    barred=("torch.optim.Optimizer",),
)


def check(answer: ModuleType, steps: int = 4, lr: Schedule | None = None, skip: int | None = None, **options: Any) -> None:
    """Compares with torch.optim.SGD of the same options."""
    check_optimizer(
        lambda p: answer.SGD(p, lr=0.1, **options),
        lambda p: torch.optim.SGD(p, lr=0.1, **options),
        steps,
        lr,
        skip,
        **options,
    )


@exercise.property("plain")
def plain(answer: ModuleType, rng: random.Random) -> None:
    check(answer)


@exercise.property("momentum")
def momentum(answer: ModuleType, rng: random.Random) -> None:
    check(answer, momentum=0.9)
    check(answer, momentum=0.5)


@exercise.property("Nesterov")
def nesterov(answer: ModuleType, rng: random.Random) -> None:
    check(answer, momentum=0.9, nesterov=True)


@exercise.property("weight decay")
def decay(answer: ModuleType, rng: random.Random) -> None:
    check(answer, weight_decay=0.2)
    check(answer, weight_decay=0.2, momentum=0.9, nesterov=True)


@exercise.property("a learning rate that changes")
def schedule(answer: ModuleType, rng: random.Random) -> None:
    check(answer, lr=lambda step: 0.1 / (step + 1), momentum=0.9)


@exercise.property("a parameter without a gradient")
def missing(answer: ModuleType, rng: random.Random) -> None:
    check(answer, skip=0, momentum=0.9)
    check(answer, skip=2, momentum=0.9, weight_decay=0.1)


def sgd(fault: str) -> type:
    """SGD with one of the known faults."""

    class SGD:
        def __init__(
            self,
            parameters: Iterable[Tensor],
            lr: float,
            momentum: float = 0.0,
            nesterov: bool = False,
            weight_decay: float = 0.0,
        ) -> None:
            self.parameters, self.lr, self.momentum = list(parameters), lr, momentum
            self.nesterov, self.weight_decay = nesterov, weight_decay
            self.buffers: dict[int, Tensor] = {}

        @torch.no_grad()
        def step(self) -> None:
            for i, w in enumerate(self.parameters):
                if w.grad is None:
                    if fault == "none":
                        raise TypeError("unsupported operand type(s) for *: 'float' and 'NoneType'")
                    continue
                grad = (
                    w.grad.add_(w, alpha=self.weight_decay) if fault == "decay_in_grad" else w.grad + self.weight_decay * w
                )
                if not self.momentum:
                    w -= self.lr * grad
                    continue
                new = grad * (1 - self.momentum) if fault == "averaged" else grad * self.lr if fault == "lr_inside" else grad
                old = self.buffers.get(i, torch.zeros_like(w))
                buffer = self.buffers[i] = self.momentum * old + new
                step = new + self.momentum * buffer if self.nesterov and fault != "no_nesterov" else buffer
                w -= step if fault == "lr_inside" else self.lr * step

        def zero_grad(self) -> None:
            for w in self.parameters:
                w.grad = None

    return SGD


exercise.wrong("SGD", "torch's momentum adds the whole gradient, not (1 - momentum) times it.")(sgd("averaged"))
exercise.wrong("SGD", "The learning rate is inside of the buffer: right as long as it never changes.")(sgd("lr_inside"))
exercise.wrong("SGD", "A parameter that took no part has no gradient (None): skip it.")(sgd("none"))
exercise.wrong("SGD", "Weight decay is written into .grad: whoever looks at the gradient afterwards sees another.")(
    sgd("decay_in_grad")
)
exercise.wrong("SGD", "Nesterov steps along g + momentum * buffer, one step ahead.")(sgd("no_nesterov"))
exercise.also_right("SGD")(sgd(""))


@exercise.also_right("SGD")
class InPlace:
    """In place, with gradients zeroed."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ):
        self.pairs: list[list[Any]] = [[p, None] for p in parameters]
        self.lr, self.mu, self.nesterov, self.wd = lr, momentum, nesterov, weight_decay

    def step(self) -> None:
        with torch.no_grad():
            for pair in self.pairs:
                p, buf = pair
                if p.grad is not None:
                    d = p.grad.clone().add_(p, alpha=self.wd)
                    pair[1] = d.clone() if buf is None else buf.mul_(self.mu).add_(d)
                    p.sub_(d.add_(pair[1], alpha=self.mu) if self.nesterov else pair[1] if self.mu else d, alpha=self.lr)

    def zero_grad(self) -> None:
        for p, _ in self.pairs:
            if p.grad is not None:
                p.grad.zero_()
