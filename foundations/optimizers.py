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


class RecordingSGD:
    """SGD with momentum that records what each step was given.

    It has an optimizer's interface and not torch's class, whose first use imports for two seconds.

    Attributes:
        param_groups: Groups with "params" and "lr", as torch's optimizers have them.
        lrs: Learning rates of the groups at each step.
        grads: Gradients at each step, of all parameters in order; None where there was none.
    """

    def __init__(self, parameters: list[Tensor] | list[dict[str, Any]], lr: float, momentum: float = 0.0) -> None:
        groups = [group if isinstance(group, dict) else {"params": [group]} for group in parameters]
        self.param_groups: list[dict[str, Any]] = [{"lr": lr, **group} for group in groups]
        self.momentum = momentum
        self.buffers = [torch.zeros_like(w) for w in self.parameters()]
        self.lrs: list[list[float]] = []
        self.grads: list[list[Tensor | None]] = []

    def parameters(self) -> list[Tensor]:
        """Parameters of all groups."""
        return [w for group in self.param_groups for w in group["params"]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Sets every gradient to None."""
        for w in self.parameters():
            w.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Updates every parameter that has a gradient."""
        self.lrs.append([float(group["lr"]) for group in self.param_groups])
        self.grads.append([None if w.grad is None else w.grad.clone() for w in self.parameters()])
        buffers = iter(self.buffers)
        for group in self.param_groups:
            for w, buffer in zip(group["params"], buffers, strict=False):
                if w.grad is not None:
                    w -= group["lr"] * buffer.mul_(self.momentum).add_(w.grad)

    def state_dict(self) -> dict[str, Any]:
        """The groups' entries and the buffers."""
        groups = [{key: value for key, value in group.items() if key != "params"} for group in self.param_groups]
        return {"groups": groups, "buffers": [buffer.clone() for buffer in self.buffers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self.buffers = [buffer.clone() for buffer in state["buffers"]]
        for group, saved in zip(self.param_groups, state["groups"], strict=True):
            group.update(saved)
