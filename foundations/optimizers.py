"""Comparison of a learner's optimizer with torch's, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foundations.comparing import Failure, check_that, difference

Schedule = Callable[[int], float]


def check_optimizer(
    make_ours: Callable[[list[Tensor]], Any],
    make_theirs: Callable[[list[Tensor]], torch.optim.Optimizer],
    steps: int = 4,
    lr: Schedule | None = None,
    skip: int | None = None,
    **shown: Any,
) -> None:
    """Compares the parameters after every step, of the same gradients.

    Args:
        make_ours: Makes the learner's optimizer of parameters.
        make_theirs: Makes torch's.
        steps: Number of steps.
        lr: Learning rate at each step; None to leave it.
        skip: Step at which the second parameter has no gradient.
        shown: Settings, for the failure's lines.
    """
    rng = torch.Generator().manual_seed(0)
    start = [torch.randn(2, generator=rng), torch.randn(1, 2, generator=rng)]
    ours, theirs = ([value.clone().requires_grad_() for value in start] for _ in range(2))
    try:
        mine, reference = make_ours(ours), make_theirs(theirs)
    except NotImplementedError:
        raise
    except Exception as error:
        raise Failure(f"cannot be made: {type(error).__name__}", shown, got=error) from error
    for step in range(steps):
        if lr is not None:
            mine.lr = reference.param_groups[0]["lr"] = lr(step)
        grads = [torch.randn(value.shape, generator=rng) for value in start]
        for parameters in (ours, theirs):
            for i, (parameter, grad) in enumerate(zip(parameters, grads, strict=True)):
                parameter.grad = None if step == skip and i == 1 else grad.clone()
        try:
            mine.step()
        except NotImplementedError:
            raise
        except Exception as error:
            raise Failure(f"step {step + 1} raises {type(error).__name__}", shown, got=error) from error
        reference.step()
        for i, (got, want) in enumerate(zip(ours, theirs, strict=True)):
            reason = difference(got.detach(), want.detach(), 1e-5, 1e-6)
            check_that(not reason, f"parameter {i + 1} after step {step + 1}: {reason}", want, got, **shown)
            check_that(got.requires_grad and got.is_leaf, f"parameter {i + 1} is no leaf any more", **shown)
            left = got.grad
            changed = left is not None and difference(left, grads[i], 1e-6, 1e-7)
            check_that(not changed, f"step {step + 1} changes the gradient of parameter {i + 1}", grads[i], left, **shown)
    mine.zero_grad()
    check_that(all(p.grad is None or not p.grad.any() for p in ours), "zero_grad() leaves gradients", **shown)
