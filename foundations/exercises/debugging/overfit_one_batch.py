"""Exercise overfit_one_batch: can a model memorize a batch, and is it left as it was?"""

import copy
import random
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foundations.comparing import check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="Overfit one batch: the first test of any training",
    level="core",
    minutes=25,
    link="common.debug.overfit:overfit_one_batch",
    why="`--debug overfit` does this to every capstone before anything is trained for long",
    hints=(
        "One batch, taken once, before the loop; a copy of the model to spoil; a goal that knows the loss's floor.",
        "Memorized means loss <= min_loss + tolerance, at some time within `steps` updates; how far it fell says nothing.",
        "trial = copy.deepcopy(model).train(), eval() for each nn.Dropout of trial.modules(); zero_grad, backward, step.",
    ),
    source="torch.nn.modules.module:Module._load_from_state_dict",
    look_at="load_state_dict copies values into the parameters there are (copy_). What if the dict holds the same ones?",
    uses=("adam",),
)

Batches = list[tuple[Tensor, Tensor]]
STEPS, LR = 40, 0.2


class OtherBatches:
    """Loader that gives another of the batches first at each pass, as a shuffling one does."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.passes = batches, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        first = (self.passes - 1) % len(self.batches)
        return iter(self.batches[first:] + self.batches[:first])


def check_result(
    answer: ModuleType, model: nn.Module, loss_fn: Any, batches: Any, expected: bool, about: str, **options: Any
) -> None:
    """Checks the answer for one model and its batches."""
    options = {"steps": STEPS, "lr": LR, **options}
    got = answer.overfit_one_batch(model, loss_fn, batches, **options)
    check_that(isinstance(got, bool), "the result is not a bool", expected, got, about=about)
    check_that(got == expected, "memorized or not", expected, got, about=about, **options)


def classes(n: int = 4) -> tuple[Tensor, Tensor]:
    """Batch of two classes, far apart."""
    labels = torch.arange(n) % 2
    return torch.randn(n, 3) * 0.1 + (2.0 * labels[:, None] - 1), labels


def contradiction() -> tuple[Tensor, Tensor]:
    """Batch that cannot be memorized: one sample with both labels."""
    return torch.ones(2, 3), torch.tensor([0, 1])


@exercise.property("what can be memorized, and what cannot")
def result(answer: ModuleType, rng: random.Random) -> None:
    check_result(answer, nn.Linear(3, 2), F.cross_entropy, [classes()], True, "two classes, far apart")
    check_result(answer, nn.Linear(3, 2), F.cross_entropy, [contradiction()], False, "one sample with both labels")
    check_result(
        answer, nn.Linear(3, 2), lambda y, t: y.sum() * float("nan"), [classes()], False, "the loss is NaN", steps=3
    )


@exercise.property("the floor of the loss")
def floor(answer: ModuleType, rng: random.Random) -> None:
    about = "the loss is 0.75 from the start: exactly the tolerance above min_loss"
    options = {"min_loss": 0.25, "tolerance": 0.5}
    check_result(answer, nn.Linear(3, 2), lambda y, t: y.sum() * 0 + 0.75, [classes()], True, about, **options)
    smoothed = partial(F.cross_entropy, label_smoothing=0.2)
    entropy = -(0.9 * torch.tensor(0.9).log() + 0.1 * torch.tensor(0.1).log()).item()
    about = "labels are smoothed by 0.2: the loss cannot be below min_loss"
    check_result(answer, nn.Linear(3, 2), smoothed, [classes()], True, about, min_loss=entropy)
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.bias.fill_(50)
    batch = torch.zeros(2, 1), torch.tensor([[0.0], [2.0]])
    about = "one input with targets 0 and 2: the mean squared error falls from 2402 to 1, and no further"
    check_result(answer, model, F.mse_loss, [batch], False, about, lr=2.0, steps=100)


@exercise.property("the first batch alone")
def one_batch(answer: ModuleType, rng: random.Random) -> None:
    x, labels = classes()
    about = "the second batch has the same samples with the other labels"
    check_result(answer, nn.Linear(3, 2), F.cross_entropy, OtherBatches([(x, labels), (x, 1 - labels)]), True, about)
    about = "the second batch could be memorized, the first cannot"
    check_result(answer, nn.Linear(3, 2), F.cross_entropy, OtherBatches([contradiction(), (x, labels)]), False, about)
    about = "batches is an iterator over one batch"
    check_result(answer, nn.Linear(3, 2), F.cross_entropy, iter([(x, labels)]), True, about)


@exercise.property("dropout is off")
def dropout(answer: ModuleType, rng: random.Random) -> None:
    for p in (0.5, 0.9):
        model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Sequential(nn.Dropout(p)), nn.Linear(8, 2))
        check_result(answer, model, F.cross_entropy, [classes(16)], True, f"a layer nn.Dropout({p})", tolerance=0.005)


def model_with_everything() -> nn.Module:
    """Model with buffers, gradients, a frozen layer, and parts in different modes."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 2))
    F.cross_entropy(model(classes()[0]), classes()[1]).backward()
    model[3].weight.grad = None
    model[0].bias.requires_grad_(False)
    model.eval()
    model[2].train()
    return model


def check_kept(answer: ModuleType, kept: Callable[[nn.Module], dict[str, Any]], steps: int = 5) -> None:
    """Checks that what `kept` says of a model is the same before and after, whether it was memorized or not."""
    for batch in (classes(), contradiction()):
        model = model_with_everything()
        before = copy.deepcopy(kept(model))
        answer.overfit_one_batch(model, F.cross_entropy, [batch], steps=steps, lr=LR)
        for name, value in kept(model).items():
            check_that(not difference(value, before[name], 0.0, 0.0), f"{name} has changed", "what it was before", "another")


@exercise.property("afterwards: the same parameters with the same values")
def parameters(answer: ModuleType, rng: random.Random) -> None:
    check_kept(answer, lambda model: {name: weight.detach() for name, weight in model.named_parameters()})
    model = model_with_everything()
    before = [id(weight) for weight in model.parameters()]
    answer.overfit_one_batch(model, F.cross_entropy, [classes()], steps=2)
    check_that(before == [id(weight) for weight in model.parameters()], "the parameters are other tensors than before")


@exercise.property("afterwards: the same buffers")
def buffers(answer: ModuleType, rng: random.Random) -> None:
    check_kept(answer, lambda model: dict(model.named_buffers()))


@exercise.property("afterwards: the same modes")
def modes(answer: ModuleType, rng: random.Random) -> None:
    check_kept(answer, lambda model: {f"training of {name or 'the model'}": m.training for name, m in model.named_modules()})
    check_kept(
        answer, lambda model: {f"requires_grad of {name}": weight.requires_grad for name, weight in model.named_parameters()}
    )
    check_kept(answer, lambda model: {"p of dropout": model[2].p})


@exercise.property("afterwards: the same gradients")
def gradients(answer: ModuleType, rng: random.Random) -> None:
    check_kept(answer, lambda model: {f"gradient of {name}": weight.grad for name, weight in model.named_parameters()})


@exercise.property("at most `steps` updates")
def updates(answer: ModuleType, rng: random.Random) -> None:
    seen: list[Tensor] = []

    class Watched(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight.detach()
            if not seen or not torch.equal(weight, seen[-1]):
                seen.append(weight.clone())
            return super().forward(x)

    for steps in (1, 4):
        seen.clear()
        check_result(answer, Watched(3, 2), F.cross_entropy, [classes()], False, "too few steps", steps=steps, lr=0.01)
        check_that(len(seen) <= steps + 1, "more updates than steps", steps, len(seen) - 1)
        check_that(len(seen) >= steps, "fewer updates than steps", steps, len(seen) - 1)
        moved = (seen[1] - seen[0]).abs().max().item() if steps > 1 else 0.01
        check_that(abs(moved - 0.01) < 1e-4, "Adam's first update moves a weight by lr", 0.01, moved, lr=0.01)
    seen.clear()
    answer.overfit_one_batch(Watched(3, 2), F.cross_entropy, [classes()], min_loss=-9.0)
    check_that(200 <= len(seen) <= 201, "number of updates without steps=", 200, len(seen) - 1)
    moved = (seen[1] - seen[0]).abs().max().item()
    check_that(abs(moved - 0.01) < 1e-4, "Adam's first update without lr= moves a weight by", 0.01, moved)


@exercise.property("every update from its own gradient")
def fresh(answer: ModuleType, rng: random.Random) -> None:
    model = nn.Linear(2, 1)
    x = torch.randn(4, 2)
    batch = x, x @ torch.tensor([[1.0], [-2.0]]) + 0.5
    about = "a line through four points"
    check_result(answer, model, F.mse_loss, [batch], True, about, tolerance=1e-4, steps=150)


def overfit(fault: str) -> Callable[..., bool]:
    """The function with one of the known faults; it trains the model itself and restores it."""

    def overfit_one_batch(
        model: nn.Module,
        loss_fn: Any,
        batches: Any,
        min_loss: float = 0.0,
        tolerance: float = 0.05,
        steps: int = 200,
        lr: float = 0.01,
    ) -> bool:
        from networks.adam import Adam

        state = model.state_dict() if fault == "not_copied" else copy.deepcopy(model.state_dict())
        if fault == "parameters_alone":
            state = {name: value for name, value in state.items() if name in dict(model.named_parameters())}
        modes = {module: module.training for module in model.modules()}
        grads = {weight: weight.grad for weight in model.parameters()}
        for module in model.modules():
            module.training = fault == "dropout" or not isinstance(module, nn.Dropout)
        optimizer, losses = Adam(model.parameters(), lr=lr), []
        passes = iter(batches)
        batch = next(passes)
        for _ in range(steps + 1):
            losses.append(loss_fn(model(batch[0]), batch[1]))
            if losses[-1] <= min_loss + tolerance and fault != "relative":
                break
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
            if fault == "new_batch":
                batch = next(passes, None) or next(passes := iter(batches), batch)
        if fault != "changed":
            model.load_state_dict(state, strict=False)
        for module, mode in modes.items():
            module.training = mode if fault != "modes" else True
        for weight, grad in grads.items():
            weight.grad = grad if fault != "gradients" else None
        if fault == "relative":
            return bool(losses[-1] < 0.1 * losses[0])
        return bool(losses[-1] <= min_loss + tolerance)

    return overfit_one_batch


exercise.wrong(
    "overfit_one_batch",
    "You take a new batch at each step: that is ordinary training. Take one with next(iter(batches)), before the loop.",
)(overfit("new_batch"))
exercise.wrong(
    "overfit_one_batch",
    "Dropout is still on. It is there to prevent memorizing: call eval() on every nn.Dropout among model.modules().",
)(overfit("dropout"))
exercise.wrong(
    "overfit_one_batch",
    "You ask how far the loss fell. With smoothed labels it cannot fall to a tenth, and from a bad start it falls to a "
    "hundredth with nothing learned: compare with min_loss + tolerance.",
)(overfit("relative"))
exercise.wrong(
    "overfit_one_batch",
    "The model is left trained, on one batch. Train copy.deepcopy(model), or put a copy of the state "
    "dict back; state_dict() alone holds the very tensors that the optimizer changes.",
)(overfit("changed"))
exercise.wrong(
    "overfit_one_batch",
    "The parameters are put back, the buffers are not: the running statistics of BatchNorm moved in every forward pass.",
)(overfit("parameters_alone"))
exercise.wrong(
    "overfit_one_batch",
    "The model comes back in training mode, whatever its parts were in: remember module.training of each module.",
)(overfit("modes"))
exercise.wrong(
    "overfit_one_batch",
    "The gradients that the model had are gone: an accumulation that was under way would lose its first batches.",
)(overfit("gradients"))
exercise.also_right("overfit_one_batch")(overfit(""))


@exercise.also_right("overfit_one_batch")
def in_evaluation_mode(
    model: nn.Module,
    loss_fn: Any,
    batches: Any,
    min_loss: float = 0.0,
    tolerance: float = 0.05,
    steps: int = 200,
    lr: float = 0.01,
) -> bool:
    """A copy in evaluation mode, torch's function of Adam without its class, and the least loss of all steps."""
    batch = list(zip(batches, range(1)))[0][0]  # noqa: B905, RUF015
    net = copy.deepcopy(model).eval()
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    m, v = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    best = float("inf")
    for t in range(1, steps + 1):
        for i, grad in enumerate(torch.autograd.grad(loss_fn(net(batch[0]), batch[1]), weights)):
            m[i], v[i] = 0.9 * m[i] + 0.1 * grad, 0.999 * v[i] + 0.001 * grad**2
            weights[i].data -= lr * (m[i] / (1 - 0.9**t)) / ((v[i] / (1 - 0.999**t)).sqrt() + 1e-8)
        best = min(best, loss_fn(net(batch[0]), batch[1]).item())
    return best <= min_loss + tolerance
