"""`--debug gradients`: is the gradient the slope of the loss?"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.debug.batches import loss_of, map_tensors, repeatable, shapes_in
from common.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

GRADIENT_TOLERANCE = 1e-4
ROUNDING = 5e-15  # relative error of a float64 loss: some twenty roundings of 2e-16, gathered over the layers


@dataclass
class GradientCheck:
    """The slope of the loss as one parameter moves, where the two ways to compute it disagree most."""

    parameter: str
    autograd: float
    numerical: float
    relative_error: float


def tiny_double_batch(batch: Any, samples: int = 4) -> Any:
    """At most `samples` of a batch, on the CPU, with float64 for floats; integers (pictures, labels) stay.

    The commonest first dimension among its tensors is taken for the batch's size; only they are cut.
    """
    sizes = Counter(shape[0] for shape in shapes_in(batch) if shape).most_common(1)

    def shrink(tensor: Tensor) -> Tensor:
        if tensor.ndim and tensor.shape[0] == sizes[0][0]:
            tensor = tensor[:samples]
        return tensor.cpu().double() if tensor.is_floating_point() else tensor.cpu()

    return map_tensors(shrink, batch)


@contextmanager
def float64_throughout() -> Iterator[None]:
    """What `compute_loss` itself creates (noise, masks) is float64 too, and no autocast rounds anything."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_default_dtype(usual)


def check_gradients(module: LightningModule, batch: Any, directions: int = 3, epsilon: float = 1e-6) -> list[GradientCheck]:
    """Compares autograd with central differences of `compute_loss`; the worst parameter tensor comes first.

    Works on a copy in train mode, on the CPU, with at most 4 samples, in float64: in float32 rounding would
    drown the differences. Frozen parameters are left out; one that autograd does not reach has slope 0. A matrix
    that begins as zero, as where a layer is to add nothing at first, is given random numbers.

    A step that takes a ReLU or a max-pool across its kink measures a mixture of two slopes. So a direction
    that disagrees is tried with each half of the step alone, and with steps of a tenth and a hundredth, which
    meet fewer kinks. None of this makes a wrong gradient look right.

    Args:
        directions: random directions for each parameter tensor; all its numbers move at once.
        epsilon: standard deviation of what is added to each number.

    Raises:
        UserError: the loss is not float64, so something in the network casts to a fixed type.
    """
    twin = copy.deepcopy(module).cpu().double().train()
    batch = tiny_double_batch(batch)
    weights = {name: weight for name, weight in twin.named_parameters() if weight.requires_grad}
    generator = torch.Generator().manual_seed(0)
    for weight in weights.values():
        if weight.dim() > 1 and not weight.any():  # whatever lies before it would have slope 0, be it right or wrong
            weight.data.copy_(torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5)

    def loss_at(weight: Tensor, value: Tensor) -> float:
        before = weight.detach().clone()
        weight.data.copy_(value)
        with repeatable(twin):
            loss = loss_of(twin, batch).item()
        weight.data.copy_(before)
        return loss

    def compare(name: str, weight: Tensor, gradient: Tensor | None, here: float) -> GradientCheck:
        direction = torch.randn(weight.shape, generator=generator)
        autograd = 0.0 if gradient is None else (gradient * direction).sum().item()
        best = GradientCheck(name, autograd, math.nan, math.inf)
        for step in (epsilon, epsilon / 10, epsilon / 100):
            up = loss_at(weight, weight.detach() + step * direction)
            down = loss_at(weight, weight.detach() - step * direction)
            # A slope below this could differ from 0 by the whole tolerance through rounding alone.
            smallest = ROUNDING * max(1.0, abs(here)) / step / GRADIENT_TOLERANCE
            for slope in ((up - down) / (2 * step), (up - here) / step, (here - down) / step):
                error = abs(autograd - slope) / max(abs(autograd), abs(slope), smallest)
                if error < best.relative_error:
                    best = GradientCheck(name, autograd, slope, error)
                if best.relative_error <= GRADIENT_TOLERANCE:
                    return best
        return best

    with float64_throughout():
        with repeatable(twin):
            loss = loss_of(twin, batch)
            if loss.dtype != torch.float64:
                raise UserError(
                    f"--debug gradients: the loss of a float64 network is {loss.dtype}; cast to the dtype of "
                    "the weights instead of calling .float()"
                )
            gradients: tuple[Tensor | None, ...] = (None,) * len(weights)
            if loss.requires_grad and weights:
                gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        checks = []
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            tries = [compare(name, weight, gradient, loss.item()) for _ in range(directions)]
            checks.append(max(tries, key=lambda check: check.relative_error))
    return sorted(checks, key=lambda check: -check.relative_error)


def print_gradients(checks: list[GradientCheck]) -> None:
    """Prints `checks`, and whether autograd can be trusted.

    Raises:
        UserError: no parameter is trainable, or the worst relative error is above 1e-4.
    """
    from rich.console import Console
    from rich.table import Table

    if not checks:
        raise UserError("--debug gradients: no parameter is trainable; unfreeze a layer")
    table = Table(title="slope of the loss along a random direction")
    table.add_column("parameter", overflow="fold")
    for column in ("autograd", "numerical", "relative error"):
        table.add_column(column, justify="right")
    for check in checks:
        slopes = f"{check.autograd:.6e}", f"{check.numerical:.6e}"
        table.add_row(check.parameter, *slopes, f"{check.relative_error:.1e}")
    Console().print(table)
    worst = checks[0]
    if worst.relative_error > GRADIENT_TOLERANCE:
        raise UserError(
            f"--debug gradients: the gradient of {worst.parameter} is wrong: autograd says "
            f"{worst.autograd:.4g}, the loss changes by {worst.numerical:.4g} (relative error "
            f"{worst.relative_error:.1e}); look for a detached tensor or a hand-written backward behind it"
        )
    print(f"Autograd agrees with the loss; worst is {worst.parameter} ({worst.relative_error:.1e}).")
