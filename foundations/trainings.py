"""Trainings that are observed: the data of chapter 7's exercises, and what a training does with it."""

from __future__ import annotations

import contextlib
import copy
import math
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks

from foundations.comparing import call, check_that, describe_type
from foundations.faults import Changes, plant


def sorted_clusters(samples: int, seed: int, part: int, classes: int = 4, dim: int = 5) -> tuple[Tensor, Tensor]:
    """Points around a center for each class, in the order of the classes. `seed` moves the centers, `part` the points."""
    centers = 2.4 * torch.linalg.qr(torch.randn(dim, dim, generator=_rng(seed))).Q[:classes]
    y = torch.arange(samples) * classes // samples
    return centers[y] + torch.randn(samples, dim, generator=_rng(seed, part)), y


def spirals(samples: int, seed: int, part: int, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Points (samples, 2) on the arms of a spiral, one for each class, in the order of the classes."""
    rng = _rng(seed, part)
    y = torch.arange(samples) * classes // samples
    radius = 0.1 + 0.9 * torch.rand(samples, generator=rng)
    angle = 2 * math.pi * (0.35 * radius + y / classes) + seed
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], 1) + 0.03 * torch.randn(samples, 2, generator=rng)
    return 2 * x, y


def patients(count: int, seed: int, part: int, each: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Measurements (N, 5, 12), classes and patients: what is peculiar to a patient is as strong as what shows the class.

    Each patient has one class and `each` measurements of five tokens. The sign of the class stands in one token. The
    patients lie in the order of their classes; the last class is the easiest.
    """
    dim, tokens = 12, 5
    signs = torch.linalg.qr(torch.randn(dim, dim, generator=_rng(seed))).Q[:3] * torch.tensor([2.2, 2.2, 4.5])[:, None]
    rng = _rng(seed, part)
    names = torch.arange(count).repeat_interleave(each)
    y = (torch.arange(count) * 3 // count)[names]
    x = 0.5 * torch.randn(len(names), tokens, dim, generator=rng) + torch.randn(count, 1, dim, generator=rng)[names]
    x[torch.arange(len(y)), torch.randint(tokens, (len(y),), generator=rng)] += signs[y]
    return x, y, names


def days(count: int, seed: int, part: int, dim: int = 6) -> tuple[Tensor, Tensor]:
    """Measurements (count, dim) of each day and its yield, which follows from the measurements of the day before."""
    weights = torch.randn(dim, generator=_rng(seed))
    rng = _rng(seed, part)
    season = 1.0 * (2 * math.pi * torch.arange(count) / 40).sin()
    x = torch.randn(count, dim, generator=rng) + season[:, None] * weights.sign()
    effect = 2 * x @ weights / weights.norm() + x[:, 0].tanh()
    first = torch.randn(1, generator=rng)
    return x, 3.0 + torch.cat([first, effect[:-1]]) + 0.2 * torch.randn(count, generator=rng)


def _rng(seed: int, part: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * seed + part)


def load_training(exercise: str, changes: Changes = ()) -> types.ModuleType:
    """Our solution of an exercise, with parts of its text replaced, as a module."""
    module = types.ModuleType(exercise)
    exec(compile(plant(exercise, changes), f"{exercise} with a fault", "exec"), vars(module))
    return module


@dataclass
class Step:
    """Step of an optimizer.

    Args:
        rows: Rows of the training's data in its batch; -1 for what is no row of it.
        similarity: Cosine between the gradients that the step uses and those of the last backward pass alone.
        scale: Ratio of their norms: below 1 where the gradients are clipped.
        norm: Norm of all gradients together, as `GradientMonitor` logs it.
        lr: Learning rate.
        weight_decay: The optimizer's.
        training: Whether all of the model was in training mode.
        cleared: Whether the last backward pass gave gradients, and none is left.
    """

    rows: Tensor
    similarity: float
    scale: float
    norm: float
    lr: float
    weight_decay: float
    training: bool
    cleared: bool = False


@dataclass
class Run:
    """What a training did.

    Args:
        model: Model that it returned.
        history: Curves that it returned.
        steps: Steps of its optimizer.
        evaluations: Rows of each forward pass without gradients, and whether a part of the model was in training mode.
        optimized: Ids of the parameters that the optimizer has.
        first_norms: Norm of each parameter's gradient in the first step.
        clips: Calls of torch's functions that clip gradients.
        beginning: Copy of the model before the first step.
        optimizer: Class and defaults of the optimizer.
    """

    model: Any = None
    history: dict[str, list[float]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    evaluations: list[tuple[Tensor, bool]] = field(default_factory=list)
    optimized: set[int] = field(default_factory=set)
    first_norms: dict[str, float] = field(default_factory=dict)
    clips: int = 0
    beginning: Any = None
    optimizer: Any = None

    def left_out(self) -> list[str]:
        """Names of the model's parameters that the optimizer does not have, or that require no gradient."""
        named = self.model.named_parameters()
        return [name for name, value in named if id(value) not in self.optimized or not value.requires_grad]

    def last_losses(self, count: int) -> float:
        """Mean of the last losses of the training."""
        return sum(self.history["train/loss"][-count:]) / count


def observe(answer: Any, *args: Any, rows_of: Tensor) -> Run:
    """Runs a training, and records what it does, by hooks of torch that see every module and optimizer.

    The same training of the same arguments is run once.

    Args:
        answer: Module whose `train` returns a model and a dict of curves.
        args: Its arguments; the last is the seed.
        rows_of: Data (N, …) whose rows are looked for in the batches.

    Raises:
        Failure: It raises, changes one of its arguments, returns something else, or clears gradients before it steps.
    """
    runs = vars(answer).setdefault("_observed_runs", {})
    key = (answer.train, *(tuple(arg.shape) if isinstance(arg, Tensor) else arg for arg in args))
    if key not in runs:
        with _Recorder(rows_of).recording() as recorder:
            result = call(answer.train, *args)
        is_pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], nn.Module)
        check_that(is_pair and isinstance(result[1], dict), "train returns", "a module and a dict", describe_type(result))
        recorder.run.model, recorder.run.history = result
        runs[key] = recorder.run
    steps = runs[key].steps
    check_that(not steps or not all(step.cleared for step in steps), "the gradients are cleared between backward and step")
    return runs[key]


class _Recorder:
    """Hooks that fill a Run."""

    def __init__(self, rows_of: Tensor) -> None:
        self.run, self.data, self.depth = Run(), rows_of.flatten(1), 0
        self.rows, self.training = torch.empty(0, dtype=torch.int64), True
        self.names: dict[int, str] = {}
        self.module: nn.Module | None = None
        self.last: dict[int, Tensor] = {}  # id of a parameter -> its gradient from the last backward pass alone

    @contextlib.contextmanager
    def recording(self) -> Iterator[_Recorder]:
        """Context in which the hooks are registered."""
        handles = [
            module_hooks.register_module_forward_pre_hook(self.before_forward),
            module_hooks.register_module_forward_hook(self.after_forward, always_call=True),
            optimizer_hooks.register_optimizer_step_pre_hook(self.before_step),
        ]
        clip = {name: getattr(nn.utils, name) for name in ("clip_grad_norm_", "clip_grad_value_")}
        for name, function in clip.items():
            setattr(nn.utils, name, self.counted(function))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
            for name, function in clip.items():
                setattr(nn.utils, name, function)

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose calls are counted."""

        def count(*args: Any, **kwargs: Any) -> Any:
            self.run.clips += 1
            return function(*args, **kwargs)

        return count

    def before_forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Records the rows of a model's batch; modules inside of it and loss functions are left out."""
        self.depth += 1
        batch = inputs[0] if inputs and isinstance(inputs[0], Tensor) else torch.empty(0)
        if self.depth > 1 or batch.dim() < 2 or batch.flatten(1).shape[1] != self.data.shape[1]:
            return
        equal = (batch.detach().flatten(1)[:, None] == self.data).all(2)
        rows = torch.where(equal.any(1), equal.int().argmax(1), -1)
        modes = [part.training for part in module.modules()]
        if not torch.is_grad_enabled():
            self.run.evaluations.append((rows, any(modes)))
            return
        self.rows, self.training, self.module = rows, all(modes), module
        for name, parameter in module.named_parameters():
            is_lazy = isinstance(parameter, nn.parameter.UninitializedParameter)
            if parameter.requires_grad and not is_lazy and id(parameter) not in self.names:
                self.names[id(parameter)] = name
                parameter.register_hook(lambda grad, key=id(parameter): self.last.update({key: grad.detach().clone()}))

    def after_forward(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Keeps count of the modules that are running."""
        self.depth -= 1

    def before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Records a step: its gradients against those of the last backward pass."""
        group = optimizer.param_groups[0]
        everything = [p for group in optimizer.param_groups for p in group["params"]]
        parameters = [p for p in everything if p.grad is not None]
        self.run.optimized |= {id(p) for p in everything}
        arrived = any(bool(self.last[id(p)].any()) for p in everything if id(p) in self.last)
        cleared = arrived and not any(bool(p.grad.any()) for p in parameters if p.grad is not None)
        lr, decay = float(group["lr"]), float(group.get("weight_decay", 0.0))
        if not parameters:
            self.run.steps += [Step(self.rows, 0.0, 0.0, 0.0, lr, decay, self.training, cleared)] if cleared else []
            return
        if self.run.beginning is None:
            self.run.beginning, self.run.optimizer = copy.deepcopy(self.module), (type(optimizer), dict(optimizer.defaults))
            self.run.first_norms = {
                self.names.get(id(p), ""): p.grad.norm().item() for p in parameters if p.grad is not None
            }
        used = torch.cat([p.grad.detach().flatten() for p in parameters])
        fresh = torch.cat([self.last.get(id(p), torch.zeros_like(p)).flatten() for p in parameters])
        norm, fresh_norm = used.norm().item(), max(fresh.norm().item(), 1e-30)
        similarity = torch.nn.functional.cosine_similarity(used, fresh, dim=0).item()
        scale = norm / fresh_norm
        self.run.steps.append(Step(self.rows, similarity, scale, norm, lr, decay, self.training, cleared))


class Seen:
    """What was seen in a run, in words that may hold numbers: two runs with the same mistake count as equal."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def check_curve(run: Run, name: str, last: float) -> None:
    """Checks that the curve `name` ends at `last`, what the model gives that the training returned."""
    check_that(bool(run.history.get(name)), f"the curves have no {name}", name, sorted(run.history))
    got = float(run.history[name][-1])
    same = math.isclose(got, last, rel_tol=1e-3, abs_tol=1e-4) or (not math.isfinite(got) and not math.isfinite(last))
    check_that(same, f"the last entry of {name}, and the same of the model", Seen(f"{last:.4g}"), Seen(f"{got:.4g}"))


def unshuffled(run: Run, y: Tensor) -> bool:
    """Whether neighbors in the order of the training have the same class far more often than by chance."""
    rows = torch.cat([step.rows for step in run.steps])
    complete = all(len(y[step.rows].unique()) == len(y.unique()) for step in run.steps)
    order = y[rows[rows >= 0]]
    return not complete and (order[1:] == order[:-1]).float().mean().item() > 0.8


def clipped(run: Run) -> bool:
    """Whether gradients were made shorter."""
    return run.clips > 0 or any(step.scale < 0.99 < step.similarity for step in run.steps)


def as_probabilities(output: Tensor) -> Tensor:
    """Probabilities of each row: `output` itself if its rows are some, else their softmax."""
    is_probability = bool((output >= 0).all()) and torch.allclose(output.sum(1), torch.ones(len(output)), atol=1e-3)
    return output if is_probability else output.softmax(1)


def check_seed(answer: Any, *data: Any) -> None:
    """Checks that the seed decides about all random numbers: the first loss and the last are the same again, or others."""
    runs = [call(answer.train, *data, seed)[1]["train/loss"] for seed in (1, 1, 2)]
    first, again, other = ([losses[0], losses[-1]] for losses in runs)
    check_that(first == again, "first and last loss of two runs with the same seed", Seen(str(first)), Seen(str(again)))
    check_that(first != other, "two seeds give the same run")
