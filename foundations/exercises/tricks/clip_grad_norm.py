"""Exercise clip_grad_norm: the length of the whole gradient, before and after clipping."""

import contextlib
import math
import random
import statistics
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foundations.comparing import Failure, check_equal, check_that, difference
from foundations.exercise import Exercise
from foundations.optimizers import RecordingSGD

exercise = Exercise(
    title="Gradient clipping: one limit for the length of the whole gradient",
    level="warm-up",
    minutes=15,
    link="common.nn.optim:clip_gradients",
    why="`--trainer.gradient_clip_val` of every capstone",
    hints=(
        "All gradients together are one long vector: one norm, and one factor for all of them.",
        "norm = sqrt(sum of all squared entries); factor = min(1, max_norm / (norm + 1e-6)), between backward and step.",
        "grads = [w.grad for w in parameters if w.grad is not None]; total = torch.stack([g.norm() for g in grads]).norm()",
    ),
    source="torch.nn.utils.clip_grad:_clip_grads_with_norm_",
    look_at="Why does it multiply by 1 where nothing is to be clipped? And what do the gradients become if the norm is NaN?",
    barred=(
        "torch.nn.utils.clip_grad.clip_grad_norm_",
        "torch.nn.utils.clip_grad.clip_grad_norm",
        "torch.nn.utils.clip_grad._get_total_norm",
        "torch.nn.utils.clip_grad._clip_grads_with_norm_",
    ),
)

Grads = list[Tensor | None]


def with_grads(grads: Grads) -> list[Tensor]:
    """Parameters that hold copies of the gradients."""
    parameters = []
    for grad in grads:
        parameter = torch.ones(2 if grad is None else grad.shape).requires_grad_()
        parameter.grad = None if grad is None else grad.clone()
        parameters.append(parameter)
    return parameters


def check_clip(answer: ModuleType, grads: Grads, max_norm: float, lazy: bool = False) -> None:
    """Compares the norm and the gradients afterwards with torch's; `lazy` hands the parameters over as a generator."""
    ours, theirs = with_grads(grads), with_grads(grads)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    shown = {"gradients": grads, "max_norm": max_norm, **({"parameters": "a generator"} if lazy else {})}
    try:
        norm = answer.clip_grad_norm((w for w in ours) if lazy else ours, max_norm)
    except NotImplementedError:
        raise
    except Exception as error:
        raise Failure(f"raises {type(error).__name__}", shown, got=error) from error
    reason = difference(norm, expected, 1e-5, 1e-6)
    check_that(not reason, f"the norm: {reason}", expected, norm, **shown)
    check_that(not norm.requires_grad, "the norm has a graph", **shown)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True), 1):
        if b.grad is None:
            check_that(a.grad is None, f"parameter {i} has no gradient, and gets one", None, a.grad, **shown)
        else:
            reason = difference(a.grad, b.grad, 1e-5, 1e-7)
            check_that(not reason, f"gradient {i} afterwards: {reason}", b.grad, a.grad, **shown)
        check_that(torch.equal(a, b), f"parameter {i} itself was changed", b, a, **shown)


@exercise.property("one gradient")
def one(answer: ModuleType, rng: random.Random) -> None:
    check_clip(answer, [torch.tensor([3.0, -4.0])], 1.0)
    check_clip(answer, [torch.tensor([3.0, -4.0])], 5.5)
    check_clip(answer, [torch.zeros(2)], 1.0)
    (tiny,) = with_grads([torch.tensor([6e-7, -8e-7])])
    answer.clip_grad_norm([tiny], 1e-7)
    norm = tiny.grad.norm()
    check_that(norm < 1.01e-7, "the total norm afterwards", "at most 1e-7", norm, gradient=[6e-7, -8e-7], max_norm=1e-7)


@exercise.property("several gradients, one norm")
def several(answer: ModuleType, rng: random.Random) -> None:
    check_clip(answer, [torch.tensor([3.0, 0.0]), torch.tensor([4.0])], 1.0)
    for max_norm in (0.1, 2.0, 100.0):
        check_clip(answer, [torch.randn(2, 3), torch.randn(()), torch.randn(4, 1).expand(4, 2).contiguous().t()], max_norm)


@exercise.property("parameters without a gradient")
def missing(answer: ModuleType, rng: random.Random) -> None:
    check_clip(answer, [torch.tensor([3.0, 4.0]), None], 1.0)
    check_clip(answer, [None], 1.0)
    check_clip(answer, [], 1.0)


@exercise.property("model.parameters() is a generator")
def generators(answer: ModuleType, rng: random.Random) -> None:
    check_clip(answer, [torch.tensor([3.0, 4.0]), torch.tensor([12.0])], 1.0, lazy=True)


@exercise.property("a norm that is not finite is returned")
def not_finite(answer: ModuleType, rng: random.Random) -> None:
    for bad in (math.inf, math.nan):
        parameters = with_grads([torch.tensor([1.0, bad]), torch.tensor([2.0])])
        norm = answer.clip_grad_norm(parameters, 1.0)
        same = isinstance(norm, Tensor) and norm.isnan() == math.isnan(bad) and not norm.isfinite()
        check_that(same, "the norm of a gradient that is not finite", bad, norm, gradients=[[1.0, bad], [2.0]])


class Case:
    """Two parameters and an optimizer with momentum."""

    def __init__(self) -> None:
        self.w, self.b = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor(0.5, requires_grad=True)
        self.optimizer = RecordingSGD([self.w, self.b], lr=0.1, momentum=0.5)

    def loss(self, scale: float) -> Tensor:
        """A loss with the gradient scale * ([3, 0], 4)."""
        return scale * (3 * self.w[0] + 4 * self.b)

    def values(self) -> list[Tensor]:
        """The parameters now."""
        return [self.w.detach().clone(), self.b.detach().clone()]


def check_steps(answer: ModuleType, scales: Sequence[float], max_norm: float = 1.0) -> None:
    """Compares the parameters after each step with a reference of the same gradients."""
    ours, theirs = Case(), Case()
    for number, scale in enumerate(scales, 1):
        shown = {"gradient": [[3 * scale, 0.0], 4 * scale], "max_norm": max_norm, "step": number}
        norm = answer.clipped_step(ours.loss(scale), (w for w in (ours.w, ours.b)), ours.optimizer, max_norm)
        theirs.optimizer.zero_grad()
        theirs.loss(scale).backward()
        expected = torch.nn.utils.clip_grad_norm_([theirs.w, theirs.b], max_norm)
        if expected.isfinite():
            theirs.optimizer.step()
        reason = difference(ours.values(), theirs.values(), 1e-5, 1e-6)
        check_that(not reason, f"w and b after the step: {reason}", theirs.values(), ours.values(), **shown)
        reason = difference(norm, expected, 1e-5, 1e-6)
        check_that(not reason, f"the norm: {reason}", expected, norm, **shown)
    counts = len(theirs.optimizer.lrs), len(ours.optimizer.lrs)
    check_that(counts[0] == counts[1], "number of calls of optimizer.step()", *counts, factors=scales)


@exercise.property("a clipped step")
def steps(answer: ModuleType, rng: random.Random) -> None:
    check_steps(answer, [2.0])
    check_steps(answer, [2.0, 0.1, 3.0])


@exercise.property("a step without a finite norm is left out")
def left_out(answer: ModuleType, rng: random.Random) -> None:
    check_steps(answer, [2.0, math.nan, 1.0])
    check_steps(answer, [1.0, math.inf, 2.0])


@exercise.property("exploding or not")
def exploding(answer: ModuleType, rng: random.Random) -> None:
    cases = [
        ([1.0], False),
        ([1.0, 9.9], False),
        ([1.0, 10.1], True),
        ([1.0, 10.0], False),
        ([1.0, 2.0, 1.5, 40.0], True),
        ([40.0, 1.0, 1.5], False),
        ([1.0, 1.0, 900.0, 1.0, 50.0], True),
        ([1.0, 1.0, 900.0, 1.0, 5.0], False),
        ([0.1, 0.1, 0.1, 1.0, 1.0, 1.0, 1.0, 8.0], False),
        ([0.1, 0.1, 0.1, 1.0, 1.0, 1.0, 1.0, 12.0], True),
        ([math.nan], True),
        ([1.0, math.nan], True),
        ([1.0, math.inf], True),
    ]
    for norms, expected in cases:
        check_equal(answer.is_exploding, norms, expected=expected)
    check_equal(answer.is_exploding, [1.0, 5.0], 3.0, expected=True)
    check_equal(answer.is_exploding, [1.0, 2.0], factor=3.0, expected=False)


def clip(fault: str) -> Any:
    """Clipping with one of the known faults."""

    def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
        grads = [w.grad for w in parameters if fault == "none" or w.grad is not None]
        again = [w.grad for w in parameters if w.grad is not None] if fault == "generator" else grads
        norms = [torch.linalg.vector_norm(grad) for grad in grads]
        if not norms:
            return torch.zeros(())
        total = torch.stack(norms).norm()
        if fault == "sum":
            total = torch.stack(norms).sum()
        if fault == "largest":
            total = torch.stack(norms).max()
        for grad, norm in zip(again, norms, strict=False):
            size = norm if fault == "each" else total
            grad *= max_norm / (size + 1e-6) if fault == "stretched" else (max_norm / (size + 1e-6)).clamp(max=1)
        return total.clamp(max=max_norm) if fault == "clipped" else total

    return clip_grad_norm


exercise.wrong("clip_grad_norm", "Each gradient is clipped on its own: that turns the whole gradient another way.")(
    clip("each")
)
exercise.wrong(
    "clip_grad_norm", "The norm is taken after clipping, or limited: return what it was before, or nobody sees it explode."
)(clip("clipped"))
exercise.wrong("clip_grad_norm", "A parameter that took no part in the loss has the gradient None: leave it out.")(
    clip("none")
)
exercise.wrong("clip_grad_norm", "A gradient shorter than max_norm is stretched to it: the factor is at most 1.")(
    clip("stretched")
)
exercise.wrong(
    "clip_grad_norm",
    "The norms are added: norms are lengths, and the length of the whole is the root of their squares' sum.",
)(clip("sum"))
exercise.wrong(
    "clip_grad_norm", "The largest of the norms is compared with the limit: all gradients together are one vector."
)(clip("largest"))
exercise.wrong(
    "clip_grad_norm",
    "model.parameters() is a generator: the first loop uses it up, and the second has nothing to clip. Make a list first.",
)(clip("generator"))


def step_with(fault: str) -> Any:
    """A clipped step with one of the known faults."""

    def clipped_step(loss: Tensor, parameters: Iterable[Tensor], optimizer: Any, max_norm: float) -> Tensor:
        if fault != "kept":
            optimizer.zero_grad()
        loss.backward()
        if fault == "after":
            optimizer.step()
        norm = clip("")(parameters, max_norm)
        if fault != "after" and (norm.isfinite() or fault == "nan"):
            optimizer.step()
        return norm

    return clipped_step


exercise.wrong("clipped_step", "The gradient is clipped after the step: it is too late then. backward, clip, step.")(
    step_with("after")
)
exercise.wrong("clipped_step", "A norm of NaN or inf: the step writes NaN into every weight. Leave it out.")(
    step_with("nan")
)
exercise.wrong("clipped_step", "Gradients of the step before are still there, and add up: zero_grad() before backward().")(
    step_with("kept")
)


@exercise.wrong("is_exploding", "Every comparison with NaN is False: ask for it first, with isfinite.")
def nan_compares(norms: Sequence[float], factor: float = 10.0) -> bool:
    return len(norms) > 1 and norms[-1] > factor * statistics.median(norms[:-1])


@exercise.wrong("is_exploding", "The mean of the norms before follows a single spike: the median does not.")
def mean_of_before(norms: Sequence[float], factor: float = 10.0) -> bool:
    if not math.isfinite(norms[-1]):
        return True
    return len(norms) > 1 and norms[-1] > factor * statistics.mean(norms[:-1])


@exercise.also_right("clip_grad_norm")
def one_vector(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    having = [w for w in parameters if w.grad is not None]
    if not having:
        return torch.zeros(())
    whole = torch.cat([w.grad.reshape(-1) for w in having])
    size = torch.sqrt((whole * whole).sum())
    if size > max_norm:
        for w in having:
            w.grad = w.grad * (max_norm / size)
    return size


@exercise.also_right("clip_grad_norm")
def entry_by_entry(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    total, grads = 0.0, []
    for w in parameters:
        if w.grad is not None:
            grads.append(w.grad)
            total = total + torch.einsum("i,i->", w.grad.flatten(), w.grad.flatten())
    total = torch.as_tensor(total) ** 0.5
    for grad in grads:
        with contextlib.suppress(ZeroDivisionError):
            grad.mul_(min(1.0, max_norm / total.item()))
    return total


@exercise.also_right("clipped_step")
def by_autograd(loss: Tensor, parameters: Iterable[Tensor], optimizer: Any, max_norm: float) -> Tensor:
    weights = list(parameters)
    for w, grad in zip(weights, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
        w.grad = grad
    norm = one_vector(weights, max_norm)
    if math.isfinite(norm.item()):
        optimizer.step()
    return norm


@exercise.also_right("is_exploding")
def by_sorting(norms: Sequence[float], factor: float = 10.0) -> bool:
    before = sorted(norms[:-1])
    if norms[-1] != norms[-1] or norms[-1] in (math.inf, -math.inf):
        return True
    return len(before) > 0 and norms[-1] > factor * before[len(before) // 2]
