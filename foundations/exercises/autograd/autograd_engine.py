"""Exercise autograd_engine: equal to torch on random graphs."""

from __future__ import annotations

import random
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foundations.comparing import Failure, check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="Autograd engine: reverse-mode differentiation in sixty lines",
    level="challenge",
    minutes=45,
    link="projects.seq2seq.losses:LinearCrossEntropy",
    why="a function of one's own with its own way back, in torch's engine",
    hints=(
        "Each operation returns a Value that remembers its parents and a function from its gradient to theirs.",
        "Go in reverse topological order; gradients that meet in a value add up; sum over stretched dimensions.",
        "for value in reversed(order): for each parent and its part of the gradient: add it, summed to its shape.",
    ),
    source="torch.autograd:backward",
    look_at="The engine is C++; this is its door. What does it make of grad_tensors=None for a tensor of one entry?",
    barred=("backward", "torch.autograd.grad", "torch.autograd.backward", "torch.func.grad", "torch.func.vjp"),
)


def check_graph(answer: ModuleType, name: str, build: Any, *inputs: Tensor, calls: int = 1) -> None:
    """Compares the value and the gradients of a graph with torch's, built by the same function."""
    ours = [answer.Value(x.clone()) for x in inputs]
    theirs = [x.clone().requires_grad_() for x in inputs]
    shown = {f"input {i}": x for i, x in enumerate(inputs, 1)}
    try:
        result = build(*ours)
        for _ in range(calls):
            result.backward()
    except NotImplementedError:
        raise
    except (Exception, RecursionError) as error:
        raise Failure(f"{name}: raises {type(error).__name__}", shown, got=error) from error
    expected = build(*theirs)
    for _ in range(calls):
        expected.backward(retain_graph=True)
    reason = difference(result.data, expected.detach(), 1e-4, 1e-5)
    check_that(not reason, f"{name}: the value: {reason}", expected, result.data, **shown)
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True), 1):
        want = torch.zeros_like(b) if b.grad is None else b.grad
        reason = difference(a.grad, want, 1e-4, 1e-5)
        check_that(not reason, f"{name}: gradient of input {number}: {reason}", want, a.grad, **shown)


@exercise.property("one operation")
def one(answer: ModuleType, rng: random.Random) -> None:
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 5.0]])
    check_graph(answer, "a.sum()", lambda a: a.sum(), a)
    check_graph(answer, "(a + b).sum()", lambda a, b: (a + b).sum(), a, b)
    check_graph(answer, "(a * b).sum()", lambda a, b: (a * b).sum(), a, b)
    check_graph(answer, "a.tanh().sum()", lambda a: a.tanh().sum(), a)
    check_graph(answer, "(a @ b).sum()", lambda a, b: (a @ b).sum(), torch.randn(2, 3), torch.randn(3, 4))


@exercise.property("a value that is used twice")
def twice(answer: ModuleType, rng: random.Random) -> None:
    a = torch.tensor([2.0, 3.0])
    check_graph(answer, "(a * a).sum()", lambda a: (a * a).sum(), a)
    check_graph(answer, "(a + a).sum()", lambda a: (a + a).sum(), a)

    def diamond(a: Any) -> Any:
        b = a.tanh()
        return (b * b.tanh() + b).sum()

    check_graph(answer, "b = a.tanh(); (b * b.tanh() + b).sum()", diamond, a)


@exercise.property("broadcasting")
def broadcast(answer: ModuleType, rng: random.Random) -> None:
    for left, right in [((2, 3), (3,)), ((2, 1), (1, 3)), ((2, 3), ()), ((1,), (2, 2))]:
        check_graph(answer, "(a * b + b).sum()", lambda a, b: (a * b + b).sum(), torch.randn(left), torch.randn(right))


@exercise.property("order of the graph")
def order(answer: ModuleType, rng: random.Random) -> None:
    def late(a: Any, b: Any) -> Any:
        c = a * b
        d = c.tanh()
        return ((c + d) * (d * a) + c).sum()

    check_graph(answer, "c = a * b; d = c.tanh(); ((c + d) * (d * a) + c).sum()", late, torch.randn(2), torch.randn(2))


@exercise.property("backward twice adds up in the inputs, not on the way")
def again(answer: ModuleType, rng: random.Random) -> None:
    check_graph(answer, "(a * a).tanh().sum(), backward twice", lambda a: (a * a).tanh().sum(), torch.tensor([0.5]), calls=2)


@exercise.property("random graphs")
def graphs(answer: ModuleType, rng: random.Random) -> None:
    for _ in range(8):
        plan = [(rng.choice(["+", "*", "tanh", "@"]), rng.randrange(i + 2), rng.randrange(i + 2)) for i in range(6)]

        def build(a: Any, b: Any, plan: list[tuple[str, int, int]] = plan) -> Any:
            values = [a, b]
            for kind, i, j in plan:
                x, y = values[i], values[j]
                values.append(x.tanh() if kind == "tanh" else x + y if kind == "+" else x * y if kind == "*" else x @ y)
            total = values[0]
            for value in values[1:]:
                total = total + value.tanh()
            return total.sum()

        check_graph(answer, f"graph {plan}", build, 0.5 * torch.randn(2, 2), 0.5 * torch.randn(2, 2))


@exercise.property("a long chain")
def chain(answer: ModuleType, rng: random.Random) -> None:
    def build(a: Any) -> Any:
        value = a
        for _ in range(3000):
            value = value + a
        return value.sum()

    check_graph(answer, "3,000 sums in a row", build, torch.tensor([0.5]))


def engine(**faults: bool) -> type:
    """An engine with one of the known faults."""

    class Value:
        def __init__(self, data: Tensor) -> None:
            self.data, self.grad = data, torch.zeros_like(data)
            self.parents: tuple[Any, ...] = ()
            self.rule: Any = lambda grad: ()

        def result(self, data: Tensor, parents: tuple[Any, ...], rule: Any) -> Any:
            value = Value(data)
            value.parents, value.rule = parents, rule
            return value

        def __add__(self, other: Any) -> Any:
            return self.result(self.data + other.data, (self, other), lambda g: (g, g))

        def __mul__(self, other: Any) -> Any:
            return self.result(self.data * other.data, (self, other), lambda g: (g * other.data, g * self.data))

        def __matmul__(self, other: Any) -> Any:
            return self.result(self.data @ other.data, (self, other), lambda g: (g @ other.data.t(), self.data.t() @ g))

        def tanh(self) -> Any:
            out = self.data.tanh()
            return self.result(out, (self,), lambda g: (g * (1 - out**2),))

        def sum(self) -> Any:
            return self.result(self.data.sum(), (self,), lambda g: (g.expand(self.data.shape),))

        def backward(self) -> None:
            order: list[Any] = []
            seen: set[int] = set()

            def visit(value: Any) -> None:
                if id(value) not in seen:
                    seen.add(id(value))
                    if faults.get("no_order"):
                        order.append(value)
                    for parent in value.parents:
                        visit(parent)
                    if not faults.get("no_order"):
                        order.append(value)

            limit = sys.getrecursionlimit()
            sys.setrecursionlimit(limit if faults.get("recursive") else 20_000)
            visit(self)
            sys.setrecursionlimit(limit)
            if not faults.get("inner_kept"):
                for value in order:
                    if value.parents:
                        value.grad = torch.zeros_like(value.data)
            self.grad = torch.ones_like(self.data)
            for value in order if faults.get("no_order") else reversed(order):
                for parent, part in zip(value.parents, value.rule(value.grad), strict=True):
                    part = part if faults.get("not_summed_back") else part.sum_to_size(parent.data.shape)
                    parent.grad = part if faults.get("assigned") else parent.grad + part

    return Value


exercise.wrong(
    "Value",
    "`=` where `+=` is needed: a value that is used twice gets both gradients, added.",
    seen="https://github.com/karpathy/micrograd",
)(engine(assigned=True))
exercise.wrong("Value", "A value passed its gradient on before it was complete: go in reverse topological order.")(
    engine(no_order=True)
)
exercise.wrong(
    "Value",
    "A second backward() starts from the gradients that the first left in the inner values.",
    seen="https://github.com/karpathy/micrograd/issues/53",
)(engine(inner_kept=True))
exercise.wrong(
    "Value", "The gradient of a stretched value must be summed over the dimensions along which it was stretched."
)(engine(not_summed_back=True))
exercise.wrong("Value", "Recursion ends at a thousand calls: a long chain needs a list as the stack.")(
    engine(recursive=True)
)
exercise.also_right("Value")(engine())
