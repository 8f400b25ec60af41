"""Exercise mixed_precision: gradients too small for float16, sums too long for bfloat16."""

import math
import random
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foundations.comparing import Failure, check_equal, check_that, difference
from foundations.exercise import Exercise
from foundations.optimizers import RecordingSGD

exercise = Exercise(
    title="Mixed precision: loss scaling, and sums that need float32",
    level="core",
    minutes=20,
    link="common.nn.device:autocast_context",
    why="where there is bfloat16 it is taken: it has float32's range and needs no scaling, but sums in it are as coarse",
    hints=(
        "Scale before backward; then in this order: unscale, look for inf and NaN, clip, step, and adapt the scale.",
        "grad / scale is the true gradient. After an overflow scale / 2, after growth_interval updates in a row scale * 2.",
        "if not all(w.grad.isfinite().all() for w in ws): self.scale /= 2; self.in_a_row = 0; return False",
    ),
    source="torch.amp.grad_scaler:GradScaler.step",
    look_at="It calls unscale_ unless you have, so that you can clip in between. Why does it not change the scale?",
    barred=("torch.amp.grad_scaler.GradScaler",),
    uses=("clip_grad_norm",),
)


class Case:
    """Two parameters, one that takes no part, and an optimizer with momentum."""

    def __init__(self) -> None:
        self.w, self.b = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor(0.5, requires_grad=True)
        self.idle = torch.ones(1, requires_grad=True)
        self.optimizer = RecordingSGD([self.w, self.b, self.idle], lr=0.1, momentum=0.5)

    def loss(self, g: float) -> Tensor:
        """A loss with the gradients g * [3, 0] and g * 4; [3, 0] and g if g is inf or NaN."""
        return g * (3 * self.w[0] + 4 * self.b) if math.isfinite(g) else 3 * self.w[0] + g * self.b

    def values(self) -> list[Tensor]:
        """The parameters now."""
        return [self.w.detach().clone(), self.b.detach().clone()]


def reference_step(case: Case, scaler: torch.amp.GradScaler, g: float, max_norm: float | None) -> bool:
    """An update by torch's scaler, and whether there was one."""
    before = len(case.optimizer.lrs)
    case.optimizer.zero_grad()
    scaler.scale(case.loss(g)).backward()
    scaler.unscale_(case.optimizer)
    if max_norm is not None:
        torch.nn.utils.clip_grad_norm_(case.optimizer.parameters(), max_norm)
    scaler.step(case.optimizer)
    scaler.update()
    return len(case.optimizer.lrs) > before


def check_steps(
    answer: ModuleType, gs: Sequence[float], scale: float = 8.0, growth_interval: int = 100, max_norm: float | None = None
) -> None:
    """Compares updates and scales with torch's, step by step."""
    ours, theirs = Case(), Case()
    scaler = answer.LossScaler(scale, growth_interval)
    reference = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=growth_interval)
    for number, g in enumerate(gs, 1):
        shown = {"g": list(gs[:number]), "scale": scale, "growth_interval": growth_interval, "max_norm": max_norm}
        ours.optimizer.zero_grad()
        before = float(scaler.scale)
        try:
            scaler.backward(ours.loss(g))
            raw = [ours.w.grad.clone(), ours.b.grad.clone()]
            stepped = scaler.step((w for w in ours.optimizer.parameters()), ours.optimizer, max_norm)
        except NotImplementedError:
            raise
        except Exception as error:
            raise Failure(f"update {number} raises {type(error).__name__}", shown, got=error) from error
        plain = torch.autograd.grad(ours.loss(g), [ours.w, ours.b])
        wanted = [before * grad for grad in plain]
        reason = difference(raw, wanted, 1e-5, 1e-7)
        check_that(not reason, f"gradients after backward {number}: {reason}", wanted, raw, **shown)
        expected = reference_step(theirs, reference, g, max_norm)
        reason = difference(ours.values(), theirs.values(), 1e-5, 1e-6)
        check_that(not reason, f"w and b after update {number}: {reason}", theirs.values(), ours.values(), **shown)
        counts = len(theirs.optimizer.lrs), len(ours.optimizer.lrs)
        check_that(counts[0] == counts[1], f"calls of optimizer.step() after update {number}", *counts, **shown)
        check_that(stepped is expected, f"update {number}: whether there was one", expected, stepped, **shown)
        scales = reference.get_scale(), float(scaler.scale)
        check_that(scales[0] == scales[1], f"the scale after update {number}", *scales, **shown)


@exercise.property("one update")
def one(answer: ModuleType, rng: random.Random) -> None:
    check_steps(answer, [1.0])
    check_steps(answer, [1.0], scale=1024.0)


@exercise.property("several updates, clipped or not")
def clipped(answer: ModuleType, rng: random.Random) -> None:
    check_steps(answer, [1.0, 0.25])
    check_steps(answer, [1.0, 0.125, 0.5], max_norm=1.0)


@exercise.property("inf and NaN")
def overflow(answer: ModuleType, rng: random.Random) -> None:
    check_steps(answer, [math.inf])
    check_steps(answer, [1.0, math.nan, 1.0], max_norm=2.0)
    check_steps(answer, [1.0, math.inf, -math.inf, 0.5])


@exercise.property("growth")
def growth(answer: ModuleType, rng: random.Random) -> None:
    check_steps(answer, [1.0, 1.0, 1.0], growth_interval=1)
    check_steps(answer, [1.0] * 5, growth_interval=2)
    check_steps(answer, [1.0, math.inf, 1.0, 1.0, 1.0], growth_interval=2)


@exercise.property("gradients that float16 cannot hold")
def tiny(answer: ModuleType, rng: random.Random) -> None:
    scale = float(answer.LossScaler().scale)
    check_that(scale == 2.0**16, "the scale at the beginning, by default", 2.0**16, scale)
    for size in (1e-8, 1e3):
        w = torch.tensor([1.0, 2.0], requires_grad=True)
        optimizer, scaler = RecordingSGD([w], lr=1.0), answer.LossScaler()
        for _ in range(20):
            optimizer.zero_grad()
            scaler.backward((w.half() * torch.tensor([3.0, -1.0]).half()).sum().float() * size)
            if scaler.step([w], optimizer):
                break
        seen = optimizer.grads[0][0] if optimizer.grads else None
        expected = size * torch.tensor([3.0, -1.0])
        shown = {"loss": f"{size:g} * (3 w[0] - w[1]), computed in float16", "scale": float(scaler.scale)}
        check_that(seen is not None, "no update in 20 tries: the scale must shrink until the gradients fit", **shown)
        reason = difference(seen, expected, 1e-2, 0.0)
        check_that(not reason, f"the gradient that the optimizer sees: {reason}", expected, seen, **shown)


@exercise.property("the mean of an epoch's losses")
def means(answer: ModuleType, rng: random.Random) -> None:
    check_equal(answer.mean_loss, [torch.tensor(1.0), torch.tensor(2.5)], expected=torch.tensor(1.75))
    got = answer.mean_loss(torch.tensor(value) for value in (1.0, 2.5))
    reason = difference(got, torch.tensor(1.75), 1e-5, 0.0)
    check_that(not reason, f"the mean of losses from a generator, 1 and 2.5: {reason}", torch.tensor(1.75), got)
    for value, dtype, count in [(1.0, torch.bfloat16, 300), (1000.0, torch.float16, 100), (0.5, torch.float16, 1)]:
        losses = [torch.tensor(value, dtype=dtype) for _ in range(count)]
        got = answer.mean_loss(losses)
        reason = difference(got, torch.tensor(value), 1e-5, 0.0)
        shown = {"losses": f"{count} times {value:g} in {str(dtype)[6:]}"}
        check_that(not reason, f"the mean: {reason}", torch.tensor(value), got, **shown)
    low = [torch.tensor(value, dtype=torch.bfloat16, requires_grad=True) for value in (1.0, 1.0078125)]
    got = check_equal(answer.mean_loss, low, expected=torch.tensor(1.00390625), rtol=1e-6)
    check_that(not got.requires_grad, "the mean has a graph: detach it", losses=low)


def scaler_with(fault: str) -> type:
    """LossScaler with one of the known faults."""

    class LossScaler:
        def __init__(self, scale: float = 2.0**16, growth_interval: int = 2000) -> None:
            self.scale, self.interval, self.good = scale, growth_interval, 0

        def backward(self, loss: Tensor) -> None:
            (self.scale * loss).backward()

        def step(self, parameters: Iterable[Tensor], optimizer: Any, max_norm: float | None = None) -> bool:
            having = [w for w in parameters if w.grad is not None]
            if max_norm is not None and fault == "clips_scaled":
                torch.nn.utils.clip_grad_norm_(having, max_norm)
            for w in having:
                w.grad = w.grad if fault == "never_unscaled" else w.grad / self.scale
                w.grad = w.grad.nan_to_num(0, 0, 0) if fault == "zeroed" else w.grad
            finite = all(math.isfinite(w.grad.sum().item()) for w in having) or fault == "steps_on_inf"
            if finite:
                if max_norm is not None and fault != "clips_scaled":
                    norm = torch.cat([w.grad.flatten() for w in having]).norm()
                    for w in having:
                        w.grad = w.grad * min(1.0, max_norm / max(norm.item(), 1e-12))
                for group in optimizer.param_groups:
                    group["lr"] /= self.scale if fault == "lr_scaled" else 1.0
                optimizer.step()
                self.good += 1
            elif fault != "stays":
                self.scale /= 2
                self.good = self.good if fault == "count_kept" else 0
            if finite and self.good == self.interval and fault != "never_grows":
                self.scale, self.good = self.scale * 2, 0
            return finite

    return LossScaler


exercise.wrong("LossScaler", "The gradients are clipped while still multiplied by the scale: unscale first, then clip.")(
    scaler_with("clips_scaled")
)
exercise.wrong("LossScaler", "The gradients are never divided by the scale: every step is so many times too long.")(
    scaler_with("never_unscaled")
)
exercise.wrong(
    "LossScaler", "The learning rate is divided by the scale, too: once the gradients are unscaled, they are the true ones."
)(scaler_with("lr_scaled"))
exercise.wrong("LossScaler", "An update with inf or NaN in a gradient writes NaN into the weights: leave it out.")(
    scaler_with("steps_on_inf")
)
exercise.wrong(
    "LossScaler", "Gradients that overflowed become 0 and the step goes on, with the momentum of before: leave it out."
)(scaler_with("zeroed"))
exercise.wrong("LossScaler", "The scale stays after an overflow: the next gradient overflows as well. Halve it.")(
    scaler_with("stays")
)
exercise.wrong("LossScaler", "An overflow does not end the row: good updates are counted from it anew.")(
    scaler_with("count_kept")
)
exercise.wrong("LossScaler", "The scale never grows: after one bad batch small gradients stay lost.")(
    scaler_with("never_grows")
)
exercise.also_right("LossScaler")(scaler_with(""))


@exercise.wrong(
    "mean_loss", "The sum is kept in the losses' own dtype: in bfloat16 256 + 1 = 256, and float16 ends at 65504."
)
def summed_in_their_dtype(losses: Iterable[Tensor]) -> Tensor:
    losses = [loss.detach() for loss in losses]
    total = torch.zeros((), dtype=losses[0].dtype)
    for loss in losses:
        total = total + loss
    return total.float() / len(losses)


@exercise.wrong("mean_loss", "torch's mean adds in float32, but its result is rounded to the losses' dtype: convert before.")
def rounded_at_the_end(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack([loss.detach() for loss in losses]).mean().float()


@exercise.wrong("mean_loss", "A generator of losses can be read once: after the sum there is nothing left to count.")
def reads_twice(losses: Iterable[Tensor]) -> Tensor:
    return sum(loss.detach().float() for loss in losses) / len(list(losses))


@exercise.also_right("mean_loss")
def stacked(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack([loss.detach() for loss in losses]).mean(dtype=torch.float32)


@exercise.also_right("mean_loss")
def by_numbers(losses: Iterable[Tensor]) -> Tensor:
    values = [loss.item() for loss in losses]
    return torch.tensor(math.fsum(values) / len(values))


@exercise.also_right("LossScaler")
class WithPowers:
    """The scale as a power of two, gradients replaced, the norm by hand."""

    def __init__(self, scale: float = 2.0**16, growth_interval: int = 2000) -> None:
        self.exponent, self.every, self.row = math.log2(scale), growth_interval, 0

    @property
    def scale(self) -> float:
        return 2.0**self.exponent

    def backward(self, loss: Tensor) -> None:
        loss.mul(self.scale).backward()

    @torch.no_grad()
    def step(self, parameters: Iterable[Tensor], optimizer: Any, max_norm: float | None = None) -> bool:
        squares, weights = 0.0, list(parameters)
        for w in weights:
            if w.grad is not None:
                w.grad.mul_(2.0**-self.exponent)
                squares += w.grad.double().square().sum().item()
        if not math.isfinite(squares):
            self.exponent, self.row = self.exponent - 1, 0
            return False
        if max_norm and squares > max_norm**2:
            for w in weights:
                if w.grad is not None:
                    w.grad.mul_(max_norm / squares**0.5)
        optimizer.step()
        self.row = (self.row + 1) % self.every
        self.exponent += self.row == 0
        return True
