"""`--debug overfit|shapes|gradients`: three questions to ask of a network before paying for a long training.

Can it learn one batch by heart? What does each layer do to its input? Is the gradient the loss's slope?
A module must only have `compute_loss(batch) -> Tensor`, the scalar training loss behind its `training_step`.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from common.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer

GRADIENT_TOLERANCE = 1e-4
ROUNDING = 5e-15  # relative error of a float64 loss: some twenty roundings of 2e-16, gathered over the layers


def debug_run(
    switch: str, module: LightningModule, datamodule: LightningDataModule, trainer_options: dict[str, Any]
) -> None:
    """Answers one of the questions (`overfit`, `shapes`, `gradients`) on the terminal.

    Args:
        trainer_options: arguments of Lightning's `Trainer`, such as accelerator, devices and precision. Only
            `overfit` trains; shapes are taken on the device that `module` is on, gradients on the CPU.

    Raises:
        UserError: there is no such switch, or the answer is that something is wrong.
    """
    if switch == "overfit":
        overfit_one_batch(module, datamodule, trainer_options)
    elif switch == "shapes":
        print_shapes(layer_shapes(module, first_batch(datamodule)), module)
    elif switch == "gradients":
        print_gradients(check_gradients(module, first_batch(datamodule)))
    else:
        raise UserError(f"--debug {switch}: choose overfit, shapes or gradients")


def first_batch(datamodule: LightningDataModule) -> Any:
    """The first training batch, as the loader gives it. Raises UserError if it gives none."""
    datamodule.prepare_data()
    datamodule.setup("fit")
    for batch in datamodule.train_dataloader():
        return batch
    raise UserError("the training loader gave no batch; is batch_size larger than the data set?")


def loss_of(module: LightningModule, batch: Any) -> Tensor:
    """The module's scalar training loss of `batch`."""
    return cast(Any, module).compute_loss(batch)  # mypy would take an unknown attribute for a tensor


def map_tensors(function: Callable[[Tensor], Any], nest: Any) -> Any:
    """A nest of tuples, lists, dicts and dataclasses with `function` applied to each tensor in it."""
    from lightning_utilities.core.apply_func import apply_to_collection

    return apply_to_collection(nest, Tensor, function)


def shapes_in(nest: Any) -> list[tuple[int, ...]]:
    """The shape of every tensor in a nest, in order."""
    shapes: list[tuple[int, ...]] = []
    map_tensors(lambda tensor: shapes.append(tuple(tensor.shape)), nest)
    return shapes


@contextmanager
def repeatable(module: nn.Module) -> Iterator[None]:
    """Every block under it draws the same random numbers, and leaves generators and buffers as they were.

    Else dropout would draw a new mask for each evaluation, and running statistics would drift.
    """
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    gpus = {parameter.device for parameter in module.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(0)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in module.named_buffers():
                    if name in before and before[name].shape == buffer.shape:  # else a cache that has grown
                        buffer.copy_(before[name])


@dataclass
class FixedBatch:
    """A loader that yields one batch `steps` times. (Lightning would take a list for several loaders.)"""

    batch: Any
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        return iter([self.batch] * self.steps)


@dataclass
class LossWatch:
    """Records the loss of each training step; ends the training once it is at most `goal` or not finite."""

    goal: float
    steps: int
    losses: list[float] = field(default_factory=list)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, step: int) -> None:
        """Takes the loss from `training_step`'s result or, if there is none, computes it every tenth step."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is None:
            if step % 10 and step < self.steps - 1:
                return
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                loss = loss_of(module, batch)
        self.losses.append(float(loss))
        trainer.should_stop = self.losses[-1] <= self.goal or not math.isfinite(self.losses[-1])
        if step % max(1, self.steps // 10) == 0 or trainer.should_stop:
            print(f"step {step:4d}  loss {self.losses[-1]:.4f}")


def overfit_one_batch(
    module: LightningModule,
    datamodule: LightningDataModule,
    trainer_options: dict[str, Any],
    steps: int = 200,
    tolerance: float = 0.02,
) -> float:
    """Trains on one batch with the module's own optimizers until it is known by heart; returns its last loss.

    Even a network that is too small for its data set can learn a single batch. One that cannot is broken.

    Args:
        trainer_options: arguments of Lightning's `Trainer`, such as accelerator, devices and precision.
        steps: training steps at most; to the module they are the whole training.
        tolerance: how far above the module's `loss_floor` (0 if it has none) the loss may end.

    Raises:
        UserError: the loss did not come down; the text says how far it came and what to check.
    """
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import LambdaCallback

    floor = float(getattr(module, "loss_floor", 0.0))
    watch = LossWatch(floor + tolerance, steps)
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options = trainer_options | dict.fromkeys(quiet, False)
    options |= {"max_epochs": 1, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    options["callbacks"] = [LambdaCallback(on_train_batch_end=watch.on_train_batch_end)]
    before = {name: weight.detach().cpu().clone() for name, weight in module.named_parameters()}
    loader = FixedBatch(first_batch(datamodule), steps)
    # The datamodule itself stays in place, as the module may ask it things through `self.trainer.datamodule`;
    # an attribute of the instance hides the method of its class until it is deleted.
    attributes = vars(datamodule)
    replaced = {name: attributes[name] for name in ["train_dataloader"] if name in attributes}
    attributes["train_dataloader"] = lambda: loader
    try:
        Trainer(**options).fit(module, datamodule=datamodule)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        raise UserError(
            "overfitting one batch failed: no gradient flows back from the loss; look for detach(), "
            "no_grad() or argmax between the weights and compute_loss, and for layers that are all frozen"
        ) from error
    finally:
        del attributes["train_dataloader"]
        attributes.update(replaced)

    if not watch.losses:
        raise UserError("overfitting one batch failed: no training step ran; does a hook skip the epoch?")
    start, end = watch.losses[0], watch.losses[-1]
    if not end <= watch.goal:  # so that NaN counts as a failure
        now = dict(module.named_parameters())
        still = [name for name, weight in before.items() if torch.equal(weight, now[name].detach().cpu())]
        never_moved = f" ({len(still)} weights never moved, {still[0]} first)" if still else ""
        raise UserError(
            f"overfitting one batch failed: the loss started at {start:.4g} and ended at {end:.4g}, "
            f"not within {tolerance:g} of its floor {floor:g}; check whether labels are shuffled against "
            f"inputs, the graph is detached, the learning rate is wrong or layers are frozen{never_moved}"
        )
    print(f"One batch can be learnt by heart: loss {start:.4f} -> {end:.4f} (its floor is {floor:g}).")
    return end


@dataclass
class LayerShape:
    """One call of a layer, with the shape of every tensor that went in and came out.

    `parameters` leaves out weights counted in an earlier row, and `milliseconds` the time of layers called
    from inside this one, so that both columns can be added up.
    """

    name: str
    kind: str
    inputs: list[tuple[int, ...]]
    outputs: list[tuple[int, ...]]
    parameters: int
    milliseconds: float


def layer_shapes(module: LightningModule, batch: Any) -> list[LayerShape]:
    """Runs `compute_loss(batch)` without gradients and lists its layers in the order of their calls.

    A layer is a module without children, or one with weights of its own beside them (as attention has).

    Raises:
        UserError: a layer failed; the text names it and the shapes that it was given.
    """
    rows: list[LayerShape] = []
    running: list[tuple[LayerShape, float]] = []  # layers that have not returned yet, and when they began
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
        row, started = running.pop()
        elapsed = clock() - started
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
    batch = map_tensors(lambda tensor: tensor.to(module.device), batch)
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
    return rows


def shape_text(shapes: list[tuple[int, ...]]) -> str:
    """Shapes as people write them: `4x3x32x32, 4`."""
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes) or "no tensor"


def print_shapes(rows: list[LayerShape], module: LightningModule) -> None:
    """Prints `rows` with their totals, and how many weights of `module` are in no layer among them."""
    from rich.console import Console
    from rich.table import Table

    total = sum(row.parameters for row in rows)
    table = Table(title=f"{type(module).__name__}: one batch, layer by layer", show_footer=True)
    table.add_column("layer", "total", overflow="fold")
    table.add_column("kind", f"{len(rows)} calls")
    table.add_column("input")
    table.add_column("output")
    table.add_column("parameters", f"{total:,}", justify="right")
    table.add_column("ms", f"{sum(row.milliseconds for row in rows):.2f}", justify="right")
    for row in rows:
        shapes = shape_text(row.inputs), shape_text(row.outputs)
        table.add_row(row.name, row.kind, *shapes, f"{row.parameters:,}", f"{row.milliseconds:.2f}")
    Console().print(table)
    print("Weights that are used again count only where they are used first.")
    unused = sum(weight.numel() for weight in module.parameters()) - total
    if unused:
        print(f"{unused:,} more parameters of the module are in no layer that was called itself.")


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
    drown the differences. Frozen parameters are left out; one that autograd does not reach has slope 0.

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
