"""Exercise adam: torch.optim.Adam and AdamW, step by step."""

import random
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foundations.exercise import Exercise
from foundations.optimizers import Schedule, check_optimizer

exercise = Exercise(
    title="Adam: a step for each parameter, scaled by how large its gradients have been",
    level="core",
    minutes=25,
    link="projects.seq2seq.optim:MuonAdamW",
    why="embeddings and biases of the translator are trained by AdamW",
    hints=(
        "Two moving averages for each parameter, and its own count of updates.",
        "m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; w -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).",
        "The averages begin at 0, so the first update divides by 1 - b1 and 1 - b2; eps stands outside of the root.",
    ),
    source="torch.optim.adam:_single_tensor_adam",
    look_at="The bias corrections are folded into step_size and denom. Check that this equals the paper's form.",
    barred=("torch.optim.Optimizer",),
)


def check(
    answer: ModuleType,
    steps: int = 4,
    lr: Schedule | None = None,
    skip: int | None = None,
    decoupled: bool = False,
    **options: Any,
) -> None:
    """Compares with torch.optim.Adam or AdamW of the same options."""
    theirs = torch.optim.AdamW if decoupled else torch.optim.Adam
    options = {"weight_decay": 0.0, **options}
    check_optimizer(
        lambda p: answer.Adam(p, lr=0.1, decoupled=decoupled, **options),
        lambda p: theirs(p, lr=0.1, **options),
        steps,
        lr,
        skip,
        decoupled=decoupled,
        **options,
    )


@exercise.property("one step")
def one(answer: ModuleType, rng: random.Random) -> None:
    check(answer, steps=1)


@exercise.property("several steps")
def several(answer: ModuleType, rng: random.Random) -> None:
    check(answer, steps=6)
    check(answer, steps=6, betas=(0.5, 0.9))


@exercise.property("eps")
def eps(answer: ModuleType, rng: random.Random) -> None:
    check(answer, eps=0.5)


@exercise.property("weight decay in the gradient, and decoupled (AdamW)")
def decay(answer: ModuleType, rng: random.Random) -> None:
    check(answer, weight_decay=0.3)
    check(answer, weight_decay=0.3, decoupled=True)


@exercise.property("a learning rate that changes")
def schedule(answer: ModuleType, rng: random.Random) -> None:
    check(answer, lr=lambda step: 0.1 / (step + 1))


@exercise.property("a parameter that is skipped once")
def skipped(answer: ModuleType, rng: random.Random) -> None:
    check(answer, skip=0)
    check(answer, skip=2)


@exercise.property("the defaults are torch's")
def defaults(answer: ModuleType, rng: random.Random) -> None:
    check_optimizer(lambda p: answer.Adam(p), lambda p: torch.optim.Adam(p))
    check_optimizer(
        lambda p: answer.Adam(p, lr=0.1, weight_decay=0.3),
        lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.3),
        weight_decay=0.3,
    )


def adam(fault: str) -> type:
    """Adam with one of the known faults."""

    class Adam:
        def __init__(
            self,
            parameters: Iterable[Tensor],
            lr: float = 1e-3,
            betas: tuple[float, float] = (0.9, 0.999),
            eps: float = 1e-8,
            weight_decay: float = 0.0,
            decoupled: bool = False,
        ) -> None:
            self.parameters, self.lr, self.betas, self.eps = list(parameters), lr, betas, eps
            self.weight_decay, self.decoupled = weight_decay, decoupled and fault != "never_decoupled"
            self.m, self.v = ([torch.zeros_like(w) for w in self.parameters] for _ in range(2))
            self.counts = [0] * len(self.parameters)

        @torch.no_grad()
        def step(self) -> None:
            b1, b2 = self.betas
            for i, w in enumerate(self.parameters):
                if fault == "one_counter":
                    self.counts[i] += 1
                if w.grad is None:
                    continue
                if fault != "one_counter":
                    self.counts[i] += 1
                grad = w.grad + (0 if self.decoupled else self.weight_decay) * w
                if self.decoupled:
                    w *= 1 - self.lr * self.weight_decay
                self.m[i] = b1 * self.m[i] + (1 - b1) * grad
                self.v[i] = b2 * self.v[i] + (1 - b2) * (grad.abs() if fault == "abs" else grad**2)
                t = self.counts[i]
                m = self.m[i] if fault == "no_correction" else self.m[i] / (1 - b1**t)
                v = self.v[i] if fault == "no_correction" else self.v[i] / (1 - b2**t)
                w -= self.lr * m / ((v + self.eps).sqrt() if fault == "eps_inside" else v.sqrt() + self.eps)

        def zero_grad(self) -> None:
            for w in self.parameters:
                w.grad = None

    return Adam


exercise.wrong("Adam", "eps stands outside of the root: sqrt(v) + eps.")(adam("eps_inside"))
exercise.wrong("Adam", "Without the bias correction the first steps are far off: m and v begin at 0.")(adam("no_correction"))
exercise.wrong(
    "Adam", "AdamW shrinks the parameter itself; decay in the gradient is divided by sqrt(v) like everything else."
)(adam("never_decoupled"))
exercise.wrong("Adam", "Each parameter counts its own updates: one that was skipped is behind the others.")(
    adam("one_counter")
)
exercise.wrong("Adam", "v averages the squares of the gradients, not their sizes.")(adam("abs"))
exercise.also_right("Adam")(adam(""))


@exercise.also_right("Adam")
class Folded:
    """The corrections folded into the step size, in place."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8, **rest: Any
    ) -> None:
        self.ps, self.lr, self.betas, self.eps, self.rest = list(parameters), lr, betas, eps, rest
        self.state: dict[int, list[Any]] = {}

    @torch.no_grad()
    def step(self) -> None:
        (b1, b2), decay = self.betas, self.rest.get("weight_decay", 0.0)
        for p in (p for p in self.ps if p.grad is not None):
            state = self.state.setdefault(id(p), [0, torch.zeros_like(p), torch.zeros_like(p)])
            state[0] += 1
            g = p.grad
            if self.rest.get("decoupled"):
                p.mul_(1 - self.lr * decay)
            else:
                g = g.add(p, alpha=decay)
            state[1].lerp_(g, 1 - b1)
            state[2].mul_(b2).addcmul_(g, g, value=1 - b2)
            root = (1 - b2 ** state[0]) ** 0.5
            p.addcdiv_(state[1], state[2].sqrt() / root + self.eps, value=-self.lr / (1 - b1 ** state[0]))

    def zero_grad(self) -> None:
        for p in self.ps:
            p.grad = None
