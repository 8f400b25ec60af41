"""Exercise lr_schedule: the learning rate of every update, also after a restart."""

import math
import random
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foundations.comparing import Failure, check_equal, check_that, difference
from foundations.exercise import Exercise
from foundations.optimizers import RecordingSGD

exercise = Exercise(
    title="Learning-rate schedule: warm-up, cosine, and how large is too large",
    level="core",
    minutes=25,
    link="common.nn.optim:lr_factor",
    why="every capstone's learning rate is this function of the step",
    hints=(
        "Compute the factor from the number of updates alone, and let the schedule remember that number and the peaks.",
        "(step + 1) / warmup; then (1 + cos(pi (step - warmup) / (total - warmup))) / 2; limit: 2 / largest eigenvalue.",
        "group['lr'] = peak * lr_factor(count, warmup, total): when made, after each update, and when a state is loaded.",
    ),
    source="torch.optim.lr_scheduler:CosineAnnealingLR.get_lr",
    look_at="Each learning rate is made from the one before; _get_closed_form_lr, the next method, makes it from the count. "
    "Which of them notices that someone else has changed group['lr']?",
    barred=("torch.optim.lr_scheduler.LRScheduler",),
)


def factor(step: int, warmup: int, total: int) -> float:
    """The schedule, by its two pieces."""
    if step < warmup:
        return (step + 1) / warmup
    return math.cos(math.pi / 2 * (step - warmup) / (total - warmup)) ** 2 if step < total else 0.0


@exercise.property("the factor of every step")
def factors(answer: ModuleType, rng: random.Random) -> None:
    for warmup, total in [(2, 6), (1, 4), (3, 10)]:
        for step in range(total + 1):
            check_equal(answer.lr_factor, step, warmup, total, expected=factor(step, warmup, total))


@exercise.property("no warm-up, warm-up alone")
def ends(answer: ModuleType, rng: random.Random) -> None:
    for warmup, total in [(0, 4), (4, 4), (1, 1), (0, 1), (1, 2)]:
        for step in range(total + 1):
            check_equal(answer.lr_factor, step, warmup, total, expected=factor(step, warmup, total))


@exercise.property("zero after the end")
def after(answer: ModuleType, rng: random.Random) -> None:
    for step in (7, 8, 13):
        check_equal(answer.lr_factor, step, 2, 6, expected=0.0)


PEAKS = (0.1, 0.02)


def make_optimizer(peaks: Iterable[float] = PEAKS) -> RecordingSGD:
    """An optimizer of one parameter for each group."""
    return RecordingSGD([{"params": [torch.ones(1, requires_grad=True)], "lr": lr} for lr in peaks], lr=0.0)


def check_lrs(got: list[list[float]], first: int, warmup: int, total: int, **shown: Any) -> None:
    """Compares recorded learning rates with those of the updates from `first` on."""
    expected = [[peak * factor(first + i, warmup, total) for peak in PEAKS] for i in range(len(got))]
    reason = difference(got, expected, 1e-5, 1e-8)
    inputs = {"peaks": list(PEAKS), "warmup": warmup, "total": total, **shown}
    check_that(not reason, f"learning rates of the groups at each update: {reason}", expected, got, **inputs)


def updates(optimizer: RecordingSGD, schedule: Any, count: int) -> None:
    """Updates, each followed by a step of the schedule."""
    for _ in range(count):
        optimizer.step()
        schedule.step()


@exercise.property("every group, at every update")
def groups(answer: ModuleType, rng: random.Random) -> None:
    for warmup, total in [(2, 4), (0, 3), (3, 5)]:
        optimizer = make_optimizer()
        updates(optimizer, answer.Schedule(optimizer, warmup, total), total + 1)
        check_lrs(optimizer.lrs, 0, warmup, total)


def epochs(answer: ModuleType, sizes: list[int]) -> RecordingSGD:
    """Epochs of the given numbers of batches. Raises Failure if one raises."""
    optimizer = make_optimizer()
    schedule = answer.Schedule(optimizer, 2, 6)
    for size in sizes:
        batches = iter([torch.tensor(float(i + 1)) for i in range(size)])
        try:
            answer.train_epoch(lambda x: x * sum(w.sum() for w in optimizer.parameters()), batches, optimizer, schedule)
        except NotImplementedError:
            raise
        except Exception as error:
            raise Failure(f"raises {type(error).__name__}", {"batches of each epoch": sizes}, got=error) from error
    return optimizer


@exercise.property("epochs")
def training(answer: ModuleType, rng: random.Random) -> None:
    for sizes in ([1], [3], [2, 3]):
        optimizer = epochs(answer, sizes)
        shown = {"batches of each epoch": sizes}
        check_that(len(optimizer.lrs) == sum(sizes), "number of updates", sum(sizes), len(optimizer.lrs), **shown)
        check_lrs(optimizer.lrs, 0, 2, 6, **shown)
        grads = [[0.0 if grad is None else grad.item() for grad in both] for both in optimizer.grads]
        expected = [[float(i + 1)] * 2 for size in sizes for i in range(size)]
        check_that(grads == expected, "the gradient at each update", expected, grads, **shown)


@exercise.property("resumed")
def resumed(answer: ModuleType, rng: random.Random) -> None:
    for done in (1, 3):
        first = make_optimizer()
        schedule = answer.Schedule(first, 2, 6)
        updates(first, schedule, done)
        state, saved = schedule.state_dict(), first.state_dict()
        updates(first, schedule, 2)  # what goes on afterwards is not part of the state
        for how in ("a new optimizer", "an optimizer that has loaded its own state", "the optimizer's state loaded last"):
            second = make_optimizer()
            if how == "an optimizer that has loaded its own state":
                second.load_state_dict(saved)
            again = answer.Schedule(second, 2, 6)
            again.load_state_dict(state)
            if how == "the optimizer's state loaded last":
                second.load_state_dict(saved)
            updates(second, again, 4)
            check_lrs(second.lrs, done, 2, 6, updates_before=done, resumed_with=how)


@exercise.property("the largest stable learning rate")
def stable(answer: ModuleType, rng: random.Random) -> None:
    check_equal(answer.largest_stable_lr, torch.tensor([[4.0]]), expected=0.5)
    check_equal(answer.largest_stable_lr, torch.tensor([[0.5]]), expected=4.0)
    check_equal(answer.largest_stable_lr, torch.tensor([[1.0, 0.0], [0.0, 10.0]]), expected=0.2, rtol=1e-4)
    check_equal(answer.largest_stable_lr, torch.tensor([[2.0, 1.0], [1.0, 2.0]]), expected=2 / 3, rtol=1e-4)
    rotation = torch.linalg.qr(torch.randn(3, 3)).Q
    hessian = rotation @ torch.diag(torch.tensor([0.0, 1.0, 8.0])) @ rotation.t()
    check_equal(answer.largest_stable_lr, (hessian + hessian.t()) / 2, expected=0.25, rtol=1e-4)
    check_equal(answer.largest_stable_lr, torch.zeros(2, 2), expected=math.inf)


@exercise.wrong("lr_factor", "The warm-up begins with 0: the first update does nothing. Its factor is 1 / warmup.")
def from_zero(step: int, warmup: int, total: int) -> float:
    return step / warmup if step < warmup else factor(step, warmup, total)


@exercise.wrong(
    "lr_factor", "The cosine runs over all steps: after the warm-up it begins below 1. Count from the warm-up's end."
)
def over_all_steps(step: int, warmup: int, total: int) -> float:
    return factor(step, warmup, total) if step < warmup else 0.5 * (1 + math.cos(math.pi * min(1, step / total)))


@exercise.wrong("lr_factor", "It divides by all steps, the warm-up's too: the training ends before the cosine does.")
def too_long(step: int, warmup: int, total: int) -> float:
    return factor(step, warmup, total) if step < warmup else 0.5 * (1 + math.cos(math.pi * (step - warmup) / total))


@exercise.wrong("lr_factor", "It reaches 0 one step early: the last update of the training does nothing.")
def ends_early(step: int, warmup: int, total: int) -> float:
    progress = min(1.0, (step - warmup) / max(1, total - warmup - 1))
    return factor(step, warmup, total) if step < warmup else 0.5 * (1 + math.cos(math.pi * progress))


ZERO_LENGTH = "Where the warm-up is the whole training, the cosine has no length: from step `total` on return 0, without it."


@exercise.wrong("lr_factor", ZERO_LENGTH)
def fraction_of_no_length(step: int, warmup: int, total: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1, (step - warmup) / (total - warmup))))


@exercise.wrong("lr_factor", ZERO_LENGTH)
def angle_of_no_length(step: int, warmup: int, total: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


@exercise.wrong("lr_factor", "A cosine goes up again after its lowest point: from step `total` on the factor stays 0.")
def climbs_again(step: int, warmup: int, total: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) if step != total else 0.0


def schedule_with(fault: str) -> type:
    """Schedule with one of the known faults."""

    class Schedule:
        def __init__(self, optimizer: Any, warmup: int, total: int) -> None:
            self.optimizer, self.warmup, self.total, self.done = optimizer, warmup, total, 0
            self.base = [group["lr"] for group in optimizer.param_groups]
            if fault != "first_at_peak":
                self.write()

        def write(self) -> None:
            for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
                group["lr"] = (group["lr"] if fault == "compounds" else base) * factor(self.done, self.warmup, self.total)
                if fault == "one_group":
                    return

        def step(self) -> None:
            self.done += 1
            self.write()

        def state_dict(self) -> dict[str, Any]:
            if fault == "own_dict":
                return self.__dict__
            return {} if fault == "forgets" else {"done": self.done, "base": self.base}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            if fault == "own_dict":
                optimizer = self.optimizer
                self.__dict__.update(state)
                self.optimizer = optimizer
            self.done = state.get("done", 0)
            if fault != "peaks_forgotten":
                self.base = state.get("base", self.base)
            if fault != "waits":
                self.write()

    return Schedule


exercise.wrong(
    "Schedule", "The learning rate is multiplied by the factor again and again: multiply the peak, kept from the start."
)(schedule_with("compounds"))
exercise.wrong("Schedule", "Nothing is set when the schedule is made: the first update runs at the peak.")(
    schedule_with("first_at_peak")
)
exercise.wrong("Schedule", "Only the first group follows the schedule.")(schedule_with("one_group"))
exercise.wrong("Schedule", "The number of updates is not in the state: a resumed training begins with the warm-up again.")(
    schedule_with("forgets")
)
exercise.wrong("Schedule", "load_state_dict sets no learning rate: the first update after a restart has that of step 0.")(
    schedule_with("waits")
)
exercise.wrong(
    "Schedule", "The peaks are not in the state: read from an optimizer in the middle of training, they are too low."
)(schedule_with("peaks_forgotten"))
exercise.wrong("Schedule", "state_dict() is the schedule's own dict, which goes on counting: return a new one.")(
    schedule_with("own_dict")
)


@exercise.wrong("train_epoch", "schedule.step() comes before optimizer.step(): the first learning rate is never used.")
def schedule_first(loss_fn: Callable[[Any], Tensor], batches: Iterable[Any], optimizer: Any, schedule: Any) -> None:
    for batch in batches:
        optimizer.zero_grad()
        loss_fn(batch).backward()
        schedule.step()
        optimizer.step()


@exercise.wrong("train_epoch", "schedule.step() once an epoch: it counts updates, so it follows every one.")
def once_an_epoch(loss_fn: Callable[[Any], Tensor], batches: Iterable[Any], optimizer: Any, schedule: Any) -> None:
    for batch in batches:
        optimizer.zero_grad()
        loss_fn(batch).backward()
        optimizer.step()
    schedule.step()


@exercise.wrong(
    "largest_stable_lr", "1 / eigenvalue reaches the minimum at once along that direction; stable is up to twice that."
)
def half(hessian: Tensor) -> float:
    return 1 / value if (value := torch.linalg.eigvalsh(hessian).max().item()) > 0 else math.inf


@exercise.wrong(
    "largest_stable_lr",
    "The smallest eigenvalue is that of the flattest direction: the steepest, the largest one, diverges first.",
)
def by_smallest(hessian: Tensor) -> float:
    return 2 / value if (value := torch.linalg.eigvalsh(hessian)[0].item()) > 0 else math.inf


@exercise.wrong(
    "largest_stable_lr", "The steepest direction diverges first: the largest eigenvalue counts, not the mean or the sum."
)
def by_trace(hessian: Tensor) -> float:
    return 2 / value if (value := hessian.trace().item()) > 0 else math.inf


@exercise.wrong("largest_stable_lr", "The largest entry of H is not its largest eigenvalue, unless H is diagonal.")
def by_entry(hessian: Tensor) -> float:
    return 2 / value if (value := hessian.max().item()) > 0 else math.inf


@exercise.also_right("lr_factor")
def by_halves(step: int, warmup: int, total: int) -> float:
    up = min(1.0, (step + 1) / warmup) if warmup else 1.0
    down = math.cos(math.pi / 2 * min(1.0, max(0, step - warmup) / (total - warmup))) ** 2 if total > warmup else 1.0
    return up * down * (step < total)


@exercise.also_right("Schedule")
class InTheGroups:
    """The peaks kept in the optimizer's groups, as torch does, and in the state; one number and the settings in a list."""

    def __init__(self, optimizer: Any, warmup: int, total: int) -> None:
        self.opt, self.plan, self.t = optimizer, (warmup, total), -1
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.step()

    def step(self) -> None:
        self.t += 1
        for group in self.opt.param_groups:
            group["lr"] = group["initial_lr"] * factor(self.t, *self.plan)

    def state_dict(self) -> dict[str, Any]:
        return {"numbers": [self.t, *self.plan]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.t, *self.plan = state["numbers"]
        self.t -= 1
        self.step()


exercise.also_right("Schedule")(schedule_with(""))


@exercise.also_right("train_epoch")
def by_iterator(loss_fn: Callable[[Any], Tensor], batches: Iterable[Any], optimizer: Any, schedule: Any) -> None:
    iterator = iter(batches)
    while (batch := next(iterator, None)) is not None:
        loss = loss_fn(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@exercise.also_right("largest_stable_lr")
def by_power_iteration(hessian: Tensor) -> float:
    vector = torch.ones(len(hessian), dtype=torch.float64) + 0.1 * torch.arange(len(hessian))
    for _ in range(200):
        vector = hessian.double() @ vector
        if not vector.any():
            return float("inf")
        vector /= vector.norm()
    return 2 / (vector @ hessian.double() @ vector).item()


@exercise.also_right("largest_stable_lr")
def by_matrix_norm(hessian: Tensor) -> float:
    return (2 / torch.linalg.matrix_norm(hessian, 2)).item()
