"""`--debug gradients`: numerical gradient check of every parameter."""

from __future__ import annotations

import copy
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning_utilities.core.apply_func import apply_to_collection
from rich.table import Table
from torch import Tensor
from torch.nn.utils.parametrize import ParametrizationList

from common.debug.loss import loss_of, repeatable, shapes_in
from common.debug.tables import print_table
from common.errors import UserError

GRADIENT_TOLERANCE = 1e-4
ROUNDING_ERROR = 5e-15  # relative error of a float64 loss: some twenty roundings of 2e-16, gathered over the layers
POINT_STD = 1e-3  # standard deviation of the change of each weight where its own value is at a kink


@dataclass
class GradientCheck:
    """Directional derivatives of the loss for one parameter, in the direction where the two disagree most."""

    parameter: str
    autograd: float
    numerical: float
    relative_error: float


def tiny_double_batch(batch: Any, samples: int = 4) -> Any:
    """At most `samples` of a batch, on the CPU, with float64 for floats; integers (images, labels) stay.

    The most common first dimension of its tensors is taken for the batch size; only these tensors are cut.
    """
    sizes = Counter(shape[0] for shape in shapes_in(batch) if shape).most_common(1)

    def shrink(tensor: Tensor) -> Tensor:
        if tensor.ndim and tensor.shape[0] == sizes[0][0]:
            tensor = tensor[:samples]
        return tensor.cpu().double() if tensor.is_floating_point() else tensor.cpu()

    return apply_to_collection(batch, Tensor, shrink)


@contextmanager
def float64_throughout() -> Iterator[None]:
    """Context in which what `compute_loss` itself creates (noise, masks) is float64 too, without autocast."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_default_dtype(dtype)


def check_gradients(
    module: LightningModule, batch: Any, directions: int = 3, epsilon: float = 1e-6, points: int = 3
) -> list[GradientCheck]:
    """Numerical gradient check: autograd against central differences of `compute_loss`, the worst parameter first.

    Works on a copy in train mode, on the CPU, with at most 4 samples, in float64: in float32 rounding would
    drown the differences. Frozen parameters are left out; one that autograd does not reach has gradient 0. A matrix
    that is initialized with zeros, as where a layer is to add nothing at first, gets random values. Parametrizations are
    in eval mode: the power iteration of a spectral norm would move with the weights, and autograd takes it for constant.

    A step that takes a ReLU or a max-pool across its kink measures a mixture of two gradients. So a direction that
    disagrees is tried with steps of a tenth and a hundredth, which meet fewer kinks. The weights themselves may be at
    kinks, as where a max-pool sees equal pixels: a parameter that disagrees is checked again after a small random
    change of all weights. It passes if at one such point all directions agree, so a wrong gradient passes at none.
    (`torch.autograd.gradcheck` would fail at kinks.)

    Args:
        directions: Random directions per parameter tensor; all its elements move at once.
        epsilon: Standard deviation of the step of each element.
        points: Values of the weights to check at: the module's own, then changed ones.

    Raises:
        UserError: The loss is not finite, or not float64, so something in the network casts to a fixed type.
    """
    twin = copy.deepcopy(module).cpu().double().train()
    weights = {name: weight for name, weight in twin.named_parameters() if weight.requires_grad}
    generator = torch.Generator().manual_seed(0)
    for weight in weights.values():
        if weight.dim() > 1 and not weight.any():  # all layers before it would have gradient 0, be they right or wrong
            weight.data.copy_(torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5)
    for layer in twin.modules():
        if isinstance(layer, ParametrizationList):
            layer.eval()

    checks: dict[str, GradientCheck] = {}
    with float64_throughout():
        batch = shortest_batch(twin, batch)
        for point in range(points):
            pending = [name for name in weights if point == 0 or GRADIENT_TOLERANCE < checks[name].relative_error < math.inf]
            if not pending:
                break
            if point:
                for weight in weights.values():
                    weight.data.add_(torch.randn(weight.shape, generator=generator), alpha=POINT_STD)
            loss, gradients = loss_and_gradients(twin, batch, list(weights.values()))
            for name, gradient in zip(weights, gradients, strict=True):
                if name in pending:
                    check = check_parameter(twin, batch, name, loss, gradient, generator, directions, epsilon)
                    if point == 0 or check.relative_error < checks[name].relative_error:
                        checks[name] = check
    return sorted(checks.values(), key=lambda check: -check.relative_error)


def shortest_batch(module: LightningModule, batch: Any) -> Any:
    """`tiny_double_batch`, or all of `batch` where so few samples have no finite loss.

    So it is with a rollout of as many steps as environments, or one without a whole episode in so few steps.
    Raises UserError if the loss of the whole batch is not finite either.
    """
    tiny = tiny_double_batch(batch)
    with torch.no_grad(), repeatable(module):
        try:
            if loss_of(module, tiny).isfinite():
                return tiny
        except (RuntimeError, IndexError, ValueError, UserError):
            pass  # the whole batch tells whether the module is at fault
        whole = tiny_double_batch(batch, samples=sys.maxsize)
        loss = loss_of(module, whole)
    if not loss.isfinite():
        raise UserError(
            f"--debug gradients: the loss of the first batch is {loss.item()}; look for log(0), 0/0 and an empty mean"
        )
    return whole


def check_parameter(
    module: LightningModule,
    batch: Any,
    name: str,
    loss: float,
    gradient: Tensor | None,
    generator: torch.Generator,
    directions: int,
    epsilon: float,
) -> GradientCheck:
    """Check of one parameter at the weights as they are; stops at the first direction that disagrees."""
    weight = module.get_parameter(name)
    before = weight.detach().clone()
    if gradient is not None and not gradient.isfinite().all():
        return GradientCheck(name, math.nan, math.nan, math.inf)

    def loss_along(direction: Tensor, step: float) -> float:
        weight.data.add_(step * direction)
        with repeatable(module):
            moved = loss_of(module, batch).item()
        weight.data.copy_(before)
        return moved

    worst = GradientCheck(name, 0.0, 0.0, -1.0)
    for _ in range(directions):
        direction = torch.randn(weight.shape, generator=generator)
        autograd = 0.0 if gradient is None else (gradient * direction).sum().item()
        derivative = numerical_derivative(partial(loss_along, direction), loss, autograd, epsilon)
        worst = max(worst, GradientCheck(name, autograd, *derivative), key=lambda check: check.relative_error)
        if worst.relative_error > GRADIENT_TOLERANCE:
            break
    return worst


def loss_and_gradients(module: LightningModule, batch: Any, weights: list[Tensor]) -> tuple[float, Sequence[Tensor | None]]:
    """Loss of `batch`, and its gradients by autograd; None for those of `weights` that autograd does not reach."""
    with repeatable(module):
        loss = loss_of(module, batch)
        if loss.dtype != torch.float64:
            raise UserError(
                f"--debug gradients: the loss of a float64 network is {loss.dtype}; cast to the dtype of "
                "the weights instead of calling .float()"
            )
        if not (loss.requires_grad and weights):
            return loss.item(), [None] * len(weights)
        return loss.item(), torch.autograd.grad(loss, weights, allow_unused=True)


def numerical_derivative(
    loss_at: Callable[[float], float], loss: float, autograd: float, epsilon: float
) -> tuple[float, float]:
    """Central difference that agrees best with `autograd`, and its relative error.

    Args:
        loss_at: Loss after a step along the direction.
        loss: Loss without a step.
        autograd: Directional derivative to compare with.
        epsilon: First and largest step.
    """
    best, best_error = math.nan, math.inf
    for step in (epsilon, epsilon / 10, epsilon / 100):
        numerical = (loss_at(step) - loss_at(-step)) / (2 * step)
        # a derivative below this could differ from 0 by the whole tolerance through rounding alone
        smallest = ROUNDING_ERROR * max(1.0, abs(loss)) / step / GRADIENT_TOLERANCE
        error = abs(autograd - numerical) / max(abs(autograd), abs(numerical), smallest)
        if error < best_error:
            best, best_error = numerical, error
        if best_error <= GRADIENT_TOLERANCE:
            break
    return best, best_error


def print_gradients(checks: list[GradientCheck]) -> None:
    """Prints `checks`, and whether autograd agrees with the loss.

    Raises:
        UserError: No parameter is trainable, a gradient is not finite, or the worst relative error is above 1e-4.
    """
    if not checks:
        raise UserError("--debug gradients: no parameter is trainable; unfreeze a layer")
    table = Table(title="derivative of the loss along a random direction")
    table.add_column("parameter", overflow="fold")
    for column in ("autograd", "numerical", "relative error"):
        table.add_column(column, justify="right")
    for check in checks:
        derivatives = f"{check.autograd:.6e}", f"{check.numerical:.6e}"
        table.add_row(check.parameter, *derivatives, f"{check.relative_error:.1e}")
    print_table(table)
    worst = checks[0]
    if math.isnan(worst.autograd):
        raise UserError(
            f"--debug gradients: the gradient of {worst.parameter} is not finite; look for sqrt(0), log(0) or 0/0 behind it"
        )
    if worst.relative_error > GRADIENT_TOLERANCE:
        raise UserError(
            f"--debug gradients: the gradient of {worst.parameter} is wrong: autograd says "
            f"{worst.autograd:.4g}, the loss changes by {worst.numerical:.4g} (relative error "
            f"{worst.relative_error:.1e}); look for a detached tensor or a hand-written backward behind it"
        )
    print(f"Autograd agrees with the loss; worst is {worst.parameter} ({worst.relative_error:.1e}).")
