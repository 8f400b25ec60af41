"""`--debug shapes`: shapes, parameters and time of each layer."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning_utilities.core.apply_func import apply_to_collection
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor, nn

from common.debug.loss import loss_of, repeatable, shapes_in
from common.debug.tables import print_table
from common.errors import UserError


@dataclass
class LayerShape:
    """Call of a layer: the shapes of all tensors that went in and came out, its parameters and its time.

    `parameters` leaves out weights counted in an earlier row, and `milliseconds`, of all `calls` together, the time of
    layers called from inside this one, so that both columns can be added up.
    """

    name: str
    kind: str
    inputs: list[tuple[int, ...]]
    outputs: list[tuple[int, ...]]
    parameters: int
    milliseconds: float
    calls: int = 1


def layer_shapes(module: LightningModule, batch: Any) -> list[LayerShape]:
    """Layers of the module in the order of their calls, from `compute_loss(batch)` without gradients.

    A layer is a module without children, or one with weights of its own beside them (as attention has). Calls with the
    same shapes, as of a recurrent network's steps, are one row.

    Raises:
        UserError: A layer failed; the message names it and the shapes of its inputs.
    """
    rows: list[LayerShape] = []
    running: list[tuple[LayerShape, float]] = []  # layers that have not returned yet, and their start times
    counted: set[nn.Parameter] = set()

    def clock() -> float:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)  # a kernel runs on after the call that launched it returns
        return perf_counter() * 1000

    def begin(name: str, layer: nn.Module, inputs: Any) -> None:
        new = set(layer.parameters(recurse=False)) - counted
        counted.update(new)
        size = sum(weight.numel() for weight in new)
        rows.append(LayerShape(name, type(layer).__name__, shapes_in(inputs), [], size, 0.0))
        running.append((rows[-1], clock()))

    def end(output: Any) -> None:
        row, start = running.pop()
        elapsed = clock() - start
        row.outputs = shapes_in(output)
        row.milliseconds += elapsed
        if running:
            running[-1][0].milliseconds -= elapsed

    hooks = []
    for name, layer in module.named_modules():
        is_layer = not list(layer.children()) or list(layer.parameters(recurse=False))
        if layer is not module and is_layer:
            hooks += [
                layer.register_forward_pre_hook(
                    lambda layer, args, kwargs, name=name: begin(name, layer, (args, kwargs)),
                    with_kwargs=True,
                ),
                layer.register_forward_hook(lambda layer, args, output: end(output)),
            ]
    batch = apply_to_collection(batch, Tensor, lambda tensor: tensor.to(module.device))
    try:
        for _ in range(2):  # the first pass pays for memory and the choice of kernels; the second is kept
            rows.clear()
            counted.clear()
            with torch.no_grad(), repeatable(module):
                loss_of(module, batch)
    except Exception as error:
        if not running:
            raise
        row, reason = running[-1][0], " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{row.name} ({row.kind}) failed on {shape_text(row.inputs)}: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return merge_calls(rows)


def merge_calls(rows: list[LayerShape]) -> list[LayerShape]:
    """Merges the rows of one layer with the same shapes into the first of them."""
    merged: dict[tuple[str, str], LayerShape] = {}
    for row in rows:
        first = merged.setdefault((row.name, f"{row.inputs} {row.outputs}"), row)
        if first is not row:
            first.calls += 1
            first.parameters += row.parameters
            first.milliseconds += row.milliseconds
    return list(merged.values())


def shape_text(shapes: list[tuple[int, ...]]) -> str:
    """Shapes as text: `4x3x32x32, 4`."""
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes) or "no tensor"


def print_shapes(rows: list[LayerShape], module: LightningModule) -> None:
    """Prints `rows` with their totals, and how many parameters of `module` are in no layer among them."""
    total = sum(row.parameters for row in rows)
    title = f"{type(module).__name__}: one batch, layer by layer"
    table = Table(title=title, show_footer=True, box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for column, footer in [("layer", "total"), ("kind", ""), ("input", ""), ("output", "")]:
        table.add_column(column, footer, overflow="fold")
    for column, footer in [
        ("calls", str(sum(row.calls for row in rows))),
        ("parameters", f"{total:,}"),
        ("ms", f"{sum(row.milliseconds for row in rows):.2f}"),
    ]:
        table.add_column(column, footer, justify="right", no_wrap=True)
    for row in rows:
        shapes = shape_text(row.inputs), shape_text(row.outputs)
        table.add_row(row.name, row.kind, *shapes, str(row.calls), f"{row.parameters:,}", f"{row.milliseconds:.2f}")
    print_table(table)
    print("Shared weights count only where they are used first.")
    unused = sum(weight.numel() for weight in module.parameters()) - total
    if unused:
        print(f"{unused:,} more parameters of the module are in no layer that was called itself.")
