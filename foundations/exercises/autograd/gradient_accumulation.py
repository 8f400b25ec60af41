"""Exercise gradient_accumulation: unequal pieces of a batch, one graph at a time."""

import random
import weakref
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor, nn

from foundations.comparing import check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="Gradient accumulation: the gradient of a batch that does not fit into memory",
    level="core",
    minutes=15,
    link="projects.cifar10.module:CIFAR10Module",
    why="`--trainer.accumulate_grad_batches` makes one step of several batches",
    hints=(
        "Clear the gradients once, then backward() after each batch: .grad adds up, and each graph is freed.",
        "The mean over all samples weighs the mean of a batch of n samples by n / N.",
        "loss = loss_fn(model(x), y) * (len(y) / count); loss.backward(); total += loss.item()",
    ),
    source="torch.nn:Module.zero_grad",
    look_at="set_to_none=True is the default: the gradient is dropped, not zeroed. What does the next backward do?",
)

Loss = Callable[[Tensor, Tensor], Tensor]
Batches = Sequence[tuple[Tensor, Tensor]]


def make_model() -> nn.Module:
    """A small network with fixed weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def make_batches(sizes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Random batches of the given sizes."""
    return [(torch.randn(size, 3), torch.randint(2, (size,))) for size in sizes]


def check_sizes(answer: ModuleType, sizes: Sequence[int], stale: bool) -> None:
    """Compares gradients and loss with those of one large batch."""
    batches = make_batches(sizes)
    ours, theirs = make_model(), make_model()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    loss = nn.functional.cross_entropy(theirs(x), y)
    loss.backward()
    if stale:
        nn.functional.cross_entropy(ours(x), y).backward()
    got = answer.accumulate_gradients(ours, nn.functional.cross_entropy, batches)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        check_that(a.grad is not None, f"{name} has no gradient", sizes=list(sizes))
        reason = difference(a.grad, b.grad, 1e-4, 1e-6)
        check_that(not reason, f"gradient of {name}: {reason}", b.grad, a.grad, sizes=list(sizes))
    reason = difference(got, loss.item(), 1e-5, 1e-6)
    check_that(not reason, "the returned loss differs", loss.item(), got, sizes=list(sizes))


class _Saved:
    """Lives as long as a graph that has saved tensors under it."""


@exercise.property("one batch")
def one(answer: ModuleType, rng: random.Random) -> None:
    check_sizes(answer, [4], stale=False)


@exercise.property("batches of one size")
def equal(answer: ModuleType, rng: random.Random) -> None:
    check_sizes(answer, [2, 2], stale=False)


@exercise.property("batches of unequal sizes")
def unequal(answer: ModuleType, rng: random.Random) -> None:
    for sizes in ([3, 1], [1, 5, 2]):
        check_sizes(answer, sizes, stale=False)


@exercise.property("gradients from before do not count")
def stale(answer: ModuleType, rng: random.Random) -> None:
    check_sizes(answer, [3, 1], stale=True)


@exercise.property("one graph at a time")
def graphs(answer: ModuleType, rng: random.Random) -> None:
    graphs: list[weakref.ref[_Saved]] = []
    most = 0

    def loss_fn(out: Tensor, target: Tensor) -> Tensor:
        nonlocal most
        saved = _Saved()
        graphs.append(weakref.ref(saved))
        most = max(most, sum(graph() is not None for graph in graphs))
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (saved, tensor), lambda pair: pair[1]):
            return nn.functional.cross_entropy(out, target)

    answer.accumulate_gradients(make_model(), loss_fn, make_batches([2, 2, 2, 2]))
    check_that(most <= 2, "the graphs of several batches are alive at once", "at most 2 (the last two meet)", most)


@exercise.wrong(
    "accumulate_gradients", "You divide by the number of batches: a mean of means gives small batches too much weight."
)
def mean_of_means(model: nn.Module, loss_fn: Loss, batches: Batches) -> float:
    model.zero_grad()
    total = 0.0
    for x, y in batches:
        loss = loss_fn(model(x), y) / len(batches)
        loss.backward()
        total += loss.item()
    return total


@exercise.wrong("accumulate_gradients", "zero_grad() inside the loop: only the last batch's gradient is left.")
def cleared_each_time(model: nn.Module, loss_fn: Loss, batches: Batches) -> float:
    count, total = sum(len(y) for _, y in batches), 0.0
    for x, y in batches:
        model.zero_grad()
        loss = loss_fn(model(x), y) * len(y) / count
        loss.backward()
        total += loss.item()
    return total


@exercise.wrong(
    "accumulate_gradients", "All losses are summed and then one backward(): every batch's graph is in memory at once."
)
def one_backward(model: nn.Module, loss_fn: Loss, batches: Batches) -> float:
    count = sum(len(y) for _, y in batches)
    model.zero_grad()
    losses = [loss_fn(model(x), y) * (len(y) / count) for x, y in batches]
    loss = torch.stack(losses).sum()
    loss.backward()
    return loss.item()


@exercise.wrong("accumulate_gradients", "Gradients from before are not cleared: backward() adds to them.")
def never_cleared(model: nn.Module, loss_fn: Loss, batches: Batches) -> float:
    count, total = sum(len(y) for _, y in batches), 0.0
    for x, y in batches:
        loss = loss_fn(model(x), y) * (len(y) / count)
        loss.backward()
        total += loss.item()
    return total


@exercise.also_right("accumulate_gradients")
def scaled_afterwards(model: nn.Module, loss_fn: Loss, batches: Batches) -> float:
    for parameter in model.parameters():
        parameter.grad = None
    seen, total = 0, 0.0
    for x, y in batches:
        (loss := loss_fn(model(x), y) * len(y)).backward()
        seen, total = seen + len(y), total + loss.item()
        del loss
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= seen
    return total / seen


@exercise.also_right("accumulate_gradients")
def by_autograd_grad(model: nn.Module, loss_fn: Loss, batches: Batches) -> float:
    parameters, count, total = list(model.parameters()), sum(y.shape[0] for _, y in batches), 0.0
    sums = [torch.zeros_like(p) for p in parameters]
    for x, y in batches:
        loss = loss_fn(model(x), y)
        for s, g in zip(sums, torch.autograd.grad(loss, parameters), strict=True):
            s.add_(g, alpha=y.shape[0] / count)
        total += loss.item() * y.shape[0] / count
    for p, s in zip(parameters, sums, strict=True):
        p.grad = s
    return total
